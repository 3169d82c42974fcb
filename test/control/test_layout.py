"""Between the model's rows and what is commanded: units, columns, orientations in all their ways to be written."""

from __future__ import annotations

import numpy as np
import pytest
from control_rig import LEAVES, T0, World, arm, column, home, mixed
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.control import rotation
from groot_ros.control.layout import Layout
from groot_ros.embodiment.load import available_embodiments, load_embodiment
from groot_ros.embodiment.units import to_model
from groot_ros.observation.orientation import model_orientation, orientation_numbers
from groot_ros.observation.types import Observation

TURNS = {"none": {}, "tool": {"tool_rotation": [0.0, 0.0, 0.7071067811865476, 0.7071067811865476]}}
READING = {"euler_reading": "xyz_as_XYZ"}


def random_values(layout: Layout, seed: int, rows: int = 16, tilt: float = 1.2) -> np.ndarray:
    """Commands [rows, C] inside all limits; orientations up to ``tilt`` rad from none."""
    rng = np.random.default_rng(seed)
    space = layout.space
    low = np.where(np.isfinite(space.lower), space.lower, -tilt / 3**0.5)
    high = np.where(np.isfinite(space.upper), space.upper, tilt / 3**0.5)
    return space.plus(home(space)[None], rng.uniform(low, high, (rows, space.tangent_count)))


def zeros(layout: Layout, rows: int = 16) -> dict[str, np.ndarray]:
    return {key: np.zeros((rows, len(spec.names))) for key, spec in layout.embodiment.action.items()}


@pytest.mark.parametrize("name", list(available_embodiments()))
def test_shipped_robots_command_what_their_rows_say(name: str) -> None:
    """The columns of joints against the unit conversion alone; other numbers there and back."""
    layout = Layout(load_embodiment(name))
    embodiment, space = layout.embodiment, layout.space
    values = random_values(layout, 3)
    rows = {**zeros(layout), **layout.model_rows(values, zeros(layout))}
    for key in layout.keys:
        spec = embodiment.action[key]
        if spec.joints is not None:
            ros = values[:, [layout.joint_columns[joint] for joint in spec.joints]]
            np.testing.assert_allclose(rows[key], to_model(embodiment, spec, ros), atol=1e-9)
    np.testing.assert_allclose(space.minus(layout.values(rows), values), 0.0, atol=1e-6)
    assert len(space.names) == len(set(space.names)) == space.tangent_count
    assert space.lower.shape == space.velocity.shape == space.rests_at_zero.shape == (space.tangent_count,)


def test_columns_names_and_limits() -> None:
    layout = Layout(mixed())
    space = layout.space
    assert space.names == (
        "a", "b", "g", "c",
        "tool.pose.position.x", "tool.pose.position.y", "tool.pose.position.z",
        "tool.rotation.x", "tool.rotation.y", "tool.rotation.z",
        "base.linear.x", "mode.data.0",
    )  # fmt: skip
    assert space.rotations == ((7, 7),) and space.value_count == 13
    assert dict(zip(space.names, space.rests_at_zero.tolist(), strict=True)) == {
        name: name == "base.linear.x" for name in space.names
    }
    kinds = dict(zip(space.names, space.interpolation, strict=True))
    assert (kinds["g"], kinds["mode.data.0"], kinds["a"]) == ("step", "step", "cubic")
    index = space.names.index
    assert (space.lower[index("b")], space.upper[index("b")]) == (-2.0, 2.0)
    assert (space.velocity[index("c")], space.acceleration[index("c")]) == (1.5, 6.0)
    assert (space.velocity[7], space.acceleration[9]) == (2.0, 8.0) and np.isinf(space.lower[7:10]).all()
    assert np.isinf(space.velocity[index("mode.data.0")])


def test_units_signs_and_offsets_are_undone() -> None:
    layout = Layout(mixed())
    actions = zeros(layout, 1)
    actions["wrist"][:] = np.rad2deg(-0.3 + 0.1)
    actions["place"][:] = [100.0, -200.0, 300.0]  # mm
    values = layout.values(actions)[0]
    assert values[column(layout.space, "c")] == pytest.approx(0.3)
    np.testing.assert_allclose(values[4:7], [0.1, -0.2, 0.3])


@settings(max_examples=80, deadline=None)
@given(
    form=st.sampled_from(list(LEAVES)),
    tool=st.booleans(),
    reading=st.booleans(),
    seed=st.integers(0, 9999),
    tilt=st.sampled_from([0.0, 1e-7, 0.5, 1.2]),
)
def test_orientations_come_back_however_they_are_written(
    form: str, tool: bool, reading: bool, seed: int, tilt: float
) -> None:
    extra = {**(TURNS["tool"] if tool else {}), **(READING if reading else {})}
    layout = Layout(mixed(form, extra))
    values = random_values(layout, seed, tilt=tilt)
    rows = layout.model_rows(values, zeros(layout))
    way = layout.space.minus(layout.values({**zeros(layout), **rows}), values)
    np.testing.assert_allclose(way, 0.0, atol=1e-6)


