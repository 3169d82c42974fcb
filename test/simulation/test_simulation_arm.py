"""The simulated arm: its joints are the YAML's, it is deterministic, tracks its commands, and can be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from groot_ros.embodiment.load import load_embodiment
from groot_ros.simulation import gl
from groot_ros.simulation.arm import CAMERAS, MODEL_FILE, NOISE_MAX, ArmView, SensorNoise, SimArm
from groot_ros.simulation.scene import HOME_RAD, HOME_SPREAD_RAD, JOINTS, WIDE


@pytest.fixture
def arm() -> Iterator[SimArm]:
    made = SimArm(0)
    yield made
    made.close()


def is_red(rgb: np.ndarray) -> np.ndarray:
    r, g, b = (rgb[..., i].astype(int) for i in range(3))
    return (r > 80) & (r > 3 * g) & (r > 3 * b)


def is_blue(rgb: np.ndarray) -> np.ndarray:
    r, g, b = (rgb[..., i].astype(int) for i in range(3))
    return (b > 80) & (b > 3 * r) & (2 * b > 3 * g)


@pytest.mark.parametrize("name", ["sim_arm", "so101"])
def test_joints_and_limits_are_the_robots(name: str, arm: SimArm) -> None:
    embodiment = load_embodiment(name)
    assert sorted(embodiment.action_joints) == sorted(JOINTS)
    for joint, limit in embodiment.limits.items():
        assert arm.model.joint(joint).range.tolist() == pytest.approx([limit.lower, limit.upper], abs=1e-4)
        assert arm.model.actuator(joint).ctrlrange.tolist() == pytest.approx([limit.lower, limit.upper], abs=1e-4)


def test_model_is_small_and_without_meshes() -> None:
    text = MODEL_FILE.read_text()
    assert len(text) < 10_000
    assert "<mesh" not in text and "file=" not in text


def test_same_seed_same_numbers_and_pictures() -> None:
    runs = []
    for seed in (3, 3, 4):
        arm = SimArm(seed, 64, 48)
        arm.set_targets({"shoulder_pan": 0.4, "gripper": 1.0})
        arm.step(0.3)
        runs.append((arm.snapshot(), [arm.render(camera) for camera in CAMERAS], arm.velocities()))
        arm.close()
    same, again, other = runs
    np.testing.assert_array_equal(same[0], again[0])
    np.testing.assert_array_equal(same[1], again[1])
    assert same[2] == again[2]
    assert not np.array_equal(same[0], other[0])


def test_reset_is_a_new_scene_of_its_seed(arm: SimArm) -> None:
    arm.step(0.5)
    arm.reset(7)
    assert arm.time_s == 0.0
    np.testing.assert_array_equal(arm.snapshot(), SimArm(7).snapshot())


@pytest.mark.parametrize("seed", range(20))
def test_scenes_are_at_rest_and_in_reach(seed: int) -> None:
    arm = SimArm(seed)
    assert np.abs(np.array(list(arm.positions().values())) - HOME_RAD).max() <= HOME_SPREAD_RAD.max()
    start = arm.cube_positions()
    a, b = start.values()
    assert np.hypot(*(a - b)[:2]) >= WIDE.gap_m
    for cube in start.values():
        assert 0.18 < np.hypot(*cube[:2]) < 0.30
    before = arm.positions()
    arm.step(1.0)
    for name, cube in arm.cube_positions().items():
        assert cube == pytest.approx(start[name], abs=1e-3), name
    assert arm.positions() == pytest.approx(before, abs=2e-3)  # gravity does not pull the arm down
    assert arm.grasp_position()[2] > 0.02


@pytest.mark.parametrize("joint", JOINTS)
def test_tracks_a_step_without_oscillation(joint: str, arm: SimArm) -> None:
    arm.set_targets(dict(zip(JOINTS, [0.0, -0.9, 0.6, 0.6, 0.0, 0.4], strict=True)))
    arm.step(1.0)
    start = arm.positions()[joint]
    arm.set_targets({joint: start + 0.3})
    path = []
    for i in range(100):
        arm.step(1.0 + 0.01 * (i + 1))
        path.append(arm.positions()[joint] - start)
    assert max(path) < 0.3 * 1.1
    assert path[15] > 0.3 * 0.8  # 0.16 s later
    assert path[-1] == pytest.approx(0.3, abs=3e-3)
    assert abs(arm.velocities()[joint]) < 0.01


def test_targets_are_clamped_and_named(arm: SimArm) -> None:
    assert arm.set_targets({"shoulder_pan": 9.0, "gripper": 1.75}) == ["shoulder_pan"]
    arm.step(2.0)
    assert arm.positions()["shoulder_pan"] == pytest.approx(1.91986, abs=0.01)
    with pytest.raises(KeyError, match="no joint 'wrist': the arm has shoulder_pan"):
        arm.set_targets({"wrist": 0.0})
    with pytest.raises(ValueError, match="joint 'gripper': target nan"):
        arm.set_targets({"gripper": float("nan")})


def test_time_only_goes_forward(arm: SimArm) -> None:
    arm.step(0.1)
    arm.step(0.1)
    with pytest.raises(ValueError, match=r"back from 0\.100 s to 0\.050 s"):
        arm.step(0.05)


@pytest.mark.parametrize("seed", range(4))
def test_front_camera_sees_both_cubes(seed: int) -> None:
    arm = SimArm(seed)
    frame = arm.render("front")
    arm.close()
    assert frame.shape == (224, 224, 3) and frame.dtype == np.uint8
    assert is_red(frame).sum() > 300
    assert is_blue(frame).sum() > 300


def test_cameras_are_right_side_up_and_rgb(arm: SimArm) -> None:
    frame = arm.render("front").astype(int)
    top, bottom = frame[:20, -40:].mean((0, 1)), frame[-20:, 100:140].mean((0, 1))
    assert top[2] > top[0]  # the sky is blue
    assert bottom[1] > bottom[0]  # the mat is green


def test_frames_of_a_still_scene_differ_a_little(arm: SimArm) -> None:
    first, second = (arm.render("wrist").astype(int) for _ in range(2))
    difference = np.abs(first - second)
    assert 0.2 < (difference > 0).mean() < 0.9
    assert difference.max() <= 2 * NOISE_MAX


def test_noise_saturates() -> None:
    noise = SensorNoise((32, 32, 3), 0)
    dark, bright = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    noise.apply(dark)
    noise.apply(bright)
    assert dark.max() <= NOISE_MAX
    assert bright.min() >= 255 - NOISE_MAX


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"left": (64, 64)}, "no camera 'left': the arm has front, wrist, top"), ({"front": (1920, 1080)}, "at most")],
)
def test_impossible_views(sizes: dict[str, tuple[int, int]], message: str, arm: SimArm) -> None:
    with pytest.raises(ValueError, match=message):
        ArmView(arm.model, sizes)


def test_cameras_of_different_sizes(arm: SimArm) -> None:
    view = ArmView(arm.model, {"front": (64, 48), "wrist": (32, 32)})
    assert view.render(arm.snapshot(), "front").shape == (48, 64, 3)
    assert view.render(arm.snapshot(), "wrist").shape == (32, 32, 3)
    view.close()


CHOICES = [
    pytest.param({}, True, True, "egl", id="egl-first"),
    pytest.param({}, False, True, "osmesa", id="osmesa-next"),
    pytest.param({"MUJOCO_GL": ""}, False, True, "osmesa", id="empty-is-unset"),
    pytest.param({"MUJOCO_GL": "OSMesa"}, True, True, "osmesa", id="as-asked"),
    pytest.param({"MUJOCO_GL": "glfw"}, False, False, "glfw", id="a-desktop"),
    pytest.param({}, False, False, r"apt-get install .*libegl1.*libosmesa6", id="none"),
    pytest.param({"MUJOCO_GL": "egl"}, False, True, r"MUJOCO_GL=egl does not.*unset MUJOCO_GL", id="broken"),
]


@pytest.mark.parametrize(("environment", "egl", "osmesa", "expected"), CHOICES)
def test_choice_of_renderer(environment: dict[str, str], egl: bool, osmesa: bool, expected: str) -> None:
    def choose() -> str:
        return gl.choose(environment, lambda: egl, lambda: osmesa)

    if expected in ("egl", "osmesa", "glfw"):
        assert choose() == expected
    else:
        with pytest.raises(gl.NoRenderer, match=expected):
            choose()


def test_probes_agree_with_this_machine() -> None:
    """The suite renders, so one of them has to work."""
    assert gl.egl_works() or gl.osmesa_works()


def test_osmesa_draws_the_same_scene(tmp_path: Path) -> None:
    if not gl.osmesa_works():
        pytest.skip("libosmesa6 is not installed")
    script = (
        "import sys, numpy as np; from groot_ros.simulation.arm import SimArm; arm = SimArm(1);"
        "np.save(sys.argv[1], arm.render('front')); arm.close()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "frame.npy")]
    environment = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}
    done = subprocess.run(
        command, env={**environment, "MUJOCO_GL": "osmesa"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    arm = SimArm(1)
    difference = np.abs(arm.render("front").astype(int) - np.load(tmp_path / "frame.npy"))
    arm.close()
    assert (difference > 8).mean() < 0.01  # edges may fall on other pixels
