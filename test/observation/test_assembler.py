"""Observations: what is in them, and that they are what brute force over all messages would choose."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import fake_messages as fake
import numpy as np
import pytest
from fake_messages import MS, T0
from hypothesis import given, settings
from hypothesis import strategies as st

from groot_ros.embodiment.schema import Embodiment
from groot_ros.observation import assembler as module
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.images import Frame, decode
from groot_ros.observation.types import Observation, Reason, Refusal

TYPES = {
    "front": "sensor_msgs/msg/Image",
    "wrist": "sensor_msgs/msg/CompressedImage",
    "joints": "sensor_msgs/msg/JointState",
    "tool": "geometry_msgs/msg/PoseStamped",
}
PERIOD_NS = {"front": 50 * MS, "wrist": 50 * MS, "joints": 20 * MS, "tool": 20 * MS}


def message(stream: str, stamp_ns: int) -> Any:
    """A message whose content tells its stamp (ms since T0)."""
    tick = (stamp_ns - T0) // MS
    if stream in ("front", "wrist"):
        rgb = fake.picture(0).copy()
        rgb[0, 0] = tick // 65536 % 256, tick // 256 % 256, tick % 256
        return (fake.image if stream == "front" else fake.compressed)(stamp_ns, rgb)
    if stream == "joints":
        return fake.joints(stamp_ns, {"a": tick * 1e-3, "b": -1.0, "c": 0.5})
    return fake.pose(stamp_ns, x=tick * 1e-3)


def tick_of(pixels: Any) -> int:
    high, middle, low = pixels[0, 0].astype(int)
    return int(high * 65536 + middle * 256 + low)


def feed(target: Assembler, start_ns: int, end_ns: int, *streams: str) -> None:
    """Good messages of ``streams`` (all when none is named) from ``start_ns`` to ``end_ns`` at their rates."""
    events = [
        (stamp, stream) for stream in streams or TYPES for stamp in range(start_ns, end_ns + 1, PERIOD_NS[stream])
    ]
    for stamp, stream in sorted(events):
        assert target.add(stream, message(stream, stamp), stamp + MS) is None


def observed(result: Observation | Refusal) -> Observation:
    assert isinstance(result, Observation), result
    return result


def test_what_an_observation_contains() -> None:
    target = Assembler(fake.robot())
    assert target.streams == ("front", "wrist", "joints", "tool")
    feed(target, T0, T0 + 200 * MS)
    got = observed(target.assemble(T0 + 205 * MS, "pick it up"))
    assert got.instruction == "pick it up"
    assert list(got.video) == ["front", "wrist"] and list(got.state) == ["arm", "hand", "tool"]
    for pixels in got.video.values():
        assert pixels.shape == (1, fake.HEIGHT, fake.WIDTH, 3) and pixels.dtype == np.uint8
        assert tick_of(pixels[0]) == 200
    for key, values in {"arm": [[0.2, -1.0]], "hand": [[25.0]], "tool": [[0.2, 1.0]]}.items():
        assert got.state[key].dtype == np.float32
        np.testing.assert_array_equal(got.state[key], np.array(values, dtype=np.float32))
    assert got.stamp_ns == T0 + 200 * MS
    assert got.sample_stamps_ns == dict.fromkeys(target.streams, (T0 + 200 * MS,))
    assert got.ages_s == pytest.approx(dict.fromkeys(target.streams, 0.005))


def test_the_stamp_is_that_of_the_newest_sample() -> None:
    target = Assembler(fake.robot())
    feed(target, T0, T0 + 100 * MS, "front", "wrist")
    feed(target, T0, T0 + 140 * MS, "joints", "tool")
    got = observed(target.assemble(T0 + 149 * MS, "go"))
    assert got.stamp_ns == T0 + 140 * MS
    assert got.ages_s["front"] == pytest.approx(0.049) and got.ages_s["tool"] == pytest.approx(0.009)


def test_samples_after_the_tick_are_not_used() -> None:
    target = Assembler(fake.robot())
    feed(target, T0, T0 + 200 * MS)
    got = observed(target.assemble(T0 + 199 * MS, "go"))
    assert got.stamp_ns == T0 + 180 * MS and got.sample_stamps_ns["front"] == (T0 + 150 * MS,)


@pytest.mark.parametrize("order", list(itertools.permutations(["a", "b", "c", "unused"])))
def test_joints_are_matched_by_name(order: tuple[str, ...]) -> None:
    values = {"a": 0.1, "b": 0.2, "c": 2.0, "unused": math.nan}
    target = Assembler(fake.robot())
    feed(target, T0, T0, "front", "wrist", "joints", "tool")  # another order first
    target.add("joints", fake.joints(T0 + 20 * MS, {name: values[name] for name in order}), T0 + 21 * MS)
    got = observed(target.assemble(T0 + 22 * MS, "go"))
    np.testing.assert_array_equal(got.state["arm"], np.array([[0.1, 0.2]], dtype=np.float32))
    np.testing.assert_array_equal(got.state["hand"], np.array([[100.0]], dtype=np.float32))


@pytest.mark.parametrize("field", ["velocity", "effort"])
def test_other_arrays_of_the_joint_state(field: str) -> None:
    unit = {"velocity": "rad/s", "effort": "Nm"}[field]
    robot = fake.robot(state__speed={"stream": "joints", "joints": ["c", "a"], "field": field, "unit": unit})
    target = Assembler(robot)
    feed(target, T0, T0, "front", "wrist", "tool")
    target.add("joints", fake.joints(T0, {"a": 0.0, "b": 0.0, "c": 0.0}, **{field: [1.0, 2.0, 3.0]}), T0)
    got = observed(target.assemble(T0, "go"))
    np.testing.assert_array_equal(got.state["speed"], np.array([[3.0, 1.0]], dtype=np.float32))


def test_a_bag_gives_the_same_arrays_as_live_topics() -> None:
    live, bag = Assembler(fake.robot()), Assembler(fake.robot())
    feed(live, T0, T0 + 200 * MS)
    for stream, type_name in TYPES.items():
        for stamp in range(T0, T0 + 201 * MS, PERIOD_NS[stream]):
            assert bag.add(stream, fake.as_rosbags(message(stream, stamp), type_name), stamp + MS) is None
    a, b = (observed(x.assemble(T0 + 205 * MS, "go")) for x in (live, bag))
    for key in a.video:
        np.testing.assert_array_equal(a.video[key], b.video[key])
    for key in a.state:
        np.testing.assert_array_equal(a.state[key], b.state[key])
    assert (a.stamp_ns, a.sample_stamps_ns, a.ages_s) == (b.stamp_ns, b.sample_stamps_ns, b.ages_s)


def test_history_of_fifteen_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Video at [-15, 0] as the DROID checkpoint wants it, states at [-1, 0]; each image is decoded once."""
    decoded: list[Frame] = []

    def counting(frame: Frame, *rest: Any) -> Any:
        decoded.append(frame)
        return decode(frame, *rest)

    monkeypatch.setattr(module, "decode", counting)
    target = Assembler(fake.robot(delta_indices={"video": [-15, 0], "state": [-1, 0], "action": [0]}))
    fed_ns = T0
    for now in (T0 + 1900 * MS, T0 + 3400 * MS):
        feed(target, fed_ns, now)
        fed_ns = now + 100 * MS  # a multiple of both periods
        got = observed(target.assemble(now, "go"))
        then = now - 1500 * MS
        for name in ("front", "wrist"):
            assert got.sample_stamps_ns[name] == (then, now)
            assert [tick_of(pixels) for pixels in got.video[name]] == [(then - T0) // MS, (now - T0) // MS]
        assert got.sample_stamps_ns["joints"] == (now - 100 * MS, now)
        expected = np.array([(now - 100 * MS - T0) / 1e9, (now - T0) / 1e9], dtype=np.float32)
        np.testing.assert_array_equal(got.state["arm"][:, 0], expected)
        np.testing.assert_array_equal(got.state["tool"][:, 0], expected)
    assert len(decoded) == len(set(map(id, decoded))) == 6, "two cameras, three instants"


# --- against brute force ---------------------------------------------------------------------------------------------

DELTAS = st.lists(st.integers(-6, -1), max_size=3, unique=True).map(lambda steps: [*sorted(steps), 0])
TRAFFIC_MS = 1500


def random_traffic(seed: int, loss: float) -> dict[str, list[int]]:
    """Stamps (ns) per stream: jittered by up to 9 ms, each lost with probability ``loss``."""
    rng = np.random.default_rng(seed)
    traffic = {}
    for name, period_ns in PERIOD_NS.items():
        nominal = np.arange(10 * MS, TRAFFIC_MS * MS, period_ns)
        jittered = nominal + rng.integers(-9, 10, nominal.size) * MS
        traffic[name] = [T0 + int(stamp) for stamp in jittered[rng.random(nominal.size) >= loss]]
    return traffic


def brute_force(robot: Embodiment, sent: dict[str, list[int]], now_ns: int) -> dict[str, tuple[int, ...]] | Reason:
    """Stamps that an observation at ``now_ns`` must have, by looking at every message ever sent."""
    chosen = {}
    for name, stamps in sent.items():
        spec = robot.cameras.get(name) or robot.state_streams[name]
        deltas = robot.delta_indices.video if name in robot.cameras else robot.delta_indices.state
        if not stamps:
            return Reason.MISSING_STREAM
        found: list[int] = []
        for delta in reversed(deltas):
            target = now_ns + delta * 100 * MS
            older = [stamp for stamp in stamps if stamp <= target]
            if not older:
                return Reason.SHORT_HISTORY
            if target - max(older) > spec.max_age_s * 1e9:
                return Reason.STALE
            found.insert(0, max(older))
        chosen[name] = tuple(found)
    last = [stamps[-1] for stamps in chosen.values()]
    return Reason.SPREAD if max(last) - min(last) > robot.sync.max_spread_s * 1e9 else chosen


@settings(max_examples=60, deadline=None)
@given(
    video=DELTAS,
    state=DELTAS,
    seed=st.integers(0, 2**32 - 1),
    loss=st.sampled_from([0.0, 0.1, 0.5, 0.8, 1.0]),
    ticks=st.lists(st.integers(0, TRAFFIC_MS + 200), min_size=3, max_size=8),
)
def test_whatever_is_lost_an_observation_is_right_or_refused(
    video: list[int], state: list[int], seed: int, loss: float, ticks: list[int]
) -> None:
    """Random jitter, losses, histories and ticks: the samples are those of brute force, and so is the refusal."""
    robot = fake.robot(delta_indices={"video": video, "state": state, "action": [0]})
    target = Assembler(robot)
    events: list[tuple[int, int, str]] = [(T0 + t * MS, 1, "") for t in ticks]
    events += [(stamp, 0, name) for name, stamps in random_traffic(seed, loss).items() for stamp in stamps]
    sent: dict[str, list[int]] = {name: [] for name in TYPES}
    for time_ns, _, name in sorted(set(events)):
        if name:
            assert target.add(name, message(name, time_ns), time_ns) is None
            sent[name].append(time_ns)
            continue
        expected, got = brute_force(robot, sent, time_ns), target.assemble(time_ns, "go")
        if isinstance(expected, Reason):
            assert isinstance(got, Refusal) and got.reason is expected
            continue
        seen = observed(got)
        assert seen.sample_stamps_ns == expected
        for key in ("front", "wrist"):
            assert [tick_of(pixels) for pixels in seen.video[key]] == [(m_ns - T0) // MS for m_ns in expected[key]]
            assert len(seen.video[key]) == len(video)
        for key, stream in (("arm", "joints"), ("tool", "tool")):
            values = np.array([(stamp - T0) // MS * 1e-3 for stamp in expected[stream]], dtype=np.float32)
            np.testing.assert_array_equal(seen.state[key][:, 0], values)


# --- bookkeeping -----------------------------------------------------------------------------------------------------


def test_ages_rates_and_counters() -> None:
    target = Assembler(fake.robot())
    assert target.ages_s(T0) == dict.fromkeys(target.streams, math.inf)
    assert target.rates_hz() == dict.fromkeys(target.streams, 0.0)
    feed(target, T0, T0 + 1000 * MS, "front", "joints")
    assert target.add("front", message("front", T0), T0 + 1000 * MS) is not None
    assert target.ages_s(T0 + 1100 * MS) == pytest.approx(
        {"front": 0.1, "wrist": math.inf, "joints": 0.1, "tool": math.inf}
    )
    assert target.rates_hz() == pytest.approx({"front": 20.0, "wrist": 0.0, "joints": 50.0, "tool": 0.0})
    counts = target.counts()
    assert (counts["front"].received, counts["front"].rejected) == (22, 1)
    assert (counts["joints"].received, counts["joints"].rejected) == (51, 0)
    for instruction in ("", "go", "go"):
        assert isinstance(target.assemble(T0 + 1000 * MS, instruction), Refusal)
    assert target.refused() == {Reason.EMPTY_INSTRUCTION: 1, Reason.OUT_OF_ORDER: 2}
    assert target.assembled == 0


def test_a_stream_much_faster_than_declared_overflows_and_says_so() -> None:
    target = Assembler(fake.robot(delta_indices={"video": [0], "state": [-2, 0], "action": [0]}))
    feed(target, T0, T0 + 400 * MS, "front", "wrist", "tool")
    for stamp in range(T0, T0 + 400 * MS, MS):  # 1 kHz instead of 50 Hz
        target.add("joints", message("joints", stamp), stamp)
    assert target.counts()["joints"].overflow > 0
    got = target.assemble(T0 + 400 * MS, "go")
    assert isinstance(got, Refusal) and got.reason is Reason.SHORT_HISTORY
    assert "/joints: expected a sample 0.200 s before the tick" in got.message
    assert f"{target.counts()['joints'].overflow} dropped: it is faster than rate_hz" in got.message


def test_reset_forgets_samples_so_that_the_clock_may_jump_back() -> None:
    target = Assembler(fake.robot())
    feed(target, T0 + 10_000 * MS, T0 + 10_100 * MS)
    assert target.add("joints", message("joints", T0), T0 + 1) is not None
    target.reset()
    got = target.assemble(T0 + 10_100 * MS, "go")
    assert isinstance(got, Refusal) and got.reason is Reason.MISSING_STREAM
    feed(target, T0, T0 + 100 * MS)
    assert observed(target.assemble(T0 + 100 * MS, "go")).stamp_ns == T0 + 100 * MS


def test_an_unknown_stream_is_a_programming_error() -> None:
    with pytest.raises(KeyError, match="no stream 'top': the embodiment has front, wrist, joints, tool"):
        Assembler(fake.robot()).add("top", message("front", T0), T0)


def test_observations_cannot_be_written_into() -> None:
    """A decoded image may be shown to several ticks, so nobody may change it."""
    target = Assembler(fake.robot(delta_indices={"video": [-1, 0], "action": [0]}))
    feed(target, T0, T0 + 200 * MS)
    for pixels in observed(target.assemble(T0 + 200 * MS, "go")).video.values():
        assert not pixels.flags.writeable


def test_one_thread_adds_while_another_assembles() -> None:
    target = Assembler(fake.robot())
    feed(target, T0, T0 + 100 * MS)
    failures: list[object] = []
    now = [T0 + 100 * MS]
    done = threading.Event()

    def write() -> None:
        for stamp in range(T0 + 110 * MS, T0 + 6000 * MS, 10 * MS):
            for stream in TYPES:
                failures.append(target.add(stream, message(stream, stamp), stamp))
            now[0] = stamp
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not done.is_set() or not seen:
        tick_ns = now[0]
        got = target.assemble(tick_ns, "go")
        if isinstance(got, Observation):
            seen += 1
            assert got.stamp_ns <= tick_ns
            for name in ("front", "wrist"):
                assert tick_of(got.video[name][0]) == (got.sample_stamps_ns[name][0] - T0) // MS
    writer.join()
    assert set(failures) == {None}
