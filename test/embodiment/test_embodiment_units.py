"""Units: known values, and an inverse that is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import ActionKey, Embodiment
from groot_ros.embodiment.units import to_model, to_ros

SO101 = load_embodiment("so101")
POSITION_UNITS = ["rad", "deg", "m", "mm", "percent", "signed_percent", "unitless"]


def gripper(**changes: Any) -> tuple[Embodiment, ActionKey]:
    """A robot whose only joint has limits 0.5..2.5 rad, and its key."""
    data = SO101.model_dump()
    data["state"] = {"gripper": {"stream": "joints", "joints": ["gripper"]}}
    data["action"] = {"gripper": {"joints": ["gripper"], **changes}}
    data["limits"] = {"gripper": {"lower": 0.5, "upper": 2.5, "velocity": 1.0}}
    data["outputs"]["arm"]["keys"] = ["gripper"]
    embodiment = Embodiment.model_validate(data)
    return embodiment, embodiment.action["gripper"]


@pytest.mark.parametrize(
    ("changes", "ros", "model"),
    [
        ({"unit": "rad"}, 1.25, 1.25),
        ({"unit": "rad", "sign": [-1], "offset": [0.5]}, 1.25, -0.75),
        ({"unit": "deg"}, np.pi / 6, 30.0),
        ({"unit": "deg", "sign": [-1], "offset": [np.pi / 2]}, np.pi / 6, 60.0),
        ({"unit": "m"}, 0.02, 0.02),
        ({"unit": "mm", "offset": [0.001]}, 0.02, 21.0),
        ({"unit": "percent"}, 0.5, 0.0),
        ({"unit": "percent"}, 2.5, 100.0),
        ({"unit": "percent"}, 1.0, 25.0),
        ({"unit": "percent", "sign": [-1]}, 1.0, 75.0),
        ({"unit": "signed_percent"}, 0.5, -100.0),
        ({"unit": "signed_percent"}, 2.0, 50.0),
        ({"unit": "signed_percent", "sign": [-1]}, 2.0, -50.0),
        ({"unit": "unitless"}, 7.0, 7.0),
    ],
)
def test_known_values(changes: dict[str, Any], ros: float, model: float) -> None:
    embodiment, key = gripper(**changes)
    np.testing.assert_allclose(to_model(embodiment, key, [ros]), [model], atol=1e-12)
    np.testing.assert_allclose(to_ros(embodiment, key, [model]), [ros], atol=1e-12)


@given(
    unit=st.sampled_from(POSITION_UNITS),
    sign=st.sampled_from([-1, 1]),
    offset=st.floats(-4, 4),
    values=st.lists(st.floats(-10, 10), min_size=1, max_size=8),
)
def test_to_ros_is_the_inverse(unit: str, sign: int, offset: float, values: list[float]) -> None:
    shift = {} if "percent" in unit else {"offset": [offset]}
    embodiment, key = gripper(unit=unit, sign=[sign], **shift)
    ros = np.array(values)[:, None]
    np.testing.assert_allclose(to_ros(embodiment, key, to_model(embodiment, key, ros)), ros, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    key = SO101.state["single_arm"]
    ros = np.random.default_rng(0).uniform(-1, 1, shape)
    model = to_model(SO101, key, ros)
    assert model.shape == shape and model.dtype == np.float64
    np.testing.assert_allclose(model, np.rad2deg(ros))


@pytest.mark.parametrize("shape", [(), (4,), (5, 4)])
def test_a_wrong_number_of_values_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[..., 5\] values"):
        to_model(SO101, SO101.state["single_arm"], np.zeros(shape))
