"""The simulated arm: MuJoCo physics of ``arm.xml`` and its three cameras.

``import mujoco`` reads ``MUJOCO_GL`` once, so it happens here inside ``load_mujoco`` and after the choice of ``gl.py``.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from groot_ros.simulation import gl
from groot_ros.simulation.scene import CUBES, JOINTS, Scene, cube_state, free_scene
from groot_ros.simulation.tasks import Judge, Task, Verdict

MODEL_FILE = Path(__file__).with_name("arm.xml")
CAMERAS = ("front", "wrist", "top")

CLAMP_TOLERANCE_RAD = 0.02  # a cubic between points at a limit swings that far over it

NOISE_SIGMA = 0.8  # of 255; a real camera's frames of a still scene differ, and a frozen camera is told by that
NOISE_MAX = 2


@functools.cache
def load_mujoco() -> Any:
    """Import mujoco with a renderer that works on this machine.

    Raises:
        gl.NoRenderer: none does.
        ModuleNotFoundError: mujoco is not installed; the message says how.
    """
    if "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = gl.choose()
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the simulator needs mujoco: pip install 'mujoco>=3.3,<4'", name="mujoco") from error
    return mujoco


class SensorNoise:
    """Adds seeded noise of about +-1 LSB to frames; costs two saturated additions of bytes."""

    def __init__(self, shape: tuple[int, int, int], seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._shape = shape
        self._size = math.prod(shape)
        bank = np.rint(self._rng.normal(0.0, NOISE_SIGMA, 2 * self._size)).clip(-NOISE_MAX, NOISE_MAX)
        self._up = np.maximum(bank, 0).astype(np.uint8)
        self._down = np.maximum(-bank, 0).astype(np.uint8)

    def apply(self, frame: NDArray[np.uint8]) -> None:
        """Change ``frame`` (uint8, ``shape``) in place; each call takes another stretch of the bank."""
        start = int(self._rng.integers(0, self._size))
        stretch = slice(start, start + self._size)
        cv2.add(frame, self._up[stretch].reshape(self._shape), dst=frame)
        cv2.subtract(frame, self._down[stretch].reshape(self._shape), dst=frame)


class ArmView:
    """Renders states of an arm. Belongs to the thread that made it (an OpenGL context is bound there).

    Args:
        model: of a ``SimArm``.
        sizes: camera -> width and height in px.
        seed: of the sensor noise.

    Raises:
        gl.NoRenderer: an OpenGL context could not be made.
        ValueError: a camera that the arm does not have, or one too large.
    """

    def __init__(self, model: Any, sizes: Mapping[str, tuple[int, int]], seed: int = 0) -> None:
        self._mujoco = load_mujoco()
        self._model = model
        self._data = self._mujoco.MjData(model)
        self.cameras = tuple(sizes)
        largest = (int(model.vis.global_.offwidth), int(model.vis.global_.offheight))
        for camera, (width, height) in sizes.items():
            if camera not in CAMERAS:
                raise ValueError(f"no camera '{camera}': the arm has {', '.join(CAMERAS)}")
            if width > largest[0] or height > largest[1]:
                raise ValueError(f"camera '{camera}': {width} x {height} px, but at most {largest} can be rendered")
        self._sizes = dict(sizes)
        self._renderers: dict[tuple[int, int], Any] = {}
        try:
            for width, height in sizes.values():
                if (width, height) not in self._renderers:
                    self._renderers[width, height] = self._mujoco.Renderer(model, height, width)
        except Exception as error:  # PyOpenGL has its own error classes per platform
            self.close()
            raise gl.NoRenderer(
                f"cannot render the cameras: {error}; install `sudo apt-get install {gl.APT_PACKAGES}`"
            ) from error
        self._noise = {
            camera: SensorNoise((height, width, 3), _noise_seed(seed, camera))
            for camera, (width, height) in sizes.items()
        }

    def render(self, qpos: NDArray[np.float64], camera: str) -> NDArray[np.uint8]:
        """Return the RGB image uint8 [height, width, 3] of ``camera`` at state ``qpos``; the caller owns it."""
        if not np.array_equal(qpos, self._data.qpos):
            self._data.qpos[:] = qpos
            self._mujoco.mj_kinematics(self._model, self._data)
            self._mujoco.mj_comPos(self._model, self._data)
            self._mujoco.mj_camlight(self._model, self._data)
        renderer = self._renderers[self._sizes[camera]]
        renderer.update_scene(self._data, camera)
        frame = np.ascontiguousarray(renderer.render())
        self._noise[camera].apply(frame)
        return frame

    def close(self) -> None:
        """Free the OpenGL contexts; without it mujoco prints an error when the interpreter ends."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


