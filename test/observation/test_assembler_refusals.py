"""Every way in which input can be bad: refused with the right reason, naming the topic, until good input comes."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fake_messages as fake
import pytest
from fake_messages import MS, T0

from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation, Reason, Refusal

TYPES = {
    "front": "sensor_msgs/msg/Image",
    "wrist": "sensor_msgs/msg/CompressedImage",
    "joints": "sensor_msgs/msg/JointState",
    "tool": "geometry_msgs/msg/PoseStamped",
}
GOOD = {"a": 0.1, "b": 0.2, "c": 0.3}


def good(stream: str, stamp_ns: int) -> SimpleNamespace:
    if stream == "front":
        return fake.image(stamp_ns, fake.picture(stamp_ns % 2**32))
    if stream == "wrist":
        return fake.compressed(stamp_ns, fake.picture(stamp_ns % 2**32))
    return fake.joints(stamp_ns, GOOD) if stream == "joints" else fake.pose(stamp_ns)


def fed(end_ns: int = T0, **changes: Any) -> Assembler:
    """An assembler with one good message per stream at ``end_ns``."""
    target = Assembler(fake.robot(**changes))
    for stream in TYPES:
        assert target.add(stream, good(stream, end_ns), end_ns) is None
    return target


def refused(result: Observation | Refusal | None) -> Refusal:
    assert isinstance(result, Refusal), "expected a refusal"
    return result


def changed(stream: str, **changes: Any) -> Callable[[int], SimpleNamespace]:
    return lambda stamp_ns: SimpleNamespace(**{**vars(good(stream, stamp_ns)), **changes})


def stamped(stream: str, offset_ns: int) -> Callable[[int], SimpleNamespace]:
    return lambda stamp_ns: good(stream, stamp_ns + offset_ns)


# A message that comes 20 ms after good ones: stream, message, reason, what is said.
MESSAGES: dict[str, tuple[str, Callable[[int], Any], Reason, str]] = {
    "stamp 0": ("front", lambda t: good("front", 0), Reason.MISSING_FIELD, "found 0 ns, make the publisher stamp"),
    "no header": (
        "tool",
        lambda t: SimpleNamespace(data=1.0),
        Reason.MISSING_FIELD,
        "expected a message with header.stamp",
    ),
    "future": (
        "joints",
        stamped("joints", 30 * MS),
        Reason.FUTURE_STAMP,
        "at most 0.02 s ahead of the clock, found 0.030 s",
    ),
    "same stamp": ("wrist", stamped("wrist", -20 * MS), Reason.OUT_OF_ORDER, "found the same stamp again"),
    "backwards": ("front", stamped("front", -27 * MS), Reason.OUT_OF_ORDER, "found one 0.007 s before it"),
    "nan": ("joints", lambda t: fake.joints(t, {**GOOD, "b": math.nan}), Reason.NOT_FINITE, "state.arm, found b=nan"),
    "infinite": (
        "joints",
        lambda t: fake.joints(t, {**GOOD, "c": -math.inf}),
        Reason.NOT_FINITE,
        "state.hand, found c=-inf",
    ),
    "nan field": ("tool", lambda t: fake.pose(t, w=math.nan), Reason.NOT_FINITE, "found pose.orientation.w=nan"),
    "missing joint": (
        "joints",
        lambda t: fake.joints(t, {"a": 0.0, "c": 0.0, "d": 0.0}),
        Reason.MISSING_JOINT,
        "expected joint 'b' (state.arm), found a, c, d",
    ),
    "no joints": (
        "joints",
        lambda t: fake.joints(t, {}),
        Reason.MISSING_JOINT,
        "expected joint 'a', 'b' (state.arm), found (no joints)",
    ),
    "duplicate joint": (
        "joints",
        changed("joints", name=["a", "b", "c", "b"], position=[0.0] * 4),
        Reason.DUPLICATE_JOINT,
        "found 'b' more than once",
    ),
    "short position": (
        "joints",
        changed("joints", position=[0.0, 0.0]),
        Reason.BAD_LAYOUT,
        "expected 3 values of position, one per name, found 2",
    ),
    "long position": (
        "joints",
        changed("joints", position=[0.0] * 4),
        Reason.BAD_LAYOUT,
        "expected 3 values of position, one per name, found 4",
    ),
    "no position": (
        "joints",
        changed("joints", position=[]),
        Reason.MISSING_FIELD,
        "expected position of 3 joints, found none",
    ),
    "missing field": (
        "tool",
        changed("tool", pose=SimpleNamespace(position=SimpleNamespace(x=0.0))),
        Reason.MISSING_FIELD,
        "expected field 'pose.orientation.w', found a message without 'orientation'",
    ),
    "no joint state": ("joints", lambda t: good("tool", t), Reason.MISSING_FIELD, "expected field 'name'"),
    "encoding": ("front", changed("front", encoding="16UC1"), Reason.WRONG_ENCODING, "found '16UC1'"),
    "size": ("front", lambda t: fake.image(t, fake.picture(0, width=8)), Reason.WRONG_SIZE, "6x4 px, found 8x4"),
    "layout": ("front", changed("front", step=7), Reason.BAD_LAYOUT, "found step 7"),
    "undecodable": (
        "wrist",
        changed("wrist", data=b"no picture"),
        Reason.UNDECODABLE,
        "found 10 bytes beginning 6e 6f",
    ),
}


# What no message of the declared type can be like: a bag cannot have it.
NOT_IN_A_BAG = {"no header", "missing field", "no joint state"}
VARIANTS = [
    pytest.param(*case, rosbags, id=f"{name}-{'rosbags' if rosbags else 'rclpy'}")
    for name, case in MESSAGES.items()
    for rosbags in (False, True)
    if not (rosbags and name in NOT_IN_A_BAG)
]


@pytest.mark.parametrize(("stream", "make", "reason", "says", "rosbags"), VARIANTS)
def test_a_bad_message_is_rejected_and_ticks_are_refused_until_a_good_one(
    stream: str, make: Callable[[int], Any], reason: Reason, says: str, rosbags: bool
) -> None:
    target, now = fed(), T0 + 20 * MS
    message = fake.as_rosbags(make(now), TYPES[stream]) if rosbags else make(now)
    refusal = refused(target.add(stream, message, now))
    assert refusal.reason is reason and refusal.source == stream
    assert refusal.message.startswith(f"/{stream}: expected ") and says in refusal.message
    assert refused(target.assemble(now, "go")) == refusal, "older good samples are no way out"
    assert target.counts()[stream].rejected == 1 and target.refused() == {reason: 1}
    assert target.add(stream, good(stream, now + MS), now + MS) is None
    assert isinstance(target.assemble(now + MS, "go"), Observation)


@pytest.mark.parametrize("stream", TYPES)
def test_a_stream_that_never_came(stream: str) -> None:
    target = Assembler(fake.robot())
    for other in TYPES:
        if other != stream:
            target.add(other, good(other, T0), T0)
    refusal = refused(target.assemble(T0, "go"))
    assert (refusal.reason, refusal.source) == (Reason.MISSING_STREAM, stream)
    assert refusal.message == f"/{stream}: expected messages, found none, check `ros2 topic hz /{stream}` and its QoS"


@pytest.mark.parametrize(("stream", "max_age_s"), [("front", 0.2), ("wrist", 0.2), ("joints", 0.1), ("tool", 0.1)])
def test_a_stream_that_stopped(stream: str, max_age_s: float) -> None:
    target = fed(sync__max_spread_s=10.0)
    limit = T0 + round(max_age_s * 1e9)
    for other in TYPES:
        if other != stream:
            target.add(other, good(other, limit), limit)
    assert isinstance(target.assemble(limit, "go"), Observation), "at the limit it is still good"
    refusal = refused(target.assemble(limit + MS, "go"))
    assert (refusal.reason, refusal.source) == (Reason.STALE, stream)
    assert f"/{stream}: expected a sample at most {max_age_s:g} s old at the tick" in refusal.message
    assert f"found {max_age_s + 0.001:.3f} s, check `ros2 topic hz /{stream}`" in refusal.message


def test_history_that_is_not_there_yet_and_a_gap_in_it() -> None:
    target = fed(delta_indices={"video": [-5, 0], "action": [0]})
    refusal = refused(target.assemble(T0, "go"))
    assert (refusal.reason, refusal.source) == (Reason.SHORT_HISTORY, "front")
    assert "/front: expected a sample 0.500 s before the tick, found history of 0.000 s" in refusal.message
    now = T0 + 800 * MS  # the only sample before the gap is 0.3 s older than the step asks for
    for stream in TYPES:
        target.add(stream, good(stream, now), now)
    refusal = refused(target.assemble(now, "go"))
    assert (refusal.reason, refusal.source) == (Reason.STALE, "front")
    assert "at most 0.2 s old 0.500 s before the tick, found 0.300 s" in refusal.message


def test_only_samples_ahead_of_the_tick() -> None:
    refusal = refused(fed().assemble(T0 - 5 * MS, "go"))
    assert refusal.reason is Reason.SHORT_HISTORY
    assert "/front: expected a sample at the tick, found history of 0.000 s" in refusal.message


def test_streams_that_drift_apart() -> None:
    target, now = fed(), T0 + 120 * MS
    for stream in ("front", "joints", "tool"):
        target.add(stream, good(stream, now), now)
    refusal = refused(target.assemble(now, "go"))
    assert (refusal.reason, refusal.source) == (Reason.SPREAD, "wrist")
    assert (
        "/wrist: expected a stamp within 0.1 s of the other streams', found it 0.120 s behind /front" in refusal.message
    )


@pytest.mark.parametrize("instruction", ["", "  ", "\n\t"])
def test_an_empty_instruction(instruction: str) -> None:
    refusal = refused(fed().assemble(T0, instruction))
    assert (refusal.reason, refusal.source) == (Reason.EMPTY_INSTRUCTION, "instruction")
    assert "~/instruction" in refusal.message


@pytest.mark.parametrize("stream", ["front", "wrist"])
def test_a_frozen_camera(stream: str) -> None:
    """The same bytes with new stamps: refused from frozen_after_s on, good again with the first new picture."""
    target = Assembler(fake.robot(cameras__front__frozen_after_s=0.5, cameras__wrist__frozen_after_s=0.5))
    make = fake.image if stream == "front" else fake.compressed
    results = []
    for i in range(21):
        now = T0 + i * 50 * MS
        for other in TYPES:
            message = make(now, fake.picture(1 if i < 18 else i)) if other == stream else good(other, now)
            assert target.add(other, message, now) is None
        results.append(target.assemble(now, "go"))
        assert target.frozen() == (set() if isinstance(results[-1], Observation) else {stream})
    assert [isinstance(result, Observation) for result in results] == [True] * 10 + [False] * 8 + [True] * 3
    refusal = refused(results[10])
    assert (refusal.reason, refusal.source) == (Reason.FROZEN_CAMERA, stream)
    assert (
        f"/{stream}: expected a changing image, found the same bytes for 0.500 s (frozen_after_s 0.5)"
        in refusal.message
    )


def test_one_changed_byte_is_a_new_picture() -> None:
    target = Assembler(fake.robot(cameras__front__frozen_after_s=0.1))
    rgb = fake.picture(0)
    for i in range(10):
        now = T0 + i * 50 * MS
        rgb[-1, -1, -1] = i
        for stream in TYPES:
            target.add(stream, fake.image(now, rgb) if stream == "front" else good(stream, now), now)
        assert isinstance(target.assemble(now, "go"), Observation)


def test_the_check_for_frozen_cameras_can_be_switched_off() -> None:
    target = Assembler(fake.robot(cameras__front__frozen_after_s=None))
    for i in range(50):
        now = T0 + i * 50 * MS
        for stream in TYPES:
            target.add(stream, fake.image(now, fake.picture(0)) if stream == "front" else good(stream, now), now)
        assert isinstance(target.assemble(now, "go"), Observation)


def test_a_picture_that_does_not_decode_is_refused_each_time_and_decoded_once() -> None:
    target, now = fed(), T0 + 20 * MS
    broken = fake.compressed(now, fake.picture(0))
    del broken.data[30:]  # the size in the header is right, the rest is gone
    assert target.add("wrist", broken, now) is None
    first, second = (refused(target.assemble(now, "go")) for _ in range(2))
    assert first == second and (first.reason, first.source) == (Reason.UNDECODABLE, "wrist")
    assert first.message.startswith("/wrist: expected a whole PNG file, found 30 bytes")
    assert target.counts()["wrist"].rejected == 1
    target.add("wrist", good("wrist", now + MS), now + MS)
    assert isinstance(target.assemble(now + MS, "go"), Observation)


def test_refusals_name_the_first_stream_in_the_order_of_the_yaml() -> None:
    target = Assembler(fake.robot())
    for stream in reversed(TYPES):
        assert refused(target.assemble(T0, "go")).source == "front"
        target.add(stream, good(stream, T0), T0)
    assert isinstance(target.assemble(T0, "go"), Observation)


def test_every_reason_is_tested_here() -> None:
    """A reason that nothing raises would be a promise without a check."""
    elsewhere = {
        Reason.MISSING_STREAM,
        Reason.STALE,
        Reason.SHORT_HISTORY,
        Reason.SPREAD,
        Reason.FROZEN_CAMERA,
        Reason.EMPTY_INSTRUCTION,
        Reason.OUT_OF_TRAINING_RANGE,  # of the assembled state: test_training_range.py
        Reason.CLOCK_STOPPED,  # the worker says it: test_worker.py, test_policy_process.py
        # The recorder says these: test_session.py, test_commanded.py.
        Reason.SLOW_STREAM,
        Reason.NO_COMMAND,
        Reason.BAD_COMMAND,
        Reason.ENCODER_BEHIND,
        Reason.WRITER_FAILED,
        Reason.CLOCK_JUMPED,
        Reason.RECORDER_ENDED,
    }
    assert {case[2] for case in MESSAGES.values()} | elsewhere == set(Reason)
