"""Replay: a tick sees what a node would have seen, and the report's numbers are those of the bag."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import bag_maker as maker
import numpy as np
import pytest
from bag_maker import COMMAND_TOPIC, JOINTS, MS, T0, Recorded, S
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from groot_ros.bags import command
from groot_ros.bags.read import BagMessage
from groot_ros.bags.replay import replay
from groot_ros.bags.report import ReplayReport, joint_errors, spread
from groot_ros.bags.topics import INSTRUCTION_TOPIC, BagError
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk
from groot_ros.policy.news import News, Notices

HORIZON = 16
DT_S = 1.0 / 30.0
EVERY_S = 8 * DT_S  # half a chunk
Predict = Callable[[int, float], list[float]]  # stamp ns, seconds after it -> positions


def line(offset: float = 0.0) -> Predict:
    """Where the bag's joints will be, plus ``offset``."""
    return lambda stamp_ns, after_s: [maker.position(i, stamp_ns) + 0.05 * after_s + offset for i in range(len(JOINTS))]


class PolicyDouble:
    """Answers with a function of time, and keeps what it was asked."""

    def __init__(self, predict: Predict) -> None:
        self.predict = predict
        self.seen: list[tuple[Observation, int | None]] = []

    def act(self, observation: Observation, *, seed: int | None = None) -> Chunk:
        self.seen.append((observation, seed))
        rows = np.array([self.predict(observation.stamp_ns, (i + 1) * DT_S) for i in range(HORIZON)], dtype=np.float32)
        actions = {"single_arm": rows[:, :5], "gripper": rows[:, 5:]}
        timings = {"model": 0.010 + 0.001 * len(self.seen)}
        return Chunk(observation.stamp_ns, DT_S, actions, observation.instruction, seed or 0, timings)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return maker.write(tmp_path / "bag", maker.episode(2.0))


def run(path: Path, predict: Predict | None = None, **options: object) -> tuple[ReplayReport, PolicyDouble]:
    policy = PolicyDouble(predict or line())
    return replay(path, maker.robot(), policy, **options), policy  # type: ignore[arg-type]


def test_a_tick_sees_what_had_been_received(bag: Path) -> None:
    """At tick t the newest frame received is the one stamped at most 4 ms (the delay) before it."""
    report, policy = run(bag)
    assert [item.tick_ns for item in report.chunks] == [T0 + (i + 1) * round(EVERY_S * S) for i in range(7)]
    for item, (observation, _) in zip(report.chunks, policy.seen, strict=True):
        received_ns = item.tick_ns - 4 * MS
        frame_ns = max(T0 + round(i * S / 30) for i in range(61) if T0 + round(i * S / 30) <= received_ns)
        joints_ns = T0 + (received_ns - T0) // (10 * MS) * 10 * MS
        assert observation.sample_stamps_ns == {"front": (frame_ns,), "wrist": (frame_ns,), "joints": (joints_ns,)}
        assert maker.pixel_ms(observation.video["front"][0]) == (frame_ns - T0) // MS
        expected = [maker.position(i, joints_ns) for i in range(5)]
        np.testing.assert_allclose(observation.state["single_arm"][0], expected, atol=1e-6)
        assert observation.stamp_ns == joints_ns
        assert item.chunk.stamp_ns == joints_ns


def test_numbers_of_the_report(bag: Path) -> None:
    report, _ = run(bag)
    assert (report.ticks, len(report.chunks), report.refused) == (7, 7, {})
    assert report.every_s == pytest.approx(EVERY_S)
    assert report.duration_s == pytest.approx(2.004, abs=1e-6)
    front, joints = report.streams["front"], report.streams["joints"]
    assert (front.topic, front.messages, front.rejected) == ("/front/image_raw", 61, {})
    assert front.rate_hz == pytest.approx(30.0)
    assert joints.rate_hz == pytest.approx(100.0)
    assert front.delay_s.p50 == pytest.approx(0.004)
    ages = [1e-9 * (item.tick_ns - item.chunk.stamp_ns) for item in report.chunks]
    assert joints.age_s == spread(ages)
    assert report.latency_s.count == 7
    assert report.stages_s["model"].p50 == pytest.approx(0.014)
    assert report.instructions == [(report.chunks[0].tick_ns, "pick up the red cube")]
    assert report.commands == (0, 0)
    assert report.command_errors == []


