"""State and action groups: every variant of the reference, and what the constructor refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.modality import ActionConfig, ActionFormat, ActionRep, ActionType, ModalityConfig
from groot_ros.processing.pose import from_homogeneous, homogeneous, matrix_from_rotvec
from groot_ros.processing.scaling import by_flags
from groot_ros.processing.state_action import StateActionProcessor
from groot_ros.processing.statistics import TagStatistics

RELATIVE_EEF = ("eef_9d", "eef_vec")


def build(config: dict[str, Any], variant: dict[str, Any]) -> StateActionProcessor:
    """The processor of one variant of proc_config.json."""
    sincos = variant["sin_cos_embedding_keys"]
    state = ModalityConfig.from_dict(config["modality_config"]["state"], "state")
    state = replace(state, sin_cos_embedding_keys=None if sincos is None else tuple(sincos))
    action = ModalityConfig.from_dict(config["modality_config"]["action"], "action")
    used = tuple(config["action_keys_used"])
    configs = tuple(action.action_config(key) for key in used)
    (statistics,) = config["statistics"].values()
    return by_flags(
        state,
        replace(action, modality_keys=used, action_configs=configs),
        TagStatistics(statistics, "statistics"),
        use_percentiles=variant["use_percentiles"],
        clip_outliers=variant["clip_outliers"],
        apply_sincos=variant.get("apply_sincos_state_encoding", False),
        use_relative_action=variant["use_relative_action"],
    )


def comparable(name: str, key: str, variant: dict[str, Any], array: np.ndarray) -> np.ndarray:
    """Leaves out the known defect of the set: rounding noise divided by rounding noise (golden/LAYOUT.md)."""
    if name == "norm_action" and key in RELATIVE_EEF and variant["use_relative_action"]:
        array = array.copy()
        array[..., 0, :3] = 0
    return array


def test_golden_state_action_variants(n1d7: Path) -> None:
    config = json.loads((n1d7 / "proc_config.json").read_text())
    io = load_file(n1d7 / "proc_io.safetensors")

    def inputs(name: str) -> dict[str, np.ndarray]:
        return {key.rsplit(".", 1)[1]: value for key, value in io.items() if key.startswith(f"in.{name}.")}

    assert config["variants"]
    for variant in config["variants"]:
        processor = build(config, variant)
        state, action = inputs("state"), inputs("action")
        norm_state, norm_action = processor.apply_state(state), processor.apply_action(action, state)
        results = {
            "norm_state": norm_state,
            "norm_action": norm_action,
            "unnorm_state": processor.unapply_state(norm_state),
            "unnorm_action": processor.unapply_action(norm_action, state),
            "batched_unnorm_action": processor.unapply_action(inputs("batched_norm_action"), inputs("batched_state")),
        }
        stored = [key for key in io if key.startswith(f"{variant['name']}.")]
        assert stored
        for full in stored:
            _, name, key = full.split(".")
            result, expected = results[name][key], io[full]
            assert result.dtype == expected.dtype, full
            np.testing.assert_allclose(
                comparable(name, key, variant, result),
                comparable(name, key, variant, expected),
                rtol=0,
                # Plain numbers are reproduced to the last bit; the reference's rot6d conversion is float32.
                atol=1e-7 if key in RELATIVE_EEF else 0,
                err_msg=full,
            )


def group(low: Any, high: Any) -> dict[str, Any]:
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    return {
        "min": low.tolist(),
        "max": high.tolist(),
        "mean": ((low + high) / 2).tolist(),
        "std": ((high - low) / 4).tolist(),
        "q01": (low + 0.1 * (high - low)).tolist(),
        "q99": (high - 0.1 * (high - low)).tolist(),
    }


STATISTICS: dict[str, Any] = {
    "state": {"arm": group([-2, -2], [2, 2]), "pose": group([-1] * 16, [1] * 16)},
    "action": {"arm": group([-2, -2], [2, 2]), "pose": group([-1] * 16, [1] * 16)},
    "relative_action": {
        "arm": group([[-1, -1], [-2, -2], [-3, -3]], [[1, 1], [2, 2], [3, 3]]),
        "pose": group([[-4] * 16] * 3, [[4] * 16] * 3),
    },
}
RELATIVE_JOINT = ActionConfig(ActionRep.RELATIVE, ActionType.NON_EEF, ActionFormat.DEFAULT)
RELATIVE_MATRIX = ActionConfig(ActionRep.RELATIVE, ActionType.EEF, ActionFormat.DEFAULT)


def small(statistics: dict[str, Any] = STATISTICS, **options: Any) -> StateActionProcessor:
    mean_std = options.pop("mean_std", None)
    configs = options.pop("configs", (RELATIVE_JOINT, RELATIVE_MATRIX))
    settings = {
        "use_percentiles": True,
        "clip_outliers": True,
        "apply_sincos": False,
        "use_relative_action": True,
        **options,
    }
    return by_flags(
        ModalityConfig((-1, 0), ("arm", "pose"), mean_std_embedding_keys=mean_std),
        ModalityConfig((0, 1, 2), ("arm", "pose"), mean_std_embedding_keys=mean_std, action_configs=configs),
        TagStatistics(statistics, "statistics.json: robot"),
        **settings,
    )


def rigid(seed: int, *shape: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    matrices = np.zeros((*shape, 4, 4))
    matrices[..., :3, :3] = matrix_from_rotvec(generator.uniform(-1, 1, (*shape, 3)))
    matrices[..., :3, 3] = generator.uniform(-1, 1, (*shape, 3))
    matrices[..., 3, 3] = 1
    return from_homogeneous(matrices, ActionFormat.DEFAULT)


def inputs(batch: tuple[int, ...] = ()) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    state = {"arm": generator.uniform(-0.4, 0.4, (*batch, 2, 2)), "pose": rigid(2, *batch, 2)}
    action = {"arm": generator.uniform(-0.4, 0.4, (*batch, 3, 2)), "pose": rigid(3, *batch, 3)}
    return state, action


def test_the_last_state_row_is_the_reference_and_each_step_has_its_own_scale() -> None:
    state, action = inputs()
    result = small().apply_action(action, state)["arm"]
    expected = (action["arm"] - state["arm"][-1]) / [[1], [2], [3]]
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_relative_matrices_are_reference_inverse_times_pose() -> None:
    state, action = inputs()
    form = ActionFormat.DEFAULT
    expected = np.linalg.inv(homogeneous(state["pose"][-1], form)) @ homogeneous(action["pose"], form)
    result = small().apply_action(action, state)["pose"]
    np.testing.assert_allclose(result, from_homogeneous(expected, form) / 4, atol=1e-12)


def test_batched_groups_equal_single_ones_and_come_back() -> None:
    processor = small()
    state, action = inputs((3,))
    normal = processor.apply_action(action, state)
    back = processor.unapply_action(normal, state)
    for key in action:
        np.testing.assert_allclose(back[key], action[key], atol=1e-12, err_msg=key)
        single = processor.apply_action(
            {name: value[1] for name, value in action.items()}, {name: value[1] for name, value in state.items()}
        )
        np.testing.assert_array_equal(single[key], normal[key][1])


def test_delta_is_handled_as_absolute() -> None:
    delta = replace(RELATIVE_JOINT, rep=ActionRep.DELTA)
    state, action = inputs()
    result = small(configs=(delta, delta), use_percentiles=False).apply_action(action, state)
    np.testing.assert_allclose(result["arm"], action["arm"] / 2, atol=1e-12)


def test_mean_std_groups_are_limited_as_actions_but_not_as_states() -> None:
    processor = small(mean_std=("arm",), use_relative_action=False)
    state, action = inputs()
    state["arm"][:], action["arm"][:] = 3.0, 3.0  # std is 1, mean 0
    assert (processor.apply_state(state)["arm"] == 3).all()
    assert (processor.apply_action(action, state)["arm"] == 1).all()


def test_state_limits_are_the_extremes_not_the_percentiles() -> None:
    low, high = small().state_limits("arm")
    np.testing.assert_array_equal([low, high], [[-2, -2], [2, 2]])
    low[:] = 0  # a copy
    assert small().state_limits("arm")[0][0] == -2
    with pytest.raises(ProcessorError, match="one of arm, pose; found 'leg'"):
        small().state_limits("leg")


def test_action_limits_are_absolute_and_the_extremes() -> None:
    low, high = small().action_limits("arm")
    np.testing.assert_array_equal([low, high], [*small()._statistics.extremes("action", "arm")])
    with pytest.raises(ProcessorError, match="one of arm, pose; found 'leg'"):
        small().action_limits("leg")


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(statistics: dict[str, Any]) -> None:
        for name in path[:-1]:
            statistics = statistics[name]
        del statistics[path[-1]]

    return change


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(statistics: dict[str, Any]) -> None:
        for name in path[:-1]:
            statistics = statistics[name]
        statistics[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (drop("state"), ["robot.state", "no such key"]),
        (drop("state", "arm"), ["robot.state", "'arm'", "groups pose"]),
        (drop("action", "pose"), ["robot.action", "'pose'", "groups arm"]),
        (drop("relative_action"), ["robot.relative_action", "no such key"]),
        (drop("relative_action", "arm"), ["robot.relative_action", "'arm'"]),
        (drop("state", "arm", "q99"), ["robot.state.arm", "'q99'"]),
        (put([[1.0]], "action", "arm", "min"), ["robot.action.arm.min", "a list [D]", "(1, 1)"]),
        (put(group([0] * 3, [1] * 3), "state", "arm"), ["robot.state.arm", "2 numbers", "found 3"]),
        (put(group([[0] * 2] * 2, [[1] * 2] * 2), "relative_action", "arm"), ["[3][2]", "(2, 2)", "another horizon"]),
        (put(group([0] * 9, [1] * 9), "action", "pose"), ["robot.action.pose", "16 numbers", "found 9"]),
    ],
)
def test_statistics_that_do_not_fit_are_named(change: Callable[[Any], None], parts: list[str]) -> None:
    statistics = copy.deepcopy(STATISTICS)
    change(statistics)
    if parts[0] == "robot.action.pose":  # the width is checked last: let the other statistics agree
        statistics["relative_action"]["pose"] = group([[0] * 9] * 3, [[1] * 9] * 3)
    with pytest.raises(ProcessorError) as caught:
        small(statistics)
    for part in parts:
        assert part in str(caught.value)


def test_absolute_processing_needs_no_relative_statistics() -> None:
    statistics = copy.deepcopy(STATISTICS)
    del statistics["relative_action"]
    assert small(statistics, use_relative_action=False).action_dims == {"arm": 2, "pose": 16}
