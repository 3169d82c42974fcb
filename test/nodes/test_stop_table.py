"""Every row of docs/stopping.md, done to the policy node over DDS: what goes out, what is said, who lets it go on."""

from __future__ import annotations

import math
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos_checks import Checks
from chaos_faults import FAULTS
from chaos_rig import INSTRUCTION, MOVING, START_S, Rig
from chaos_robot import YAML, stamp_of
from lifecycle_msgs.msg import Transition

from groot_ros.msg import PolicyStatus

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "stopping.md"
RNG = np.random.default_rng(0)
TICK_NS = 20_000_000
BRAKE_S = 1.0  # the slowest of the robot: its base, from its fastest


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    cause: str
    commands: tuple[str, str, str]
    state: str
    reason: str
    latched: bool
    way_on: str


def rows() -> dict[str, Row]:
    """The table, by cause."""
    found = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 8 and cells[0] != "cause":
            cause, *commands, state, reason, latched, way_on = cells
            found[cause] = Row(cause, tuple(commands), state, reason, latched == "yes", way_on)
    return found


def fault(name: str) -> Callable[[Rig], None]:
    return lambda rig: FAULTS[name].inject(rig, RNG)


def call(service: str, data: bool | None = None) -> Callable[[Rig], None]:
    def ask(rig: Rig) -> None:
        assert rig.robot.call(service, data)[0]

    return ask


def transition(number: int) -> Callable[[Rig], None]:
    def ask(rig: Rig) -> None:
        assert rig.robot.change_state(number, START_S)

    return ask


def start_jump(rig: Rig) -> None:
    """The first target after a start is far away."""
    assert rig.robot.call("stop")[0]
    rig.wait_status(lambda status: not status.braking, "rest")
    rig.order("far")
    assert rig.robot.call("start")[0]


def not_a_number(rig: Rig) -> None:
    def edit(stream: str, message: Any) -> list[Any]:
        if stream == "joints":
            message.position[0] = math.nan
        return [message]

    rig.robot.edit = edit


# What each cause is here, and in which node: on the system's clock, on a simulated one, with a stricter gate, or with
# an inference that times out early ("hasty"), which elsewhere a loaded machine must not bring about.
CAUSES: dict[str, tuple[str, Callable[[Rig], None]]] = {
    "`~/stop`": ("system", call("stop")),
    "`~/reset`": ("system", call("reset")),
    "`~/pause` true": ("system", call("pause", True)),
    "`~/dry_run` true": ("system", call("dry_run", True)),
    "deactivate": ("system", transition(Transition.TRANSITION_DEACTIVATE)),
    "`~/estop` true": ("system", lambda rig: rig.robot.estop(True)),
    "refused observation (stale camera)": ("system", fault("camera dead")),
    "refused observation (NaN)": ("system", not_a_number),
    "state outside the training range": ("system", fault("joints far away")),
    "the same with `training_range: stop`": ("strict", fault("joints far away")),
    "no chunk in time (underrun)": ("patient", lambda rig: rig.order("hang")),
    "gate: NaN in a chunk": ("system", fault("chunk NaN")),
    "gate: start jump": ("strict", start_jump),
    "exception in the model": ("system", fault("model exception")),
    "inference timeout": ("hasty", fault("model hangs")),
    "inference process gone": ("system", fault("inference kill -9")),
    "control gap": ("system", fault("node SIGSTOP long")),
    "SIGINT, SIGTERM": ("system", lambda rig: rig.signal(signal.SIGTERM)),
    "`/clock` stands still": ("simulated", fault("clock stands")),
    "`/clock` jumps back": ("simulated", lambda rig: rig.set_clock(rig.robot.now_ns() - 10**10)),
}
TIMEOUTS_S = {"hasty": 0.9, "patient": 60.0}
ENDS = "SIGINT, SIGTERM"  # the last one of its node


def ordered() -> list[tuple[str, str]]:
    """Node and cause, those of one node together."""
    return sorted(((node, cause) for cause, (node, _) in CAUSES.items()), key=lambda one: (one[0], one[1] == ENDS))


