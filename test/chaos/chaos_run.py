"""Seeded runs of faults against the policy node over real DDS: ``make chaos RUNS=500 SEED=0``.

Run ``n`` has seed ``SEED + n``; ``make chaos RUNS=1 SEED=1234`` repeats run 1234.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TOLERATED = frozenset({"stale", "spread", "underrun", "short_history", "missing_stream"})  # a machine under load


@dataclass(frozen=True)
class Scenario:
    """Which faults, and when.

    Attributes:
        seed: of everything in it.
        faults: names in ``FAULTS``; the second one comes while the first one lasts.
        before_s: from running to the first fault.
        between_s: to the second.
    """

    seed: int
    faults: tuple[str, ...]
    before_s: float
    between_s: float

    def __str__(self) -> str:
        return f"seed {self.seed}: {' and '.join(self.faults)}"


@dataclass
class Tally:
    """What came of many runs."""

    runs: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    late: int = 0
    failures: list[str] = field(default_factory=list)
    starts: int = 0


def scenario(seed: int) -> Scenario:
    """The scenario of a seed: any ``len(FAULTS)`` seeds in a row have every fault."""
    from chaos_faults import FAULTS

    rng = np.random.default_rng(seed)
    names = list(FAULTS)
    first = names[seed % len(names)]
    chosen = [first]
    others = [
        name
        for name in names
        if name != first
        and not FAULTS[name].alone
        and FAULTS[name].simulated == FAULTS[first].simulated
        and not (FAULTS[name].of and FAULTS[name].of == FAULTS[first].of)
    ]
    if not FAULTS[first].alone and others and rng.random() < 0.4:
        chosen.append(str(rng.choice(others)))
    return Scenario(seed, tuple(chosen), float(rng.uniform(0.0, 0.25)), float(rng.uniform(0.0, 0.2)))


class Runner:
    """Runs scenarios against one node.

    Args:
        rig: running or not.
        tally: counts.
    """

    def __init__(self, rig: object, tally: Tally) -> None:
        from chaos_checks import Checks
        from chaos_rig import Rig

        assert isinstance(rig, Rig)
        self._rig, self._tally = rig, tally
        self._checks = Checks(rig.robot)
        rig.recover()

    def run(self, what: Scenario) -> list[str]:
        """One scenario; what was wrong."""
        from chaos_faults import FAULTS
        from chaos_rig import Failed

        rig, faults = self._rig, [FAULTS[name] for name in what.faults]
        wrong: list[str] = []
        seen = len(rig.robot.statuses)
        try:
            self._go_through(what)
        except (Failed, TimeoutError) as error:
            wrong.append(str(error))
        told = [heard.message for heard in rig.robot.statuses[seen:]]
        found = self._checks.look(abrupt=any(fault.abrupt for fault in faults))
        wrong += found.wrong
        if "calls" not in what.faults:
            expected = frozenset[str]().union(*(fault.reasons | fault.may for fault in faults)) | TOLERATED | {""}
            strange = {f"{status.reason}: {status.message}" for status in told if status.reason not in expected}
            wrong += [f"not to be expected from this fault: {one}" for one in sorted(strange)]
        if wrong:  # the next run gets a node that nothing has happened to
            rig.restart()
            self._checks.forget()
            rig.recover()
        self._tally.runs.update(what.faults)
        self._tally.stops += found.stops
        self._tally.commands += found.commands
        self._tally.late += found.late
        return wrong

    def _go_through(self, what: Scenario) -> None:
        from chaos_faults import FAULTS

        rig, rng = self._rig, np.random.default_rng(what.seed + 1)
        rig.robot.dwell(what.before_s)
        seen = len(rig.robot.statuses)
        undo = ExitStack()
        with undo:
            reasons, words = frozenset[str](), []
            for number, name in enumerate(what.faults):
                fault = FAULTS[name]
                if number:
                    rig.robot.dwell(what.between_s)
                undo.callback(fault.clear, rig)
                fault.inject(rig, rng)
                reasons |= fault.reasons
                words.append(fault.words)
            if reasons and "calls" not in what.faults:  # one of them may have stopped it before the fault did
                # A busy machine may be late with another stream for a moment, and that is told too.
                rig.wait(
                    lambda: any(
                        one.message.reason in reasons and any(word in one.message.message for word in words)
                        for one in rig.robot.statuses[seen:]
                    ),
                    f"a status that says {' or '.join(sorted(reasons))} with {' or '.join(words)} in its message",
                )
                rig.robot.dwell(float(rng.uniform(0.0, 0.2)))
            else:
                rig.robot.dwell(max(FAULTS[name].held_s for name in what.faults))
        rig.recover()


def run_all(scenarios: Sequence[Scenario], folder: Path, tally: Tally, *, quiet: bool = False) -> None:
    """Run them, those on the system's clock first.

    Each node process serves many runs, as many as go well.
    """
    from chaos_faults import FAULTS
    from chaos_rig import Rig

    done, begin_s = 0, time.monotonic()
    for simulated in (False, True):
        these = [one for one in scenarios if FAULTS[one.faults[0]].simulated == simulated]
        if not these:
            continue
        place = folder / ("simulated" if simulated else "system")
        place.mkdir(parents=True, exist_ok=True)
        with Rig(place, simulated=simulated) as rig:
            runner = Runner(rig, tally)
            for one in these:
                since_s = time.monotonic()
                wrong = runner.run(one)
                done += 1
                if wrong:
                    again = f"repeat it with: make chaos RUNS=1 SEED={one.seed}"
                    tally.failures.append("\n  ".join([f"{one} ({again})", *wrong[:6]]))
                    print(f"FAILED {tally.failures[-1]}", flush=True)
                elif not quiet:
                    now_s = time.monotonic()
                    print(
                        f"{done}/{len(scenarios)} {now_s - begin_s:.0f} s  {one}: {now_s - since_s:.1f} s", flush=True
                    )
            tally.starts += rig.starts


def table(tally: Tally) -> str:
    """What is said at the end."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    faults, stops = Table("fault", "runs", title="faults"), Table("reason", "times", title="stops and refusals")
    for name, count in sorted(tally.runs.items()):
        faults.add_row(name, str(count))
    for name, count in sorted(tally.stops.items()):
        stops.add_row(name or "(none)", str(count))
    console.print(faults)
    console.print(stops)
    checked = ", ".join(f"{count} of {name}" for name, count in sorted(tally.commands.items()))
    console.print(
        f"commands checked: {checked}; {tally.late} trajectories published too late; "
        f"{tally.starts} node processes; {len(tally.failures)} failed runs"
    )
    return console.export_text()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and tell; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="runs whose first fault has this in its name")
    options = parser.parse_args(arguments)
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 101 + 1))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # the nodes are ended on the way out
    tally, begin_s = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="groot-chaos-") as folder:
        scenarios = [scenario(options.seed + number) for number in range(options.runs)]
        if options.only:
            scenarios = [one for one in scenarios if options.only in one.faults[0]]
        run_all(scenarios, Path(folder), tally)
    print(table(tally))
    print(f"{len(scenarios)} runs in {time.monotonic() - begin_s:.0f} s")
    for failure in tally.failures:
        print(f"FAILED {failure}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