@pytest.mark.parametrize("offset", [0.0, 0.1, -0.25])
def test_error_to_recorded_states(offset: float, bag: Path) -> None:
    report, _ = run(bag, line(offset))
    assert [error.joint for error in report.state_errors] == list(JOINTS)
    for error in report.state_errors:
        assert error.unit == "rad"
        # All points that would have been executed before the next chunk, but for those after the bag's end.
        assert 7 * 7 <= error.count <= 7 * 8
        for value in (error.mean_abs, error.p95_abs, error.max_abs):
            assert value == pytest.approx(abs(offset), abs=1e-6)


def commanded(offset: float) -> list[Recorded]:
    """Every 0.1 s a trajectory along the recorded line, ``offset`` above it."""
    records = []
    for i in range(19):
        stamp = T0 + i * 100 * MS
        points = [(0.05 * k, [value + offset for value in line()(stamp, 0.05 * k)]) for k in range(1, 11)]
        records.append(Recorded(COMMAND_TOPIC, maker.trajectory(stamp, points), stamp + 5 * MS))
    return records


def test_error_to_recorded_commands(tmp_path: Path) -> None:
    records = sorted([*maker.episode(2.0), *commanded(0.3)], key=lambda record: record.log_ns)
    bad = Recorded(COMMAND_TOPIC, maker.trajectory(T0 + S, [(1.0, [float("nan")] * 6)]), T0 + S)
    report, _ = run(maker.write(tmp_path / "bag", [*records, bad]), line(0.1))
    assert report.commands == (20, 1)
    assert [error.joint for error in report.command_errors] == list(JOINTS)
    for error in report.command_errors:
        assert error.mean_abs == pytest.approx(0.2, abs=1e-6)
        assert error.max_abs == pytest.approx(0.2, abs=1e-6)


INSTRUCTIONS = [
    pytest.param(None, "", ["pick up the red cube"] * 3 + ["blue"] * 4, id="the-bag's"),
    pytest.param("wave", "", ["wave"] * 7, id="given"),
]


@pytest.mark.parametrize(("given_text", "default", "expected"), INSTRUCTIONS)
def test_instructions(given_text: str | None, default: str, expected: list[str], tmp_path: Path) -> None:
    records = [*maker.episode(2.0), Recorded(INSTRUCTION_TOPIC, maker.string("blue"), T0 + 900 * MS)]
    report, policy = run(maker.write(tmp_path / "bag", records), instruction=given_text)
    assert [observation.instruction for observation, _ in policy.seen] == expected
    assert [text for _, text in report.instructions] == list(dict.fromkeys(expected))


def test_without_an_instruction_every_tick_is_refused(tmp_path: Path) -> None:
    path = maker.write(tmp_path / "bag", maker.episode(1.0), keep=lambda record: record.topic != INSTRUCTION_TOPIC)
    report, policy = run(path)
    assert policy.seen == []
    assert report.refused == {"empty_instruction": report.ticks}
    assert report.latency_s.p50 is None
    arm = maker.robot()
    arm = arm.model_copy(update={"language": arm.language.model_copy(update={"default": "rest"})})
    assert len(replay(path, arm, policy).chunks) == report.ticks


