"""A chunk seen from a new state: encoded, not limited, and decoded to the same targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processing_helpers import held, observation

from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.modality import ActionConfig, ActionFormat, ActionRep, ActionType, ModalityConfig
from groot_ros.processing.pose import from_homogeneous, matrix_from_rotvec
from groot_ros.processing.processor import Processor
from groot_ros.processing.scaling import by_flags
from groot_ros.processing.state_action import StateActionProcessor
from groot_ros.processing.statistics import TagStatistics

HORIZON = 5
FORMATS = {"rot6d": ActionFormat.XYZ_ROT6D, "rotvec": ActionFormat.XYZ_ROTVEC, "matrix": ActionFormat.DEFAULT}
WIDTHS = {"arm": 3, "rot6d": 9, "rotvec": 6, "matrix": 16}


def statistics(half: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Groups with the range +-`half`, a number or one per step."""
    result = {}
    for key, width in WIDTHS.items():
        high = np.multiply.outer(np.asarray(half[key], dtype=float), np.ones(width))
        result[key] = {
            name: (sign * high).tolist() for name, sign in (("min", -1), ("max", 1), ("q01", -1), ("q99", 1))
        }
        result[key] |= {"mean": (0 * high).tolist(), "std": (high / 2).tolist()}
    return result


def processor(relative: bool, *, clip: bool = True, mean_std: bool = False) -> StateActionProcessor:
    """Joints and three ways to write a pose; the scale of relative groups grows with the step."""
    rep = ActionRep.RELATIVE if relative else ActionRep.ABSOLUTE
    configs = [ActionConfig(rep, ActionType.NON_EEF, ActionFormat.DEFAULT)]
    configs += [ActionConfig(rep, ActionType.EEF, form) for form in FORMATS.values()]
    wide = statistics(dict.fromkeys(WIDTHS, 4.0))
    by_step = statistics(dict.fromkeys(WIDTHS, np.linspace(2.0, 4.0, HORIZON)))
    embedding = ("arm",) if mean_std else None
    return by_flags(
        ModalityConfig((-1, 0), tuple(WIDTHS)),
        ModalityConfig(
            tuple(range(HORIZON)), tuple(WIDTHS), mean_std_embedding_keys=embedding, action_configs=tuple(configs)
        ),
        TagStatistics({"state": wide, "action": wide, "relative_action": by_step}, "statistics.json: robot"),
        use_percentiles=False,
        clip_outliers=clip,
        apply_sincos=False,
        use_relative_action=True,
    )


def groups(seed: int, rows: int, reach: float = 0.4) -> dict[str, np.ndarray]:
    """Joints and poses within `reach` of 0; one pose in three ways."""
    generator = np.random.default_rng(seed)
    matrices = np.zeros((rows, 4, 4))
    matrices[:, :3, :3] = matrix_from_rotvec(generator.uniform(-reach, reach, (rows, 3)))
    matrices[:, :3, 3] = generator.uniform(-reach, reach, (rows, 3))
    matrices[:, 3, 3] = 1
    poses = {key: from_homogeneous(matrices, form) for key, form in FORMATS.items()}
    return {"arm": generator.uniform(-reach, reach, (rows, 3)), **poses}


