"""Random lives of a robot in virtual time: whatever is asked for and whenever, what it is told obeys its limits."""

from __future__ import annotations

import numpy as np
import pytest
from control_rig import World, assert_in_limits, home, mixed
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.control.limiter import Motion
from groot_ros.control.space import Space

EVENTS = st.one_of(
    st.tuples(st.just("run"), st.integers(1, 60)),
    st.tuples(st.just("idle"), st.integers(1, 30)),
    st.tuples(
        st.sampled_from(["stop", "start", "pause", "resume", "dry on", "dry off", "episode", "words"]), st.just(0)
    ),
    st.tuples(st.just("miss"), st.integers(1, 20)),
    st.tuples(st.just("latency"), st.integers(0, 30)),
    st.tuples(st.sampled_from(["stop inside", "pause inside", "restart inside", "miss inside"]), st.just(0)),
)


def happen(world: World, name: str, number: int) -> None:
    actions = {
        "run": lambda: world.run(number),
        "idle": lambda: world.ticks(number),
        "stop": world.stop,
        "start": world.supervisor.start,
        "pause": lambda: world.commander.brake(lambda: world.supervisor.pause(True)),
        "resume": lambda: world.supervisor.pause(False),
        "dry on": lambda: world.commander.set_dry_run(True),
        "dry off": lambda: world.commander.set_dry_run(False),
        "episode": world.timeline.restart,
        "words": lambda: setattr(world, "instruction", world.instruction + "!"),
        "miss": lambda: world.ticks(1, missed=number),
        "latency": lambda: setattr(world, "latency_ticks", number),
    }
    if name.endswith(" inside"):
        inner = {"restart": ("stop", "start"), "miss": ("miss",)}.get(name.split()[0], (name.split()[0],))
        world.inside = [lambda: [happen(world, each, 4) for each in inner]]
    else:
        actions[name]()


def told(world: World) -> None:
    """Keep, per tick, what a controller that holds the newest trajectory executes."""
    follow = world._follow
    world.executed = []

    def keep() -> None:
        follow()
        if world.sender.tracks:
            motion = world.sender.tracks[-1][2].motion(world.now_tick)
            world.executed.append((world.now_tick, motion.values, motion.velocity))

    world._follow = keep


def part(space: Space, columns: list[int]) -> Space:
    """The lines ``columns`` (tangent) of a space."""
    return Space(
        tuple(space.names[column] for column in columns), (), space.lower[columns], space.upper[columns],
        space.velocity[columns], space.acceleration[columns], tuple(space.interpolation[column] for column in columns),
        space.rests_at_zero[columns],
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["guided", "naive", "blend", "sync"])
@settings(max_examples=10, deadline=None)
@given(events=st.lists(EVENTS, min_size=2, max_size=14), seed=st.integers(0, 999), size=st.sampled_from([0.1, 1.0]))
def test_whatever_happens_the_robot_is_moved_within_its_limits(
    mode: str, events: list[tuple[str, int]], seed: int, size: float
) -> None:
    rng = np.random.default_rng(seed)
    world = World(mixed(gate={"start_jump": "clamp"}), mode=mode)
    told(world)

    def say(observation, prefix) -> np.ndarray:
        ways = rng.normal(0.0, size, world.space.tangent_count) + rng.normal(0.0, 0.1, (16, world.space.tangent_count))
        return world.space.plus(home(world.space)[None], ways)

    world.say = say
    world.start()
    for name, number in events:
        happen(world, name, number)
    world.stop()
    world.inside = []
    world.ticks(150)
    assert world.commander.settled
    space = world.space

    streams = [(time_ns // world.bench.pace.period_ns, motion) for time_ns, motion in world.sender.steps]
    assert_neighbours_in_limits(space, streams)
    if streams:
        last = streams[-1][1]
        assert not last.velocity.any() and last.values[-2] == 0.0  # the base stands
    # What a controller executes tick by tick, though one trajectory replaces another.
    arm = [0, 1]
    trajectories = [(tick, Motion(values[arm], velocity[arm])) for tick, values, velocity in world.executed]
    assert_neighbours_in_limits(part(space, arm), trajectories)


def assert_neighbours_in_limits(space: Space, told: list[tuple[int, Motion]]) -> None:
    """All that was told on ticks that follow one another."""
    ticks = np.array([tick for tick, _ in told], dtype=np.int64)
    assert np.all(np.diff(ticks) > 0)
    for run in np.split(np.arange(len(ticks)), np.flatnonzero(np.diff(ticks) > 1) + 1):
        if len(run) > 1:
            motions = [told[index][1] for index in run]
            assert_in_limits(
                space,
                np.array([motion.values for motion in motions]),
                np.array([motion.velocity for motion in motions]),
            )


def test_ticks_between_two_commands_are_silent_only_at_rest() -> None:
    world = World(mixed())
    world.start()
    for event in (("run", 30), ("stop", 0), ("idle", 40), ("start", 0), ("run", 20), ("stop", 0), ("idle", 40)):
        happen(world, *event)
    ticks = [time_ns // world.bench.pace.period_ns for time_ns, _ in world.sender.steps]
    for index in np.flatnonzero(np.diff(ticks) > 1):
        assert not world.sender.steps[index][1].velocity.any()