@pytest.fixture(scope="module")
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    yaml = YAML
    if kind == "strict":
        yaml = folder / YAML.name
        old = "gate: {start_jump: clamp, "
        text = YAML.read_text(encoding="utf-8")
        assert old in text
        yaml.write_text(text.replace(old, "gate: {start_jump: stop, start_jump_share: 0.9, training_range: stop, "))
    timeout_s = TIMEOUTS_S.get(kind, 5.0)
    with Rig(folder, simulated=kind == "simulated", yaml=yaml, inference_timeout_s=timeout_s) as rig:
        yield rig


def test_the_table_has_what_is_tested_and_nothing_else() -> None:
    assert set(rows()) == set(CAUSES)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("rig", "cause"), ordered(), indirect=["rig"], scope="module")
def test_a_row_of_the_stop_table(rig: Rig, cause: str) -> None:
    row, robot = rows()[cause], rig.robot
    rig.recover()
    checks = Checks(robot)
    robot.dwell(0.4)
    seen = len(robot.statuses)
    before = Sent(rig)
    CAUSES[cause][1](rig)
    if cause == ENDS:
        assert rig.process is not None and rig.process.wait(2.0) == 0
        robot.dwell(0.1)
        before.check(row, rig, time.time_ns())
        assert not checks.look(abrupt=True).wrong
        return
    if cause == "`/clock` jumps back":
        before.stands_and_goes_on(rig)
        assert not checks.look(abrupt=True).wrong
        return
    told = said(rig, row, seen)
    before.settle(rig)
    before.check(row, rig, told)
    assert not checks.look(abrupt="stand" in row.commands).wrong
    if row.latched:
        done, message = robot.call("start")
        assert not done and row.reason in message
        robot.allowed.pop()
    before.nothing_follows(rig, row)
    go_on(rig, row)


def said(rig: Rig, row: Row, seen: int) -> int:
    """Wait until ``~/status`` says what the table says; when that was published."""
    wanted = getattr(PolicyStatus, row.state)
    found: list[int] = []

    def there() -> bool:
        found[:] = [
            one.sent_ns
            for one in rig.robot.statuses[seen:]
            if (one.message.state, one.message.reason) == (wanted, row.reason)
            and (not row.reason or one.message.message)
            and one.message.dry_run == ("dry_run" in row.cause)
        ]
        return bool(found)

    rig.wait(there, f"{row.state} {row.reason}")
    return found[0]


