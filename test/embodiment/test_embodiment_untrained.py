"""What a random checkpoint is told about a robot: modality configuration and statistics, per generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.untrained import metadata_modalities, statistics
from groot_ros.processing.modality import parse_modalities
from groot_ros.processing.pose import matrix_from_rot6d, matrix_from_rotvec
from groot_ros.processing.scaling import by_flags, by_modes
from groot_ros.processing.statistics import TagStatistics

STEPS = 16
JOINTS = ["a", "b"]
POSITION = ["pose.position.x", "pose.position.y", "pose.position.z"]
ROT6D = [*POSITION, *(f"pose.rot6d.{i}" for i in range(6))]
ROTVEC = [*POSITION, *(f"pose.rotvec.{axis}" for axis in "xyz")]


def robot(**changes: Any) -> Embodiment:
    """A robot with every kind of key; a section of ``changes`` is merged in, a None takes a key out."""
    stream = {"rate_hz": 100.0, "max_age_s": 0.1}
    wide = {"lower": [-1.0] * 9, "upper": [1.0] * 9}
    narrow = {"lower": [-1.0] * 6, "upper": [2.0] * 6}
    camera = {"type": "sensor_msgs/msg/Image", "width": 8, "height": 4, "rate_hz": 30.0, "max_age_s": 0.2}
    data: dict[str, Any] = {
        "name": "bench",
        "embodiment_tag": "new_embodiment",
        "step_hz": 10.0,
        "cameras": {"front": {"topic": "/front", **camera}},
        "state_streams": {
            "joints": {"topic": "/joints", "type": "sensor_msgs/msg/JointState", **stream},
            "tool": {"topic": "/tool", "type": "geometry_msgs/msg/PoseStamped", **stream},
        },
        "video": {"view": {"camera": "front"}},
        "state": {
            "arm": {"stream": "joints", "joints": JOINTS, "unit": "deg"},
            "speed": {"stream": "joints", "joints": JOINTS, "field": "velocity", "unit": "rad/s"},
            "hand": {"stream": "joints", "joints": ["c"], "unit": "fraction", "sign": [-1]},
            "wide": {"stream": "tool", "fields": ROT6D, "unit": "unitless"},
            "narrow": {"stream": "tool", "fields": ROTVEC, "unit": "unitless"},
            "turn": {"stream": "tool", "fields": ["pose.roll", "pose.pitch", "pose.yaw"]},
            "pad": {"constant": [0.0, 3.0]},
        },
        "action": {
            "arm": {"joints": JOINTS, "unit": "deg"},
            "hand": {"joints": ["c"], "unit": "fraction", "sign": [-1]},
            "wide": {"fields": ROT6D, "unit": "unitless", "bounds": wide},
            "narrow": {"fields": ROTVEC, "unit": "unitless", "bounds": narrow},
        },
        "language": {"key": "task"},
        "delta_indices": {"video": [-2, 0], "action": list(range(STEPS))},
        "limits": {name: {"lower": -1.0, "upper": 3.0, "velocity": 2.0} for name in "abc"},
        "outputs": {
            "joints": {
                "topic": "/arm",
                "type": "trajectory_msgs/msg/JointTrajectory",
                "keys": ["arm", "hand"],
            },
            "wide": {"topic": "/wide", "type": "geometry_msgs/msg/PoseStamped", "keys": ["wide"]},
            "narrow": {"topic": "/narrow", "type": "geometry_msgs/msg/PoseStamped", "keys": ["narrow"]},
        },
    }
    for path, value in changes.items():
        section, key, attribute = path.split("__")
        data[section][key][attribute] = value
    return Embodiment.model_validate(data)


RELATIVE_POSES = {
    "action__wide__representation": {"rep": "RELATIVE", "type": "EEF", "format": "XYZ_ROT6D"},
    "action__narrow__representation": {"rep": "RELATIVE", "type": "EEF", "format": "XYZ_ROTVEC"},
}


@pytest.mark.parametrize("generation", ["n1d6", "n1d7"])
def test_the_configuration_is_one_that_the_processor_reads(generation: str) -> None:
    embodiment = robot(state__turn__normalization="sin_cos", state__arm__normalization="mean_std", **RELATIVE_POSES)
    configs = modality_configs(embodiment, generation)
    assert list(configs) == ["new_embodiment"]
    parsed = parse_modalities(configs["new_embodiment"], "yaml")
    assert parsed["video"].delta_indices == (-2, 0) and parsed["video"].modality_keys == ("view",)
    assert parsed["state"].modality_keys == tuple(embodiment.state)
    assert parsed["state"].sin_cos_embedding_keys == ("turn",)
    assert parsed["state"].mean_std_embedding_keys == ("arm",)
    assert parsed["action"].mean_std_embedding_keys is None
    assert parsed["language"].modality_keys == ("task",)
    said = {key: parsed["action"].action_config(key).to_dict() for key in embodiment.action}
    assert said == {
        "arm": {"rep": "RELATIVE", "type": "NON_EEF", "format": "DEFAULT", "state_key": None},
        "hand": {"rep": "ABSOLUTE", "type": "NON_EEF", "format": "DEFAULT", "state_key": None},
        "wide": {"rep": "RELATIVE", "type": "EEF", "format": "XYZ_ROT6D", "state_key": None},
        "narrow": {"rep": "RELATIVE", "type": "EEF", "format": "XYZ_ROTVEC", "state_key": None},
    }


# change of the robot -> what makes several joints absolute by default
ABSOLUTE = {
    "other joints": {"state__arm__joints": ["a", "c"]},
    "other unit": {"state__arm__unit": "rad"},
    "said so": {"action__arm__representation": {"rep": "ABSOLUTE"}},
}


@pytest.mark.parametrize("changes", ABSOLUTE.values(), ids=ABSOLUTE.keys())
def test_joints_are_relative_only_to_the_same_joints_in_the_same_unit(changes: dict[str, Any]) -> None:
    embodiment = robot(**changes)
    configs = modality_configs(embodiment, "n1d7")["new_embodiment"]["action"]["action_configs"]
    assert configs[0]["rep"] == "ABSOLUTE"
    assert "arm" not in statistics(embodiment, "n1d7")["relative_action"]


def test_n1d5_gets_its_own_words() -> None:
    data = robot().model_dump()
    data["generation"] = "n1d5"
    data["state"]["turn"]["target_rotation"] = "rotation_6d"
    data["action"]["hand"]["normalization"] = "binary"
    embodiment = Embodiment.model_validate(data)
    config = modality_configs(embodiment, "n1d5")["new_embodiment"]
    assert config["state"]["target_rotations"] == {"turn": "rotation_6d"}
    assert config["action"]["target_rotations"] == {}
    assert config["action"]["normalization_modes"] == {
        "arm": "min_max",
        "hand": "binary",
        "wide": "min_max",
        "narrow": "min_max",
    }
    assert "action_configs" not in config["action"]
    assert statistics(embodiment, "n1d5")["relative_action"] == {}
    modalities = metadata_modalities(embodiment)
    assert modalities["video"] == {"view": {"resolution": [8, 4], "channels": 3, "fps": 10.0}}
    turn = {"absolute": True, "rotation_type": "euler_angles_rpy", "shape": [3], "continuous": True}
    assert modalities["state"]["turn"] == turn
    assert modalities["state"]["pad"]["rotation_type"] is None
    assert {key: entry["shape"] for key, entry in modalities["action"].items()} == {
        "arm": [2],
        "hand": [1],
        "wide": [9],
        "narrow": [6],
    }


def test_the_ranges_are_those_of_the_yaml_in_model_units() -> None:
    found = statistics(robot(), "n1d7")
    limits = np.rad2deg([-1.0, 3.0])
    expected = {
        ("state", "arm"): limits,
        ("state", "speed"): (-2.0, 2.0),
        ("state", "hand"): (0.0, 1.0),
        ("state", "turn"): (-np.pi, np.pi),
        ("action", "arm"): limits,
        ("action", "hand"): (0.0, 1.0),
        ("action", "wide"): (-1.0, 1.0),
        ("action", "narrow"): (-1.0, 2.0),
    }
    for (section, key), (low, high) in expected.items():
        group = found[section][key]
        np.testing.assert_allclose(group["min"], low, atol=1e-12)
        np.testing.assert_allclose(group["max"], high, atol=1e-12)
        np.testing.assert_allclose(group["mean"], (low + high) / 2, atol=1e-12)
    np.testing.assert_array_equal(found["state"]["wide"]["max"], np.ones(9))
    np.testing.assert_array_equal(found["state"]["narrow"]["max"], [1, 1, 1, np.pi, np.pi, np.pi])
    pad = found["state"]["pad"]
    assert pad["min"] == pad["max"] == pad["mean"] == [0.0, 3.0] and pad["std"] == [0.0, 0.0]


def test_relative_rows_grow_with_the_step() -> None:
    rows = statistics(robot(**RELATIVE_POSES), "n1d7")["relative_action"]
    reach = np.asarray(rows["arm"]["max"])
    assert reach.shape == (STEPS, 2)
    np.testing.assert_allclose(reach[:, 0], np.rad2deg(0.1 * 2.0 * 0.1 * np.arange(1, STEPS + 1)))
    np.testing.assert_allclose(rows["arm"]["min"], -reach)
    for key, width in (("wide", 9), ("narrow", 6)):
        high, low = np.asarray(rows[key]["max"]), np.asarray(rows[key]["min"])
        assert high.shape == (STEPS, width)
        assert (np.diff((high - low)[:, 0]) > 0).all()


@pytest.mark.parametrize("step_hz", [1.0, 10.0, 50.0])
def test_relative_poses_stay_rotations_near_the_identity(step_hz: float) -> None:
    embodiment = robot(**RELATIVE_POSES).model_copy(update={"step_hz": step_hz})
    rows = statistics(embodiment, "n1d7")["relative_action"]
    rng = np.random.default_rng(0)
    for key, turn in (("wide", matrix_from_rot6d), ("narrow", matrix_from_rotvec)):
        low, high = np.asarray(rows[key]["min"]), np.asarray(rows[key]["max"])
        corners = np.where(rng.integers(0, 2, (500, *low.shape)), low, high)
        rotations = turn(corners[..., 3:])
        assert np.isfinite(rotations).all()
        angles = np.arccos(np.clip((np.trace(rotations, axis1=-2, axis2=-1) - 1) / 2, -1, 1))
        assert angles.max() < np.pi / 2


@pytest.mark.parametrize("representation", [{"rep": "RELATIVE", "type": "EEF"}, {"rep": "RELATIVE"}])
def test_every_relative_form_comes_out_of_the_processor_finite(representation: dict[str, Any]) -> None:
    matrix_fields = [f"pose.rot6d.{i}" for i in range(6)] + POSITION
    eef = "type" in representation
    fields = [*matrix_fields, *(f"pose.orientation.{axis}" for axis in "xyzw"), "pose.roll", "pose.pitch", "pose.yaw"]
    bounds = {"lower": [-1.0] * 16, "upper": [1.0] * 16}
    data = robot().model_dump()
    data["state"]["wide"] = {"stream": "tool", "fields": fields, "unit": "unitless"}
    data["action"]["wide"] = {
        "fields": fields,
        "unit": "unitless",
        "bounds": bounds,
        "representation": {**representation, "format": "DEFAULT"},
    }
    embodiment = Embodiment.model_validate(data)
    parsed = parse_modalities(modality_configs(embodiment, "n1d7")["new_embodiment"], "yaml")
    groups = by_flags(
        parsed["state"],
        parsed["action"],
        TagStatistics(statistics(embodiment, "n1d7"), "yaml"),
        use_percentiles=True,
        clip_outliers=True,
        apply_sincos=False,
        use_relative_action=True,
    )
    rng = np.random.default_rng(1)
    chunk = {key: rng.normal(size=(STEPS, width)) for key, width in groups.action_dims.items()}
    state = {key: np.zeros((1, width)) for key, width in groups.state_dims.items()}
    state["wide"][:] = np.eye(4).reshape(-1) if eef else 0.5
    for values in groups.unapply_action(chunk, state).values():
        assert np.isfinite(values).all()


def test_every_n1d5_mode_comes_out_of_the_processor_finite() -> None:
    data = robot().model_dump()
    data["generation"] = "n1d5"
    modes = {"arm": "mean_std", "speed": "scale", "hand": "q99", "wide": "none", "narrow": "min_max", "pad": "min_max"}
    for key, mode in modes.items():
        data["state"][key]["normalization"] = mode
    data["state"]["turn"]["target_rotation"] = "rotation_6d"
    for key, mode in {"arm": "q99", "hand": "binary", "wide": "none", "narrow": "mean_std"}.items():
        data["action"][key]["normalization"] = mode
    embodiment = Embodiment.model_validate(data)
    parsed = parse_modalities(modality_configs(embodiment, "n1d5")["new_embodiment"], "yaml")
    found = TagStatistics(statistics(embodiment, "n1d5"), "yaml")
    about = metadata_modalities(embodiment)
    groups = by_modes(parsed["state"], parsed["action"], found, about, "metadata.json", "yaml")
    state = groups.neutral_state(1)
    normalized = groups.apply_state(state)
    assert normalized["turn"].shape == (1, 6)
    assert all(np.isfinite(values).all() for values in normalized.values())
    rng = np.random.default_rng(1)
    chunk = {key: rng.normal(size=(STEPS, width)) for key, width in groups.action_dims.items()}
    for key, values in groups.unapply_action(chunk, state).items():
        assert np.isfinite(values).all() and values.shape == chunk[key].shape