@pytest.mark.parametrize("form", list(LEAVES))
@pytest.mark.parametrize("tool", [False, True])
def test_what_is_commanded_is_measured_as_the_same_numbers(form: str, tool: bool) -> None:
    """A model that repeats the orientation in its state asks for the one that the robot has."""
    world = World(mixed(form, TURNS["tool"] if tool else None))
    first = world.space.rotations[0][0]
    world.where[first : first + 4] = rotation.exp(np.array([0.3, -0.5, 0.8]))
    world.ticks(1)
    observation = world.assembler.assemble(world.now_ns, "go")
    assert isinstance(observation, Observation)
    seen, known = world.layout.measured(observation)
    assert known[:11].all()
    np.testing.assert_allclose(np.abs(seen[first : first + 4] @ world.where[first : first + 4]), 1.0, atol=1e-6)
    actions = zeros(world.layout, 1)
    actions["turn"] = observation.state["turn"][-1:].astype(np.float64)
    np.testing.assert_allclose(world.space.minus(world.layout.values(actions)[0], seen)[7:10], 0.0, atol=1e-6)


def test_an_orientation_agrees_with_the_formulas_of_observations() -> None:
    tool = TURNS["tool"]["tool_rotation"]
    layout = Layout(mixed("rotvec", TURNS["tool"]))
    quaternion = rotation.exp(np.array([0.2, 0.4, -0.6]))
    values = home(layout.space)[None].copy()
    values[0, 7:11] = quaternion
    rows = layout.model_rows(values, zeros(layout, 1))
    expected = rotation.log(np.array(model_orientation(quaternion.tolist(), tool, None)))
    np.testing.assert_allclose(rows["turn"][0], expected, atol=1e-9)
    numbers = orientation_numbers(quaternion.tolist(), tool, None)
    np.testing.assert_allclose(rows["turn"][0], [numbers[leaf] for leaf in LEAVES["rotvec"]], atol=1e-9)


@pytest.mark.parametrize(
    ("form", "vector", "near"),
    [
        ("quaternion", [0.1, 0.2, 0.3], lambda rows: -rows),
        ("rpy", [0.1, 0.2, 0.3], lambda rows: rows + [[2 * np.pi, 0.0, -2 * np.pi]]),
        ("rotvec", [0.0, 0.0, 3.0], lambda rows: rows * (1 - 2 * np.pi / 3.0)),
        ("rotvec", [1.0, 2.0, -2.0], lambda rows: rows * (1 + 2 * np.pi / 3.0)),
    ],
)
def test_of_the_ways_to_write_a_turn_the_one_nearest_to_the_models_is_taken(
    form: str, vector: list[float], near
) -> None:
    layout = Layout(mixed(form))
    values = home(layout.space)[None].copy()
    values[0, 7:11] = rotation.exp(np.array(vector))
    plain = layout.model_rows(values, zeros(layout, 1))["turn"]
    wanted = near(plain)
    rows = layout.model_rows(values, {**zeros(layout, 1), "turn": wanted})["turn"]
    np.testing.assert_allclose(rows, wanted, atol=1e-9)
    way = layout.space.minus(layout.values({**zeros(layout, 1), "turn": rows}), values)
    np.testing.assert_allclose(way[:, 7:10], 0.0, atol=1e-7)


@pytest.mark.parametrize(
    ("form", "row"), [("quaternion", [0.0] * 4), ("rot6d", [0.0] * 6), ("rot6d", [1.0, 0, 0, 2.0, 0, 0])]
)
def test_rows_that_are_no_orientation_are_refused_by_name(form: str, row: list[float]) -> None:
    layout = Layout(mixed(form))
    actions = {**zeros(layout, 2)}
    good = layout.model_rows(home(layout.space)[None].repeat(2, axis=0), zeros(layout, 2))
    actions |= good
    actions["turn"][1] = row
    with pytest.raises(ValueError, match="is no orientation"):
        layout.values(actions)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda actions: actions.pop("grip"), "lacks action key 'grip'"),
        (lambda actions: actions.update(grip=np.zeros((16, 2))), "action key 'grip': expected [H, 1]"),
        (lambda actions: actions.update(grip=np.zeros(16)), "found [16]"),
        (lambda actions: actions.update(grip=np.zeros((15, 1))), "action key"),
    ],
)
def test_a_chunk_of_another_shape_is_refused_by_key(change, expected: str) -> None:
    layout = Layout(arm())
    actions = zeros(layout)
    change(actions)
    with pytest.raises(ValueError) as refused:
        layout.values(actions)
    assert expected in str(refused.value)


@pytest.mark.parametrize("place", ["before", "after"])
def test_keys_that_nobody_is_sent_are_left_out(place: str) -> None:
    data = arm().model_dump()
    again = {"again": {**data["action"]["arm"], "command": False}}
    data["action"] = {**again, **data["action"]} if place == "before" else {**data["action"], **again}
    layout = Layout(type(arm()).model_validate(data))
    assert layout.space.names == ("a", "b", "g") and "again" not in layout.keys
    actions = zeros(layout)
    actions["again"] += 1.0
    np.testing.assert_array_equal(layout.values(actions), 0.0)
    actions.pop("again")
    with pytest.raises(ValueError, match="lacks action key 'again'"):
        layout.values(actions)


def test_measured_joints_are_found_in_whatever_key_they_are() -> None:
    world = World(mixed())
    for name, value in (("a", 0.4), ("g", 0.05), ("c", -0.7), ("tool.pose.position.z", 0.2)):
        world.where[column(world.space, name)] = value
    world.ticks(1)
    observation = world.assembler.assemble(world.now_ns, "go")
    assert isinstance(observation, Observation)
    seen, known = world.layout.measured(observation)
    np.testing.assert_allclose(seen, world.where, atol=1e-6)
    unknown = [name for name, is_known in zip(world.space.names, known, strict=True) if not is_known]
    assert unknown == ["mode.data.0"]
    assert observation.stamp_ns == world.now_ns > T0