class Sent:
    """What has been sent when a stop begins, and what comes after."""

    def __init__(self, rig: Rig) -> None:
        self._robot = rig.robot
        self._counts = {name: len(kept) for name, kept in self._robot.commands.items()}
        self._since_ns = time.time_ns()

    def settle(self, rig: Rig) -> None:
        """Wait until speeds are 0 and nothing has come for a while, or nothing else: a machine may stall for longer."""

        def quiet() -> bool:
            moved = [_last_change_ns(kept) for kept in self._robot.commands.values() if kept]
            still = time.time_ns() - max(moved) > 300_000_000
            return still and not any(_numbers(self._robot.commands["base"][-1].message))

        rig.wait(quiet, "an end of the commands")

    def after(self, output: str, moment_ns: int) -> list[Any]:
        """Commands published after a moment."""
        return [one for one in self._robot.commands[output][self._counts[output] :] if one.sent_ns > moment_ns]

    def check(self, row: Row, rig: Rig, told_ns: int) -> None:
        """Compare with the table; the cause came after ``_since_ns`` and before ``told_ns``."""
        trajectories, positions, speeds = row.commands
        new = self.after("arm", self._since_ns)
        late = self.after("arm", told_ns + TICK_NS)
        last = self._robot.commands["arm"][-1].message
        assert not any(last.points[-1].velocities), "the last trajectory ends at rest"
        if trajectories == "brake":
            # Where the cause took longer than the rest of the chunk, the robot has run out and rests: nothing to brake.
            over = row.cause in ("control gap", "inference timeout") and _end_ns(last) < told_ns
            assert not late
            if not over:
                assert new
                end_ns = last.points[-1].time_from_start.sec * 10**9 + last.points[-1].time_from_start.nanosec
                assert end_ns < BRAKE_S * 1e9
        elif trajectories == "run out":
            assert not late
        else:
            assert trajectories == "none" and not late
        for output, word in (("gripper", positions), ("base", speeds)):
            since = self.after(output, self._since_ns)
            values = np.array([_numbers(one.message) for one in since])
            if word in ("brake", "run out"):
                assert len(values) and _last_change_ns(since) - told_ns < (BRAKE_S + 1.0) * 1e9
                steps = np.abs(np.diff(values[-4:], axis=0))
                assert (steps[-1] <= steps.max(axis=0)).all()
            elif word in ("stand", "0"):
                assert len(self.after(output, told_ns + TICK_NS)) <= 1
            else:
                assert word == "none" and not self.after(output, told_ns)
            if output == "base":
                assert not any(_numbers(self._robot.commands["base"][-1].message)), "speeds end at 0"

    def stands_and_goes_on(self, rig: Rig) -> None:
        """Time was set back: positions stand and speeds are 0 for once, and the next chunk goes on by itself."""
        old = len(self._robot.chunks)
        rig.wait(lambda: len(self._robot.chunks) > old + 2 and self._robot.status.state in MOVING, "new chunks")
        speeds = [_numbers(one.message) for one in self.after("base", self._since_ns)]
        kept = self._robot.commands["gripper"][self._counts["gripper"] - 1 :]
        places = [_numbers(one.message) for one in kept[:6]]
        # One or two may have been on their way when the clock was set back.
        assert any(not any(speed) for speed in speeds[:4])
        assert any(one == other for one, other in pairwise(places))

    def nothing_follows(self, rig: Rig, row: Row) -> None:
        """Two more statuses come and no command, or none that says something else."""
        counts = {name: len(kept) for name, kept in self._robot.commands.items()}
        seen = len(self._robot.statuses)
        rig.wait(lambda: len(self._robot.statuses) > seen + 2, "more statuses")
        for name, count in counts.items():
            more = self._robot.commands[name][count:]
            if name != "arm" and "run out" in row.commands:
                assert more and all(_numbers(one.message) == _numbers(more[0].message) for one in more)
            else:
                assert not more


def _end_ns(message: Any) -> int:
    after = message.points[-1].time_from_start
    return int(stamp_of(message) + after.sec * 10**9 + after.nanosec)


def _last_change_ns(kept: list[Any]) -> int:
    """When something was said that had not been said right before; every trajectory is something new."""
    if hasattr(kept[-1].message, "points"):
        return int(kept[-1].sent_ns)
    last = _numbers(kept[-1].message)
    return next((int(one.sent_ns) for one in reversed(kept) if _numbers(one.message) != last), 0)


def _numbers(message: Any) -> list[float]:
    if hasattr(message, "linear"):
        return [message.linear.x, message.angular.z]
    return list(message.position)


def go_on(rig: Rig, row: Row) -> None:
    """Do what the last column says, in its order, and nothing else; the robot moves again."""
    robot, chunks = rig.robot, len(rig.robot.chunks)
    if row.cause != "`~/estop` true":
        rig.order("")
        if row.cause == "`/clock` stands still":
            FAULTS["clock stands"].clear(rig)
        robot.edit = lambda stream, message: [message]
    for step in row.way_on.split(", "):
        service = re.fullmatch(r"`~/(\w+)`(?: (true|false))?", step)
        if service is None:
            if step in LIFECYCLE:
                assert robot.change_state(LIFECYCLE[step], START_S), step
            else:
                assert step in ("a good observation", "the next chunk", "`/clock` going on"), step
        elif service[1] == "estop":
            robot.estop(service[2] == "true")
            rig.wait_status(lambda _: True, "a status after the release")
        elif service[1] == "reset_stop":
            rig.reset_stop()  # an inference that hangs may take its time to end; until then it is refused
        else:
            assert robot.call(service[1], {None: None, "true": True, "false": False}[service[2]])[0], step

    def moves() -> bool:
        fine = robot.status.state in MOVING and not robot.status.reason and robot.status.instruction == INSTRUCTION
        return fine and len(robot.chunks) > chunks + 1

    rig.wait(moves, "moving again")


LIFECYCLE = {
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
}