def test_refused_ticks_have_their_reasons(tmp_path: Path) -> None:
    """The front camera is away from 0.8 to 1.2 s; from 1.5 s on joints come without one. Ticks are every 0.267 s."""
    records = []
    for record in maker.episode(2.0):
        if record.topic == "/front/image_raw" and 800 * MS < record.log_ns - T0 < 1200 * MS:
            continue
        if record.topic == "/joint_states" and record.log_ns > T0 + 1500 * MS:
            record = replace(record, message=replace(record.message, name=[*JOINTS[:-1], "other"]))
        records.append(record)
    report, _ = run(maker.write(tmp_path / "bag", records))
    assert report.refused == {"stale": 1, "missing_joint": 2}
    assert (report.ticks, len(report.chunks)) == (7, 4)
    assert "/front/image_raw" in report.refusal_messages["stale"]
    assert "gripper" in report.refusal_messages["missing_joint"]
    assert report.streams["joints"].rejected == {"missing_joint": 51}
    assert report.streams["front"].messages == 61 - 12


def test_two_clocks_are_told(tmp_path: Path) -> None:
    shifted = [replace(record, log_ns=record.log_ns + 3600 * S) for record in maker.episode(0.5)]
    with pytest.raises(BagError, match=r"two clocks; record simulated time with `ros2 bag record --use-sim-time`"):
        run(maker.write(tmp_path / "bag", shifted))


@pytest.mark.parametrize(
    ("stamp_ns", "reason"),
    [(0, "missing_field"), (T0 + 100 * S, "future_stamp"), (T0 - 100 * S, "out_of_order")],
)
def test_a_wrong_stamp_is_refused_as_it_is_live(stamp_ns: int, reason: str, tmp_path: Path) -> None:
    """One message in the middle of the bag: the tick that meets it is refused, the replay goes on."""
    records = maker.episode(1.0)
    first_tick_ns = T0 + round(EVERY_S * S)
    last = max(i for i, r in enumerate(records) if r.topic == "/joint_states" and r.log_ns <= first_tick_ns)
    records[last] = replace(records[last], message=replace(records[last].message, header=maker.header(stamp_ns)))
    report, _ = run(maker.write(tmp_path / "bag", records))
    assert report.refused == {reason: 1}
    assert "/joint_states" in report.refusal_messages[reason]
    assert len(report.chunks) == report.ticks - 1


@pytest.mark.parametrize("every_s", [0.0, -1.0, float("nan")])
def test_period_has_to_be_positive(every_s: float, bag: Path) -> None:
    with pytest.raises(ValueError, match="every_s: expected a positive time"):
        run(bag, every_s=every_s)


def test_period_seed_and_progress(bag: Path) -> None:
    steps: list[tuple[float, float]] = []
    report, policy = run(bag, every_s=0.5, seed=42, progress=lambda *step: steps.append(step))
    assert [item.tick_ns - T0 for item in report.chunks] == [500 * MS, 1000 * MS, 1500 * MS, 2000 * MS]
    assert {seed for _, seed in policy.seen} == {42}
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1][0] == pytest.approx(steps[-1][1], abs=1e-6)


