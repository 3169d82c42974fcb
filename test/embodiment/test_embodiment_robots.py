"""The shipped robots against what NVIDIA publishes: tags, projector ids, keys, their order and widths, steps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import available_embodiments, embodiment_generations, load_embodiment
from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.motion import interpolation, rests_at_zero
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.untrained import metadata_modalities, statistics
from groot_ros.processing.modality import parse_modalities
from groot_ros.processing.scaling import by_flags, by_modes
from groot_ros.processing.state_action import StateActionProcessor
from groot_ros.processing.statistics import TagStatistics
from groot_ros.processing.tags import EMBODIMENT_IDS

Widths = dict[str, int]

ROBOTS = (
    *("gr1", "unitree_g1", "libero_panda", "oxe_droid", "oxe_widowx", "oxe_google", "behavior_r1_pro"),
    *("robocasa_panda_omron", "agibot_genie1", "yam", "so100", "so101"),
)

SO = {"single_arm": 5, "gripper": 1}
GR1 = {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6, "waist": 3}
G1_UPPER = {"left_arm": 7, "right_arm": 7, "left_hand": 7, "right_hand": 7}
G1 = {"left_leg": 6, "right_leg": 6, "waist": 3, **G1_UPPER}
G1_ACTION = {**G1_UPPER, "waist": 3, "base_height_command": 1, "navigate_command": 3}
POSE = {"x": 1, "y": 1, "z": 1, "roll": 1, "pitch": 1, "yaw": 1}
LIBERO = {**POSE, "gripper": 2}
INCREMENTS = {**POSE, "gripper": 1}
WIDOWX = {**POSE, "pad": 1, "gripper": 1}
GOOGLE = {"x": 1, "y": 1, "z": 1, "rx": 1, "ry": 1, "rz": 1, "rw": 1, "gripper": 1}
DROID = {"joint_position": 7, "gripper_position": 1}
DROID_9D = {"eef_9d": 9, "gripper_position": 1, "joint_position": 7}
YAM = {"left_arm": 6, "left_gripper": 1, "right_arm": 6, "right_gripper": 1}
R1_PRO = {
    **{"robot_pos": 3, "robot_ori_cos": 3, "robot_ori_sin": 3, "robot_2d_ori": 1, "robot_2d_ori_cos": 1},
    **{"robot_2d_ori_sin": 1, "robot_lin_vel": 3, "robot_ang_vel": 3},
    **{"arm_left_qpos": 7, "arm_left_qpos_sin": 7, "arm_left_qpos_cos": 7},
    **{"eef_left_pos": 3, "eef_left_quat": 4, "gripper_left_qpos": 2},
    **{"arm_right_qpos": 7, "arm_right_qpos_sin": 7, "arm_right_qpos_cos": 7},
    **{"eef_right_pos": 3, "eef_right_quat": 4, "gripper_right_qpos": 2, "trunk_qpos": 4},
}
R1_PRO_ACTION = {"base": 3, "torso": 4, "left_arm": 7, "left_gripper": 1, "right_arm": 7, "right_gripper": 1}
TOOL = {"end_effector_position": 3, "end_effector_rotation": 3}
OMRON = {
    "end_effector_position_relative": 3,
    "end_effector_rotation_relative": 4,
    "gripper_qpos": 2,
    "base_position": 3,
    "base_rotation": 4,
}
OMRON_N17 = {
    **{"base_position": 3, "base_rotation": 4},
    **{"end_effector_position_absolute": 3, "end_effector_position_relative": 3},
    **{"end_effector_rotation_absolute": 4, "end_effector_rotation_relative": 4},
    **{"gripper_qpos": 2, "gripper_qvel": 2},
    **{"joint_position": 7, "joint_position_cos": 7, "joint_position_sin": 7, "joint_velocity": 7},
}
OMRON_ACTION = {**TOOL, "gripper_close": 1, "base_motion": 4, "control_mode": 1}
OMRON_ACTION_N17 = {"gripper_close": 1, **TOOL, "base_motion": 4, "control_mode": 1}
GENIE = {
    **{"left_arm_joint_position": 7, "right_arm_joint_position": 7},
    **{"left_effector_position": 1, "right_effector_position": 1, "head_position": 2, "waist_position": 2},
}
DROID_N15 = {"eef_position": 3, "eef_rotation": 3, "gripper_position": 1}
DROID_N15_ACTION = {"eef_position_delta": 3, "eef_rotation_delta": 3, "gripper_position": 1}

NEW = "new_embodiment"
TASK = "annotation.human.task_description"
ACTION_TASK = "annotation.human.action.task_description"
COARSE = "annotation.human.coarse_action"
SPOKEN = "annotation.language.language_instruction"
R1_VIEWS = tuple(f"observation.images.rgb.{view}_256_256" for view in ("head", "left_wrist", "right_wrist"))
OMRON_VIEWS = ("res256_image_side_0", "res256_image_side_1", "res256_image_wrist_0")
DROID_VIEWS = ("exterior_image_1_left", "wrist_image_left")
EGO_PADDED = "ego_view_bg_crop_pad_res256_freq20"
G1_N17 = "unitree_g1_full_body_with_waist_height_nav_cmd"
DROID_N17 = "oxe_droid_relative_eef_relative_joint"

# robot, generation, tag, projector id, views, state, action, steps of a chunk, language key
PUBLISHED: tuple[tuple[str, str, str, int, tuple[str, ...], Widths, Widths, int, str], ...] = (
    ("gr1", "n1d5", "gr1", 24, ("ego_view",), GR1, GR1, 16, COARSE),
    ("gr1", "n1d6", "gr1", 20, (EGO_PADDED,), GR1, GR1, 16, "task"),
    ("gr1", "n1d7", "robocasa_gr1_tabletop", 10, (EGO_PADDED,), GR1, GR1, 8, "task"),
    ("unitree_g1", "n1d5", NEW, 31, ("rs_view",), G1_UPPER, G1_UPPER, 16, TASK),
    ("unitree_g1", "n1d6", "unitree_g1", 8, ("ego_view",), G1, G1_ACTION, 30, TASK),
    ("unitree_g1", "n1d7", G1_N17, 25, ("ego_view",), G1, G1_ACTION, 50, TASK),
    ("libero_panda", "n1d5", NEW, 31, ("image", "wrist_image"), LIBERO, INCREMENTS, 16, ACTION_TASK),
    ("libero_panda", "n1d6", "libero_panda", 2, ("image", "wrist_image"), LIBERO, INCREMENTS, 16, ACTION_TASK),
    ("libero_panda", "n1d7", "libero_sim", 2, ("image", "wrist_image"), LIBERO, INCREMENTS, 16, ACTION_TASK),
    ("oxe_widowx", "n1d5", NEW, 31, ("image_0",), WIDOWX, INCREMENTS, 16, ACTION_TASK),
    ("oxe_widowx", "n1d6", "oxe_widowx", 1, ("image_0",), WIDOWX, INCREMENTS, 8, ACTION_TASK),
    ("oxe_widowx", "n1d7", "simpler_env_widowx", 1, ("image_0",), WIDOWX, INCREMENTS, 8, ACTION_TASK),
    ("oxe_google", "n1d5", NEW, 31, ("image",), GOOGLE, INCREMENTS, 16, ACTION_TASK),
    ("oxe_google", "n1d6", "oxe_google", 0, ("image",), GOOGLE, INCREMENTS, 8, ACTION_TASK),
    ("oxe_google", "n1d7", "simpler_env_google", 0, ("image",), GOOGLE, INCREMENTS, 8, ACTION_TASK),
    (
        *("oxe_droid", "n1d5", "oxe_droid", 17, ("exterior_image_1", "exterior_image_2", "wrist_image")),
        *(DROID_N15, DROID_N15_ACTION, 16, SPOKEN),
    ),
    ("oxe_droid", "n1d6", "oxe_droid", 16, DROID_VIEWS, DROID, DROID, 32, SPOKEN),
    ("oxe_droid", "n1d7", DROID_N17, 24, DROID_VIEWS, DROID_9D, DROID_9D, 40, SPOKEN),
    ("behavior_r1_pro", "n1d6", "behavior_r1_pro", 24, R1_VIEWS, R1_PRO, R1_PRO_ACTION, 32, COARSE),
    (
        *("robocasa_panda_omron", "n1d5", NEW, 31, ("left_view", "right_view", "wrist_view")),
        *(OMRON, OMRON_ACTION, 16, ACTION_TASK),
    ),
    (
        *("robocasa_panda_omron", "n1d6", "robocasa_panda_omron", 13, OMRON_VIEWS),
        *(OMRON, OMRON_ACTION, 16, ACTION_TASK),
    ),
    (
        *("robocasa_panda_omron", "n1d7", "robocasa_panda_omron", 10, OMRON_VIEWS),
        *(OMRON_N17, OMRON_ACTION_N17, 8, ACTION_TASK),
    ),
    (
        *("agibot_genie1", "n1d5", "agibot_genie1", 26, ("top_head", "hand_left", "hand_right")),
        *(GENIE, {**GENIE, "robot_velocity": 2}, 16, "annotation.language.action_text"),
    ),
    *(
        (robot, generation, NEW, number, views, widths, widths, 16, TASK)
        for robot, views, widths in (
            ("yam", ("top", "left_wrist", "right_wrist"), YAM),
            ("so100", ("front", "wrist"), SO),
            ("so101", ("front", "wrist"), SO),
        )
        for generation, number in (("n1d5", 31), ("n1d6", 10), ("n1d7", 10))
    ),
)
IDS = [f"{row[0]}-{row[1]}" for row in PUBLISHED]

# (robot, generation) -> action keys relative to the state; all others are absolute.
RELATIVE: dict[tuple[str, str], set[str]] = {
    ("unitree_g1", "n1d6"): {"left_arm", "right_arm"},
    ("unitree_g1", "n1d7"): {"left_arm", "right_arm"},
    **{("gr1", name): {"left_arm", "right_arm", "left_hand", "right_hand"} for name in ("n1d6", "n1d7")},
    ("oxe_droid", "n1d6"): {"joint_position"},
    ("oxe_droid", "n1d7"): {"joint_position", "eef_9d"},
    ("behavior_r1_pro", "n1d6"): {"torso", "left_arm", "right_arm"},
    **{("yam", generation): {"left_arm", "right_arm"} for generation in ("n1d6", "n1d7")},
    **{(robot, generation): {"single_arm"} for robot in ("so100", "so101") for generation in ("n1d6", "n1d7")},
}
# N1.5's modes and rotations where a key is not plain min_max.
MODES: dict[str, dict[str, dict[str, str]]] = {
    "gr1": {"state": dict.fromkeys(GR1, "sin_cos")},
    "oxe_google": {"action": dict.fromkeys(POSE, "mean_std")},
    "oxe_droid": {
        "action": {"eef_position_delta": "none", "eef_rotation_delta": "none", "gripper_position": "binary"},
    },
    "robocasa_panda_omron": {"action": {"gripper_close": "binary", "control_mode": "binary"}},
}
TARGET_ROTATIONS: dict[str, dict[str, dict[str, str]]] = {
    "oxe_droid": {"state": {"eef_rotation": "rotation_6d"}, "action": {"eef_rotation_delta": "axis_angle"}},
    "robocasa_panda_omron": {
        "state": {"end_effector_rotation_relative": "rotation_6d", "base_rotation": "rotation_6d"}
    },
}
# (robot, generation) -> modality -> keys that N1.6 and N1.7 do not scale by min and max.
EMBEDDED: dict[tuple[str, str], tuple[str, str, set[str]]] = {
    **{("gr1", name): ("state", "sin_cos_embedding_keys", set(GR1)) for name in ("n1d6", "n1d7")},
    ("oxe_widowx", "n1d6"): ("action", "mean_std_embedding_keys", set(POSE)),
    ("oxe_google", "n1d6"): ("action", "mean_std_embedding_keys", set(POSE)),
}


def widths(keys: dict[str, object]) -> list[tuple[str, int]]:
    return [(name, len(key.names)) for name, key in keys.items()]  # type: ignore[attr-defined]


def test_the_table_lists_every_robot_and_generation_that_is_shipped() -> None:
    shipped = {
        (name, generation)
        for name, path in available_embodiments().items()
        if name != "sim_arm"
        for generation in embodiment_generations(path)
    }
    assert shipped == {row[:2] for row in PUBLISHED}
    assert {name for name, _ in shipped} == set(ROBOTS)


@pytest.mark.parametrize(
    ("robot", "generation", "tag", "number", "views", "state", "action", "horizon", "language"), PUBLISHED, ids=IDS
)
def test_a_robot_has_the_published_keys_in_order(
    robot: str,
    generation: str,
    tag: str,
    number: int,
    views: tuple[str, ...],
    state: Widths,
    action: Widths,
    horizon: int,
    language: str,
) -> None:
    embodiment = load_embodiment(robot, generation)
    assert embodiment.name == robot and embodiment.generation == generation
    assert embodiment.embodiment_tag == tag
    assert EMBODIMENT_IDS[generation][tag] == number
    assert tuple(embodiment.video) == views
    assert widths(dict(embodiment.state)) == list(state.items())
    assert widths(dict(embodiment.action)) == list(action.items())
    assert embodiment.delta_indices.action == list(range(horizon))
    assert embodiment.delta_indices.video == ([-15, 0] if tag == DROID_N17 else [0])
    assert embodiment.delta_indices.state == [0]
    assert embodiment.language.key == language


@pytest.mark.parametrize(("robot", "generation"), [row[:2] for row in PUBLISHED], ids=IDS)
def test_representation_and_normalisation_are_the_published_ones(robot: str, generation: str) -> None:
    embodiment = load_embodiment(robot, generation)
    config = modality_configs(embodiment, generation)[embodiment.embodiment_tag]
    if generation == "n1d5":
        for name, entries in (("state", embodiment.state), ("action", embodiment.action)):
            expected = {**dict.fromkeys(entries, "min_max"), **MODES.get(robot, {}).get(name, {})}
            turned = TARGET_ROTATIONS.get(robot, {}).get(name, {})
            modes = config[name]["normalization_modes"]
            assert {key: mode for key, mode in modes.items() if key not in turned} == {
                key: mode for key, mode in expected.items() if key not in turned
            }
            assert config[name]["target_rotations"] == turned
        return
    configs = dict(zip(embodiment.action, config["action"]["action_configs"], strict=True))
    assert {key for key, said in configs.items() if said["rep"] == "RELATIVE"} == RELATIVE.get(
        (robot, generation), set()
    )
    poses = {key for key, said in configs.items() if said["type"] == "EEF"}
    assert poses == ({"eef_9d"} if (robot, generation) == ("oxe_droid", "n1d7") else set())
    for name in ("state", "action"):
        for kind in ("sin_cos_embedding_keys", "mean_std_embedding_keys"):
            where, what, keys = EMBEDDED.get((robot, generation), ("", "", set()))
            assert set(config[name][kind] or ()) == (keys if (where, what) == (name, kind) else set()), (name, kind)


def test_r1_pro_has_the_82_numbers_of_state_and_23_of_action() -> None:
    embodiment = load_embodiment("behavior_r1_pro")
    assert sum(len(key.names) for key in embodiment.state.values()) == 82
    assert sum(len(key.names) for key in embodiment.action.values()) == 23
    assert embodiment.action["torso"].representation is not None
    assert embodiment.action["torso"].representation.state_key == "trunk_qpos"


@pytest.mark.parametrize(
    ("robot", "generation", "key", "rotation"),
    [
        ("oxe_droid", "n1d7", "eef_9d", [[0, 0, -1], [-1, 0, 0], [0, 1, 0]]),
        ("oxe_widowx", "n1d6", "roll", [[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
        ("oxe_widowx", "n1d6", "yaw", [[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    ],
)
def test_the_tool_rotation_is_the_published_matrix(
    robot: str, generation: str, key: str, rotation: list[list[int]]
) -> None:
    """DROID: spec section 4.3 of N1.7; BridgeData: the transpose of default_rot of its controller."""
    turn = load_embodiment(robot, generation).state[key].tool_rotation
    assert turn is not None
    x, y, z, w = turn
    matrix = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    np.testing.assert_allclose(matrix, rotation, atol=1e-6)


@pytest.mark.parametrize(("robot", "generation"), [row[:2] for row in PUBLISHED], ids=IDS)
def test_a_robot_can_start_a_motion_and_moves_carefully(robot: str, generation: str) -> None:
    """A commanded joint is measured, so that a chunk starts where the robot is, and its speed is no motor's."""
    embodiment: Embodiment = load_embodiment(robot, generation)
    measured = {joint for key in embodiment.state.values() if key.field == "position" for joint in key.joints or ()}
    assert set(embodiment.action_joints) <= measured
    for joint, limit in embodiment.limits.items():
        assert limit.velocity <= 2 * np.pi, joint