@pytest.mark.parametrize("mean_std", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_targets_of_an_old_state_are_the_same_targets_seen_from_a_new_one(relative: bool, mean_std: bool) -> None:
    own = processor(relative, mean_std=mean_std)
    old, new = groups(1, 2), groups(2, 2)
    chunk = own.decode_rows(np.random.default_rng(3).uniform(-0.2, 0.2, (HORIZON, 34)), old) if relative else None
    targets = groups(4, HORIZON) if chunk is None else {key: np.asarray(value) for key, value in chunk.items()}
    rows = own.encode_rows(targets, new)
    assert rows.dtype == np.float32 and rows.shape == (HORIZON, 34)
    back = own.decode_rows(rows, new)
    for key, value in targets.items():
        np.testing.assert_allclose(back[key], value, rtol=0, atol=2e-6, err_msg=key)
    from_old = own.encode_rows(targets, old)
    assert np.allclose(rows, from_old) is (not relative)


def test_every_step_has_the_scale_of_the_new_chunk() -> None:
    """A target that moves on by k rows is scaled with the row where it stands now."""
    own = processor(relative=True)
    state, targets = groups(1, 2), groups(2, HORIZON)
    rows = own.encode_rows(targets, state)[:, :3]
    shifted = {key: np.concatenate([value[2:], value[-1:], value[-1:]]) for key, value in targets.items()}
    moved = own.encode_rows(shifted, state)[:, :3]
    scale = np.linspace(2.0, 4.0, HORIZON)
    np.testing.assert_allclose(moved[:3], rows[2:] * (scale[2:] / scale[:3])[:, None], rtol=1e-6)


@pytest.mark.parametrize("relative", [False, True])
def test_a_target_outside_the_range_is_not_limited(relative: bool) -> None:
    own = processor(relative, clip=True)
    state, targets = groups(1, 2), groups(2, HORIZON)
    targets["arm"][:] = 9.0
    rows = own.encode_rows(targets, state)[:, :3]
    scale = np.linspace(2.0, 4.0, HORIZON)[:, None] if relative else 4.0
    expected = (9.0 - (state["arm"][-1] if relative else 0.0)) / scale
    np.testing.assert_allclose(rows, np.broadcast_to(expected, rows.shape), rtol=1e-6)
    assert (own.apply_action(targets, state)["arm"] == 1).all()  # as in training


def loaded(folder: Path) -> Processor:
    """The processor of the first tag of a checkpoint."""
    path = folder / "processor_config.json"
    if not path.is_file():
        return Processor.from_checkpoint(folder, "new_embodiment")
    return Processor.from_checkpoint(
        folder, next(iter(json.loads(path.read_text())["processor_kwargs"]["modality_configs"]))
    )


@pytest.mark.parametrize("generation", ["n1d5", "n1d6", "n1d7"])
def test_inside_the_range_it_is_what_training_sees(folders: dict[str, Path], generation: str) -> None:
    own = loaded(folders[generation])
    seen = observation(own)
    action = held(own, seen["state"])
    rows = own.encode_action(action, seen["state"])
    trained = own.encode(**seen, action=action)["action"]
    assert rows.dtype == np.float32
    inside = np.abs(rows) <= 1
    np.testing.assert_allclose(rows[inside], trained[: len(rows), : rows.shape[1]][inside], rtol=0, atol=2e-6)
    assert inside.mean() > 0.5
    only_references = {key: seen["state"][key] for key in own._groups.reference_keys()}
    np.testing.assert_array_equal(own.encode_action(action, only_references), rows)


def test_n1d5_percentiles_do_not_limit_it(
    n1d5_checkpoint: Path, edit_json: Callable[[Path, Callable[[Any], None]], None]
) -> None:
    path = n1d5_checkpoint / "experiment_cfg" / "modality_config.json"
    edit_json(path, lambda d: d["new_embodiment"]["action"]["normalization_modes"].update(arm="q99"))
    own = loaded(n1d5_checkpoint)
    seen = observation(own)
    action = held(own, seen["state"])
    action["arm"] = np.tile(np.array([10.0, 2.0]), (own.action_horizon, 1))
    # q01..q99 of the first joint: -1.6..1.6; of the second: 0.4..3.6
    np.testing.assert_allclose(own.encode_action(action, seen["state"])[:, :2], [[6.25, 0.0]] * 3, atol=1e-6)


DEFECTS = {
    "missing": (lambda a: a.pop("arm"), "action: .*missing arm"),
    "unknown": (lambda a: a.update(leg=a["arm"]), "action: .*unknown leg"),
    "rows": (lambda a: a.update(arm=a["arm"][:2]), r"action 'arm': .*shape \[3, 2\].*shape \[2, 2\]"),
    "NaN": (lambda a: a["arm"].__setitem__((1, 0), np.nan), r"action 'arm': .*nan at index \[1, 0\]"),
    "no rotation": (lambda a: a["turn"].__setitem__(0, 0.0), "action: .*rotation that cannot be encoded"),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_bad_actions_are_refused_by_name(n1d5_checkpoint: Path, case: str) -> None:
    change, expected = DEFECTS[case]
    own = loaded(n1d5_checkpoint)
    state = observation(own)["state"]
    action = held(own, state)
    change(action)
    with pytest.raises(ProcessorError, match=expected):
        own.encode_action(action, state)


def test_a_relative_action_without_its_reference_is_refused(checkpoint: Path) -> None:
    own = loaded(checkpoint)
    state = observation(own)["state"]
    reference = own._groups.reference_keys()[0]
    with pytest.raises(ProcessorError, match=f"the key '{reference}'"):
        own.encode_action(held(own, state), {key: value for key, value in state.items() if key != reference})
