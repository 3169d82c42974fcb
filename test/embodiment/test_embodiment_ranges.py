"""Training ranges against the limits of a robot's joints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import available_embodiments, embodiment_generations, load_embodiment
from groot_ros.embodiment.ranges import check_training_ranges
from groot_ros.embodiment.untrained import statistics
from groot_ros.embodiment.vocabulary import GENERATIONS

ROBOTS = [
    (name, generation)
    for name, path in available_embodiments().items()
    for generation in embodiment_generations(path) or GENERATIONS
]


def trained(name: str, generation: str):
    state = statistics(load_embodiment(name, generation), generation)["state"]
    return lambda key: (np.array(state[key]["min"]), np.array(state[key]["max"]))


@pytest.mark.parametrize(("name", "generation"), ROBOTS)
def test_a_robots_own_ranges_fit(name: str, generation: str) -> None:
    check_training_ranges(load_embodiment(name, generation), trained(name, generation), "ckpt")


def test_degrees_are_no_radians() -> None:
    with pytest.raises(EmbodimentError) as caught:
        check_training_ranges(load_embodiment("sim_arm"), trained("so101", "n1d7"), "runs/so101")
    text = str(caught.value)
    for part in ("sim_arm.yaml:", "state.single_arm", "shoulder_pan", "rad", "runs/so101", "another unit"):
        assert part in text
    assert len(text.splitlines()) >= 6  # the gripper's percent too


@settings(deadline=None)
@given(joint=st.integers(0, 4), beyond=st.floats(0.01, 100), up=st.booleans())
def test_what_leaves_the_limits_by_more_than_their_width_is_refused(joint: int, beyond: float, up: bool) -> None:
    embodiment, own = load_embodiment("sim_arm"), trained("sim_arm", "n1d7")
    low, high = own("single_arm")
    span = high - low
    (high if up else low)[joint] += (1 if up else -1) * (span[joint] + beyond)
    with pytest.raises(EmbodimentError, match=r"state.single_arm.*"):
        check_training_ranges(embodiment, lambda key: (low, high) if key == "single_arm" else own(key), "ckpt")


@settings(deadline=None)
@given(share=st.floats(0, 1), shift=st.floats(-1, 1))
def test_a_part_of_the_limits_or_a_moved_zero_is_taken(share: float, shift: float) -> None:
    own = trained("sim_arm", "n1d7")

    def moved(key: str):
        low, high = own(key)
        middle, half = 0.5 * (low + high), 0.5 * share * (high - low)
        offset = shift * (high - low)
        return middle - half + offset, middle + half + offset

    check_training_ranges(load_embodiment("sim_arm"), moved, "ckpt")
