"""N1.5's modes and rotations one by one: the rules, round trips, and what cannot be had."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.modes import MODES, ROTATIONS, from_matrix, key_options, mode_codec, rotation_codec, to_matrix

GROUP = {"min": [-4, 1], "max": [2, 1], "mean": [1, 2], "std": [0.5, 0], "q01": [1, 1], "q99": [3, 1]}


@pytest.mark.parametrize(
    ("mode", "value", "encoded", "decoded"),
    [
        # Outside the range nothing is limited; equal ends give 0 and come back as the end.
        ("min_max", [5, 7], [2, 0], [14, 1]),
        ("min_max", [-1, 1], [0, 0], [-4, 1]),
        # Limited on the way in only; equal ends let the value pass, and be limited.
        ("q99", [5, 7], [1, 1], [7, 1]),
        ("q99", [2, 0.25], [0, 0.25], [4, 1]),
        # A deviation of 0 passes forward and gives the mean back.
        ("mean_std", [2, 7], [2, 7], [2, 2]),
        ("scale", [2, 0.5], [0.5, 0.5], None),
        ("binary", [0.6, 0.5], [1, 0], [1, 0]),
        ("none", [0.6, 7], [0.6, 7], [0.6, 7]),
    ],
)
def test_modes(mode: str, value: list[float], encoded: list[float], decoded: list[float] | None) -> None:
    codec = mode_codec(mode, GROUP, "group", 2)
    given_value = np.array([value], dtype=np.float32)
    np.testing.assert_allclose(codec.encode(given_value), [encoded], atol=1e-6)
    assert codec.encode(given_value).dtype == np.float32
    assert codec.invertible == (decoded is not None)
    if decoded is not None:
        np.testing.assert_allclose(codec.decode(given_value), [decoded], atol=1e-6)


def test_scale_of_nothing_is_nothing() -> None:
    codec = mode_codec("scale", {"min": [0], "max": [0]}, "group", 1)
    assert codec.encode(np.array([[3.0]])).tolist() == [[0.0]]


def test_every_mode_has_a_codec_of_the_right_width() -> None:
    for mode in MODES:
        assert mode_codec(mode, GROUP, "group", 2).width == (4 if mode == "sin_cos" else 2)


@given(arrays(np.float64, (3, 2), elements=st.floats(-50, 50)), st.sampled_from(["min_max", "mean_std"]))
def test_what_is_encoded_comes_back(value: np.ndarray, mode: str) -> None:
    group = {"min": [-4, 1], "max": [2, 9], "mean": [1, 2], "std": [0.5, 3]}
    codec = mode_codec(mode, group, "group", 2)
    np.testing.assert_allclose(codec.decode(codec.encode(value)), value, atol=1e-9)


def test_a_statistic_that_a_mode_reads_must_be_there() -> None:
    with pytest.raises(ProcessorError, match=r"metadata.json: x: expected the key 'q01'; found keys min, max"):
        mode_codec("q99", {"min": [0], "max": [1]}, "metadata.json: x", 1)


def written(rotation: Rotation, kind: str) -> np.ndarray:
    """scipy's way to write a rotation in one of the forms."""
    if kind == "quaternion":
        return np.roll(rotation.as_quat(canonical=True), 1)
    if kind == "rotation_6d":
        return rotation.as_matrix()[:2].reshape(6)
    return rotation.as_euler("XYZ") if kind == "euler_angles_rpy" else rotation.as_rotvec()


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(ROTATIONS)), st.sampled_from(list(ROTATIONS)))
def test_rotations_are_written_as_scipy_does(seed: int, source: str, target: str) -> None:
    rotation = Rotation.random(random_state=np.random.RandomState(seed))
    turned = from_matrix(to_matrix(written(rotation, source), source), target)
    back = Rotation.from_matrix(to_matrix(turned, target))
    assert (back.inv() * rotation).magnitude() < 1e-6
    np.testing.assert_allclose(turned[..., :3], written(rotation, target)[..., :3], atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(ROTATIONS)), st.sampled_from(list(ROTATIONS)))
def test_a_converted_rotation_stays_in_range_and_comes_back(seed: int, source: str, target: str) -> None:
    rotation = Rotation.random(random_state=np.random.RandomState(seed))
    codec = rotation_codec(source, target, "min_max")
    value = written(rotation, source)[None]
    encoded = codec.encode(value)
    assert encoded.shape == (1, codec.width) == (1, ROTATIONS[target].width)
    assert np.abs(encoded).max() <= 1 + 1e-9
    bound = ROTATIONS[target].bound
    np.testing.assert_allclose(encoded * bound, rotation_codec(source, target, "none").encode(value), atol=1e-9)
    back = Rotation.from_matrix(to_matrix(codec.decode(encoded), source)[0])
    assert (back.inv() * rotation).magnitude() < 1e-6


def test_converted_rotations_keep_the_dtype_and_name_their_neutral() -> None:
    codec = rotation_codec("quaternion", "euler_angles_rpy", "min_max")
    assert codec.neutral is not None
    value = np.array([codec.neutral], dtype=np.float32)
    assert codec.encode(value).dtype == codec.decode(codec.encode(value)).dtype == np.float32
    assert (codec.encode(value) == 0).all()


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        (["min_max"], ["modes", "an object", "['min_max']"]),
        ({"leg": "min_max"}, ["modes", "keys among arm, hand", "'leg'"]),
        ({"arm": "minmax"}, ["modes.arm", "min_max, q99", "'minmax'"]),
    ],
)
def test_refused_options_are_named(found: Any, parts: list[str]) -> None:
    with pytest.raises(ProcessorError) as caught:
        key_options({"modes": found}, "modes", ("arm", "hand"), MODES, "yaml.state")
    for part in ["yaml.state.", *parts]:
        assert part in str(caught.value)


def test_null_is_the_same_as_nothing() -> None:
    assert key_options({"modes": {"arm": None, "hand": "q99"}}, "modes", ("arm", "hand"), MODES, "") == {"hand": "q99"}
    assert key_options({}, "modes", ("arm",), MODES, "") == {}