class SimArm:
    """Physics of the arm, its table and two cubes. Same seed and same calls give the same numbers.

    Args:
        seed: of the start pose, the cubes' places and the cameras' noise.
        width: of all cameras of ``render``, px.
        height: of all cameras of ``render``, px.
        task: what the first scene is for; None: both cubes, and nothing to do.

    Attributes:
        scene: what the last reset has set up.
    """

    joints = JOINTS
    cameras = CAMERAS

    def __init__(self, seed: int = 0, width: int = 224, height: int = 224, task: Task | None = None) -> None:
        self._mujoco = load_mujoco()
        self.model = self._mujoco.MjModel.from_xml_path(str(MODEL_FILE))
        self._data = self._mujoco.MjData(self.model)
        self._size, self._seed = (width, height), seed
        self._view: ArmView | None = None
        addresses = [self.model.joint(name) for name in JOINTS]
        self._qpos = np.array([joint.qposadr[0] for joint in addresses])
        self._qvel = np.array([joint.dofadr[0] for joint in addresses])
        self._range = self.model.actuator_ctrlrange
        self._steps = 0
        self.reset(seed, task)

    @property
    def time_s(self) -> float:
        """Physics time since the last reset."""
        return self._steps * float(self.model.opt.timestep)

    def reset(self, seed: int, task: Task | None = None) -> None:
        """Start anew at time 0: a start pose and places of the cubes drawn from ``seed``, everything at rest.

        With a ``task`` the scene is one for it, and ``verdict`` judges.
        """
        self.scene: Scene = free_scene(seed) if task is None else task.scene(seed)
        self._mujoco.mj_resetData(self.model, self._data)
        self._steps = 0
        self._data.qpos[self._qpos] = self.scene.pose_rad
        self._data.ctrl[:] = self.scene.pose_rad
        for name, place in self.scene.cubes.items():
            self._data.joint(name).qpos[:] = cube_state(name, place)
        self._mujoco.mj_forward(self.model, self._data)
        self._judge = None if task is None else Judge(task.goal, self.scene.target, self.cube_positions())

    def step(self, to_time_s: float) -> None:
        """Advance physics to ``to_time_s`` (rounded to the physics step of 2 ms), driving towards the targets.

        Raises:
            ValueError: that is more than half a step in the past.
        """
        steps = round(to_time_s / float(self.model.opt.timestep)) - self._steps
        if steps < 0:
            raise ValueError(f"cannot step back from {self.time_s:.3f} s to {to_time_s:.3f} s")
        if steps:
            self._mujoco.mj_step(self.model, self._data, nstep=steps)
            self._steps += steps

    def positions(self) -> dict[str, float]:
        """Joint -> rad."""
        return dict(zip(JOINTS, self._data.qpos[self._qpos].tolist(), strict=True))

    def velocities(self) -> dict[str, float]:
        """Joint -> rad/s."""
        return dict(zip(JOINTS, self._data.qvel[self._qvel].tolist(), strict=True))

    def efforts(self) -> dict[str, float]:
        """Joint -> Nm of its servo."""
        return dict(zip(JOINTS, self._data.actuator_force.tolist(), strict=True))

    def set_targets(self, targets: Mapping[str, float]) -> list[str]:
        """Command servos by joint name (rad); others keep their target.

        Targets are clamped to the joint's range. Returns the joints that were more than ``CLAMP_TOLERANCE_RAD`` out.

        Raises:
            KeyError: no such joint; names those there are.
            ValueError: a target is not finite.
        """
        clamped = []
        for name, value in targets.items():
            if name not in JOINTS:
                raise KeyError(f"no joint '{name}': the arm has {', '.join(JOINTS)}")
            if not math.isfinite(value):
                raise ValueError(f"joint '{name}': target {value} is not a finite number")
            index = JOINTS.index(name)
            low, high = self._range[index]
            if not low - CLAMP_TOLERANCE_RAD <= value <= high + CLAMP_TOLERANCE_RAD:
                clamped.append(name)
            self._data.ctrl[index] = min(max(value, low), high)
        return clamped

    def verdict(self) -> Verdict:
        """How the task of the last reset stands; ask on every tick of a control loop, at least 20 times a second.

        Without a task: no success, no failure, and a distance that is not a number.
        """
        if self._judge is None:
            return Verdict(False, "", math.nan)
        return self._judge.update(self.time_s, self.grasp_position(), self.cube_positions())

    def cube_positions(self) -> dict[str, NDArray[np.float64]]:
        """Cube -> centre [3] in metres, in the frame of the arm's base; parked cubes left out."""
        places = self.scene.cubes
        return {name: self._data.joint(name).qpos[:3].copy() for name in CUBES if places[name] is not None}

    def cube_poses(self) -> dict[str, NDArray[np.float64]]:
        """Cube -> centre in metres and quaternion w, x, y, z [7], parked or not."""
        return {name: self._data.joint(name).qpos.copy() for name in CUBES}

    def grasp_position(self) -> NDArray[np.float64]:
        """The point between the fingertips [3], in metres."""
        return np.array(self._data.site("grasp").xpos)

    def snapshot(self) -> NDArray[np.float64]:
        """A copy of the whole state for ``ArmView.render``."""
        return np.array(self._data.qpos)

    def render(self, camera: str) -> NDArray[np.uint8]:
        """Return the present RGB image uint8 [height, width, 3] of one of ``CAMERAS``."""
        if camera not in CAMERAS:
            raise KeyError(f"no camera '{camera}': the arm has {', '.join(CAMERAS)}")
        if self._view is None:
            self._view = ArmView(self.model, dict.fromkeys(CAMERAS, self._size), self._seed)
        return self._view.render(self.snapshot(), camera)

    def close(self) -> None:
        """Free the renderer of ``render``."""
        if self._view is not None:
            self._view.close()
            self._view = None


def _noise_seed(seed: int, camera: str) -> int:
    """Another one for each camera; for the first two as it was before there was a third."""
    return 2 * seed + CAMERAS.index(camera) if camera in CAMERAS[:2] else ~seed & 0xFFFFFFFF