# Generations whose YAML does not say enough to command the robot, and why. docs/embodiments.md says the same.
DRY_RUN_ONLY = {("oxe_droid", "n1d5"): "increments"}


@pytest.mark.parametrize(("robot", "generation"), [row[:2] for row in PUBLISHED], ids=IDS)
def test_a_robot_can_be_commanded_or_says_that_it_runs_dry(robot: str, generation: str) -> None:
    embodiment = load_embodiment(robot, generation)
    if (robot, generation) not in DRY_RUN_ONLY:
        check_commandable(embodiment)
        return
    with pytest.raises(EmbodimentError, match="dry_run:=true") as caught:
        check_commandable(embodiment)
    assert all(DRY_RUN_ONLY[robot, generation] in line for line in caught.value.lines)


@pytest.mark.parametrize(
    ("robot", "generation", "steps", "zero"),
    [
        ("oxe_droid", "n1d5", ["gripper_position"], ["eef_position_delta", "eef_rotation_delta"]),
        ("libero_panda", "n1d7", ["gripper"], ["x", "y", "z", "roll", "pitch", "yaw"]),
        ("robocasa_panda_omron", "n1d6", ["gripper_close", "control_mode"], ["end_effector_position", "base_motion"]),
        ("unitree_g1", "n1d7", [], ["navigate_command"]),
        ("behavior_r1_pro", "n1d6", [], ["base"]),
        ("so101", "n1d7", [], []),
    ],
)
def test_switches_are_not_smeared_and_speeds_rest_at_zero(
    robot: str, generation: str, steps: list[str], zero: list[str]
) -> None:
    embodiment = load_embodiment(robot, generation)
    assert {key for key in embodiment.action if interpolation(embodiment, key) == "step"} == set(steps)
    resting = {key for key in embodiment.action if rests_at_zero(embodiment, key)}
    assert set(zero) <= resting
    assert not any(embodiment.action[key].joints for key in resting)