def test_an_error_of_the_bag_comes_after_the_ticks_before_it(
    tmp_path: Path, bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bag is read ahead of the policy."""
    from groot_ros.bags import replay as module

    class Broken(module.Bag):
        def messages(self) -> Iterator[BagMessage]:
            for message in super().messages():
                if message.log_ns > T0 + S:
                    raise BagError("damaged after a second")
                yield message

    monkeypatch.setattr(module, "Bag", Broken)
    policy = PolicyDouble(line())
    with pytest.raises(BagError, match="damaged after a second"):
        replay(bag, maker.robot(), policy)
    assert [observation.stamp_ns < T0 + S for observation, _ in policy.seen] == [True] * 3


class Encoding(PolicyDouble):
    """Encodes on the host; what it did where."""

    def __init__(self, predict: Predict) -> None:
        super().__init__(predict)
        self.encoding: set[threading.Thread] = set()

    def encode(self, observation: Observation) -> Observation:
        self.encoding.add(threading.current_thread())
        return observation

    def act_encoded(self, encoded: Observation, *, seed: int | None = None, prefix: object = None) -> Chunk:
        return self.act(encoded, seed=seed)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_is_encoded_ahead_gives_the_same_report(tmp_path: Path, storage: str) -> None:
    records = [*maker.episode(1.0), *[r for r in commanded(0.3) if r.log_ns < T0 + S]]
    path = maker.write(tmp_path / "bag", records, storage)
    policies = [PolicyDouble(line(0.1)), Encoding(line(0.1))]
    reports = [replay(path, maker.robot(), policy).to_dict() for policy in policies]
    for report in reports:
        report.pop("latency_s", None)
        for chunk in report["chunks"]:
            chunk.pop("latency_s")
    assert reports[0] == reports[1]
    assert isinstance(policies[1], Encoding)
    assert len(policies[1].encoding) == 1 and threading.current_thread() not in policies[1].encoding


def test_both_storages_give_the_same(tmp_path: Path) -> None:
    records = [*maker.episode(1.0), *[r for r in commanded(0.3) if r.log_ns < T0 + S]]
    reports = []
    for storage in ("mcap", "sqlite3"):
        report, _ = run(maker.write(tmp_path / storage, records, storage))
        data = report.to_dict()
        reports.append({key: data[key] for key in ("ticks", "streams", "error_to_commands", "error_to_states")})
    assert reports[0] == reports[1]


def test_report_file(tmp_path: Path, bag: Path) -> None:
    report, _ = run(bag)
    report.to_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["embodiment"] == "sim_arm"
    assert data["ticks"] == {"total": 7, "accepted": 7, "refused": {}}
    assert set(data["streams"]) == {"front", "wrist", "joints"}
    chunk = data["chunks"][0]
    assert np.array(chunk["actions"]["single_arm"]).shape == (HORIZON, 5)
    np.testing.assert_allclose(
        chunk["actions"]["gripper"], report.chunks[0].chunk.actions["gripper"], atol=1e-6, rtol=0
    )


def test_the_command_prints_and_stores_what_the_policy_tells_at_its_start_and_in_the_run(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Telling(PolicyDouble):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__(line())
            self.notices = Notices()
            self.notices.add("the plain model runs instead")

        def warm_up(self) -> None:
            pass

        def act(self, observation: Observation, *, seed: int | None = None) -> Chunk:
            self.notices.add("memory ran out")
            return super().act(observation, seed=seed)

        def news(self) -> News:
            return News(self.notices.take())

    monkeypatch.setattr("groot_ros.policy.local.LocalPolicy", Telling)
    monkeypatch.setattr(command, "embodiment_for", lambda *_: maker.robot())
    console = Console(file=io.StringIO(), width=200)
    path = tmp_path / "report.json"
    command.replay_command(bag, tmp_path, "sim_arm", path, instruction="go", policy_options={}, seed=0, console=console)
    told = ["the plain model runs instead", "memory ran out"]
    assert json.loads(path.read_text())["notices"] == told
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [lines.count(notice) for notice in told] == [1, 1]


@given(st.lists(st.floats(-1e6, 1e6), max_size=50))
def test_spread(values: list[float]) -> None:
    result = spread(values)
    assert result.count == len(values)
    if not values:
        assert result.min is result.p50 is result.p95 is result.max is None
    else:
        assert result.min == min(values) and result.max == max(values)
        assert result.min <= result.p50 <= result.p95 <= result.max  # type: ignore[operator]


def test_joint_errors_leave_out_what_is_not_known() -> None:
    differences = [[1.0, -3.0], [np.nan, 0.0], [-2.0, 5.0]]
    a, b = joint_errors(["a", "b"], differences)
    assert (a.count, a.mean_abs, a.max_abs) == (2, 1.5, 2.0)
    assert (b.joint, b.mean_abs, b.max_abs) == ("b", 4.0, 5.0)
    assert joint_errors(["a"], [[np.nan]]) == []
    assert joint_errors(["a"], []) == []