def test_the_table_of_the_docs_says_what_moves_today() -> None:
    lines = (Path(__file__).resolve().parents[2] / "docs" / "embodiments.md").read_text(encoding="utf-8").splitlines()
    said = {}
    for line in lines[lines.index("| file | robot | moves today | N1.5 | N1.6 | N1.7 | step |") + 2 :]:
        if not line.startswith("|"):
            break
        file, _, moves_today, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        said.update(dict.fromkeys(re.findall(r"`(\w+)`", file), moves_today))
    assert set(said) == {*ROBOTS, "sim_arm", "sim_tabletop"}
    names = {"n1d5": "N1.5", "n1d6": "N1.6", "n1d7": "N1.7"}
    for robot in ROBOTS:
        listed = embodiment_generations(robot)
        moves = [name for name in listed if (robot, name) not in DRY_RUN_ONLY]
        expected = "yes" if moves == [*listed] else ", ".join(names[name] for name in moves) or "dry run only"
        assert said[robot] == expected, robot
    assert said["sim_arm"] == said["sim_tabletop"] == "yes"


# Numbers of state and action that NVIDIA's checkpoints have room for (padded to these).
ROOM = {"n1d5": (64, 32), "n1d6": (128, 128), "n1d7": (128, 128)}


def processor_of(embodiment: Embodiment, generation: str) -> StateActionProcessor:
    parsed = parse_modalities(modality_configs(embodiment, generation)[embodiment.embodiment_tag], "yaml")
    found = TagStatistics(statistics(embodiment, generation), "yaml")
    if generation == "n1d5":
        about = metadata_modalities(embodiment)
        return by_modes(parsed["state"], parsed["action"], found, about, "metadata.json", "yaml")
    return by_flags(
        parsed["state"],
        parsed["action"],
        found,
        use_percentiles=False,
        clip_outliers=True,
        apply_sincos=True,
        use_relative_action=True,
    )


@pytest.mark.parametrize(("robot", "generation"), [row[:2] for row in PUBLISHED], ids=IDS)
def test_the_processor_of_the_generation_takes_the_robot(robot: str, generation: str) -> None:
    """Statistics of the YAML: the state fits the model, and any chunk of the model decodes to finite commands."""
    embodiment = load_embodiment(robot, generation)
    groups = processor_of(embodiment, generation)
    state = groups.neutral_state(1)
    encoded = groups.apply_state(state)
    assert all(np.isfinite(values).all() for values in encoded.values())
    room_state, room_action = ROOM[generation]
    assert sum(values.shape[-1] for values in encoded.values()) <= room_state
    assert sum(len(key.names) for key in embodiment.action.values()) <= room_action
    rng = np.random.default_rng(0)
    chunk = {key: rng.uniform(-1, 1, (embodiment.horizon, width)) for key, width in groups.action_dims.items()}
    decoded = groups.unapply_action(chunk, state)
    for key, spec in embodiment.action.items():
        assert decoded[key].shape == (embodiment.horizon, len(spec.names)), key
        assert np.isfinite(decoded[key]).all(), key


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_robot_says_where_its_facts_are_from(robot: str) -> None:
    """The head of a file names its sources, and what is assumed is marked as such."""
    text = available_embodiments()[robot].read_text(encoding="utf-8")
    head = re.match(r"(?:#[^\n]*\n)+", text)
    assert head is not None and len(head.group().splitlines()) >= 3
    assert "assumed" in text
