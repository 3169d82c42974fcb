"""Absolute targets on control ticks: which chunk is executed when, and how one follows another.

A chunk is indexed by its observation's stamp: row ``i`` is due at ``stamp + (i + 1) * dt``. Ticks that pass while the
policy thinks are counted, never estimated from its latency; when a chunk arrives, what has passed is dropped and the
rest takes over from the very motion that is being commanded (spec performance.md, D3).

Not thread-safe: ``plan`` may run beside ``step``, all else is called under the caller's lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from groot_ros.control.gate import Gate
from groot_ros.control.handover import Handover, handover
from groot_ros.control.interpolation import resample
from groot_ros.control.layout import Layout
from groot_ros.control.limiter import Motion
from groot_ros.control.merging import Path, ensemble, faded, gentle_ticks, taken_over
from groot_ros.control.plans import Accepted, Pace, Step, Unusable
from groot_ros.control.space import Array
from groot_ros.control.track import Track, resting, spliced
from groot_ros.embodiment.control_schema import Chunking
from groot_ros.policy.base import Chunk, Prefix

DELAY_WINDOW = 20
MARGIN_TICKS = 2
OVERLAP_ROWS = 4  # of the chunk before that are left when the next one arrives: what a new one can be led by
HISTORY_S = 1.0
BLEND_STEPS = 4  # of the model: length of the fade of mode "blend"
_SETTLING_NS = 500_000_000  # how long joints may be behind a command that rests
_RESTED = 0.05  # of a range: a robot that rested and is found further away was moved by someone else


class ChunkTimeline:
    """The commands of one run, tick by tick.

    Args:
        layout: what is commanded.
        gate: bounds the motion.
        pace: times.
        mode: chunking mode.
    """

    def __init__(self, layout: Layout, gate: Gate, pace: Pace, mode: Chunking) -> None:
        self.pace = pace
        self.mode = mode
        self._layout, self._gate = layout, gate
        self._delays: deque[int] = deque(maxlen=DELAY_WINDOW)
        self._inferences = 0
        self._version = 0
        self._track: Track | None = None
        self._last: Accepted | None = None
        self._restarted = True
        self._chunks: deque[tuple[NDArray[np.int64], Array]] = deque(maxlen=64)
        self._begun_tick = 0

    # --- control loop ------------------------------------------------------------------------------------------------

    @property
    def track(self) -> Track | None:
        """What is being executed; None before the first chunk of a run."""
        return self._track

    @property
    def observed_ns(self) -> int | None:
        """Stamp of the observation behind what is executed; None when nothing is."""
        last = self._last
        return last.chunk.stamp_ns if last is not None else None

    def step(self, tick: int) -> Step | None:
        """What to command on ``tick``; None when nothing has been planned yet."""
        track = self._track
        if track is None:
            return None
        return Step(tick, track.motion(tick), tick <= track.planned_end, tick >= track.last_tick)

    def resume(self, tick: int, sent: Motion, streamed: NDArray[np.bool_]) -> None:
        """Ticks up to ``tick`` were missed: lead what is sent tick by tick back to the track within the limits.

        Args:
            sent: what went out last; numbers that are sent so have stood there since.
            streamed: bool [V], which they are; the others, sent as whole trajectories, were not held up.
        """
        track = self._track
        if track is None or tick >= track.last_tick:
            return
        space, on_time = self._layout.space, track.motion(tick)
        start = space.plus(on_time.values, np.where(streamed, space.minus(sent.values, on_time.values), 0.0))
        velocity = np.where(streamed, 0.0, on_time.velocity)
        told, told_speeds = track.rows(tick + 1, track.last_tick)
        rows, speeds, _ = self._shaped(Motion(start, velocity), Path(told, told_speeds))
        # What a controller has been sent it executes to the last digit.
        count, (values, tangents) = len(told), space.lines
        values, tangents = values[~streamed[tangents]], tangents[~streamed[tangents]]
        rows[:count, values], rows[count:, values] = told[:, values], told[-1, values]
        speeds[:count, tangents], speeds[count:, tangents] = told_speeds[:, tangents], 0.0
        begun = Track(space, track.period_ns, tick, start[None], velocity[None], track.planned_end)
        self._track = spliced(begun, tick, rows, speeds, track.planned_end, self._history)

    def brake(self, tick: int) -> Track | None:
        """Come to rest from what is commanded on ``tick`` on; returns the new track, None when the robot rests already.

        No chunk that was begun before takes over any more, and the next one continues nothing.
        """
        track = self._track
        self.restart()
        if track is None or tick >= track.last_tick:
            return None
        stop = self._gate.brake(track.motion(tick))
        self._track = spliced(track, tick, stop.values, stop.velocities, tick, self._history)
        return self._track

    def restart(self) -> None:
        """The next chunk continues nothing: after a stop, a new instruction, a new episode."""
        self._version += 1
        self._restarted = True
        self._chunks.clear()
        self._last = None

    def forget(self) -> None:
        """Nothing is known about where the robot was told to be: its clock jumped, or someone else moves it."""
        self._track = None
        self.restart()

    # --- inference ---------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Changes when what is planned beside the control loop must not be committed any more."""
        return self._version

    @property
    def delay_ticks(self) -> int:
        """Ticks that an inference may take: the most that were counted lately, unusual ones left out."""
        return max(self._delays, default=self.pace.first_delay_ticks)

    def counted(self, ticks: int, usual: bool = True) -> None:
        """An inference took ``ticks`` control ticks. The first one of all is slow for its own reasons.

        Args:
            usual: False for another one that is (``Chunk.usual``).
        """
        self._inferences += 1
        if usual and self._inferences > 1:
            self._delays.append(ticks)

    def next_launch_ns(self, launched_ns: int) -> int:
        """When the next inference is due: a part of the chunk later, but before the queue could run empty."""
        track = self._track
        if track is None:
            return launched_ns
        if self.mode == "sync":
            return max(self.pace.time_ns(track.last_tick + 1), launched_ns)
        spare_ns = (self.delay_ticks + MARGIN_TICKS) * self.pace.period_ns + self.pace.wait_ns
        if self.mode != "naive":
            spare_ns += min(OVERLAP_ROWS, self.pace.horizon // 2) * self.pace.dt_ns
        latest_ns = self.pace.time_ns(track.planned_end) - spare_ns
        return max(min(launched_ns + self.pace.replan_ns, latest_ns), launched_ns)

    def remaining(self, tick: int) -> int:
        """Planned ticks after ``tick``."""
        track = self._track  # asked for without the lock, and it may be forgotten meanwhile
        return max(track.planned_end - tick, 0) if track is not None else 0

    def prefix(self, stamp_ns: int, tick: int, instruction: str) -> Prefix | None:
        """What will be executed at the rows of a chunk for an observation of ``stamp_ns``, launched on ``tick``.

        None in modes that continue nothing, after a restart, with another instruction than the last chunk's, and when
        nothing is left.
        """
        track, last = self._track, self._last
        if not self._led or track is None or last is None or self._restarted:
            return None
        if last.chunk.instruction != instruction:
            return None
        due_ns = self.pace.due_ns(stamp_ns)
        length = int(np.searchsorted(due_ns, self.pace.time_ns(track.planned_end), side="right"))
        if length == 0:
            return None
        settled_ns = self.pace.time_ns(tick + self.delay_ticks)
        frozen = min(int(np.searchsorted(due_ns, settled_ns, side="right")), length)
        kept = np.minimum(np.arange(len(due_ns)), length - 1)
        row_of = np.clip(np.rint((due_ns - last.stamp_ns) / self.pace.dt_ns).astype(int) - 1, 0, len(last.rows) - 1)
        near = {key: np.asarray(rows, np.float64)[row_of][kept] for key, rows in last.chunk.actions.items()}
        commanded = self._layout.model_rows(track.sample(due_ns[kept]), near)
        schedule = self._layout.embodiment.control.prefix_schedule
        return Prefix({**near, **commanded}, length, frozen, native=self.mode == "native", schedule=schedule)

    def plan(
        self, chunk: Chunk, tick: int, measured: tuple[Array, NDArray[np.bool_]], measured_ns: int
    ) -> Accepted | Unusable:
        """Fit ``chunk`` in from the tick after ``tick`` on.

        Args:
            tick: the last one that has been commanded, or will be before this is committed.
            measured: where the robot was seen at ``measured_ns``, and which of it is known (``Layout.measured``).

        Raises:
            GateViolation: it must not be executed and the robot is to stop.
        """
        values = self._gate.check_chunk(chunk.actions)
        pace, track = self.pace, self._track
        stamp_ns = pace.time_ns(tick) if self.mode == "sync" else chunk.stamp_ns
        due_ns = pace.due_ns(stamp_ns)
        end = pace.tick(int(due_ns[-1]))
        if end <= tick:
            late_s = (pace.time_ns(tick + 1) - int(due_ns[-1])) * 1e-9
            return Unusable(
                "chunk_too_late",
                f"the chunk's last point was due {late_s:.3f} s before it could be executed; the model is slower than "
                f"the chunk is long ({len(values)} points of {chunk.dt_s:.3f} s)",
            )
        last = self._last  # a stop may come in between
        if last is not None and chunk.stamp_ns <= last.chunk.stamp_ns:
            older_s = (last.chunk.stamp_ns - chunk.stamp_ns) * 1e-9
            return Unusable("chunk_older", f"its observation is {older_s:.3f} s older than that of the chunk in force")
        first = min(int(np.searchsorted(due_ns, pace.time_ns(tick), side="right")), len(values) - 1)
        start, fresh = self._start(track, tick, measured, measured_ns, values[first])
        begun = tick if fresh or self._restarted else self._begun_tick
        base = (
            track
            if track is not None and not fresh
            else resting(self._layout.space, pace.period_ns, tick, start.values)
        )
        path, old = self._paths(base, chunk, due_ns, values, tick, end, fresh)
        if fresh or self._restarted:
            self._gate.check_start(start.values, values[first])
        took_over = None
        if not fresh:
            took_over = handover(self._layout.space, base, due_ns, values, tick, chunk.frozen, self._led)
            path = self._take_over(path, old, (due_ns, values), took_over, tick, begun)
        if fresh or not self._led:
            path = self._grown(path, old, tick, begun)
        rows, speeds, clamped = self._shaped(start, Path(path.values[1:], path.velocities[1:]))
        return Accepted(
            chunk,
            track,
            spliced(base, tick, rows, speeds, end, self._history),
            tick + 1,
            first,
            clamped,
            stamp_ns,
            values,
            took_over,
        )

    def commit(self, accepted: Accepted, tick: int) -> bool:
        """Execute it; False when the control loop has come to its first tick already, or what it was planned on is no
        longer executed: plan again.
        """
        if tick >= accepted.first_tick or accepted.base is not self._track:
            return False
        if self._restarted or accepted.handover is None:
            self._begun_tick = accepted.first_tick - 1
        if self._last is not None and self._last.chunk.instruction != accepted.chunk.instruction:
            self._chunks.clear()
        self._track, self._last, self._restarted = accepted.track, accepted, False
        self._chunks.append((self.pace.due_ns(accepted.stamp_ns), accepted.rows))
        return True

    # --- parts of plan -----------------------------------------------------------------------------------------------

    @property
    def _led(self) -> bool:
        """Whether a chunk is made to continue the one before while it forms."""
        return self.mode in ("guided", "native")

    @property
    def _history(self) -> int:
        return math.ceil(HISTORY_S * 1e9 / self.pace.period_ns)

    def _shaped(self, start: Motion, path: Path) -> tuple[Array, Array, Mapping[str, int]]:
        """Values and velocities that follow ``path`` in all limits and come to rest behind it; what was clamped."""
        limited = self._gate.shape(start, path.values, path.velocities)
        stop = self._gate.brake(Motion(limited.values[-1], limited.velocities[-1]))
        values = np.concatenate([limited.values, stop.values])
        return values, np.concatenate([limited.velocities, stop.velocities]), limited.clamped

    def _start(
        self,
        track: Track | None,
        tick: int,
        measured: tuple[Array, NDArray[np.bool_]],
        measured_ns: int,
        target: Array,
    ) -> tuple[Motion, bool]:
        """Where the new path begins, and whether that is a start: from where the robot was measured, at rest.

        It begins from what is commanded as long as that moves, or the robot was not seen since, or is still there; what
        is not measured begins at its first ``target``.
        """
        space = self._layout.space
        seen, known = measured
        if track is not None:
            commanded = track.motion(tick)
            if tick < track.last_tick or measured_ns < self.pace.time_ns(track.last_tick):
                return commanded, False
            away = np.abs(space.minus(commanded.values, seen)) > _RESTED * space.width
            catching_up = measured_ns < self.pace.time_ns(track.last_tick) + _SETTLING_NS
            if not (away & known).any() and (not self._restarted or catching_up):
                return commanded, False
            fallback = commanded.values
        else:
            fallback = target.copy()
            columns, tangents = space.lines
            fallback[columns] = np.clip(target[columns], space.lower[tangents], space.upper[tangents])
        start = space.plus(fallback, np.where(known, space.minus(seen, fallback), 0.0))
        return Motion(space.at_rest(start), np.zeros(space.tangent_count)), True

    def _paths(
        self, base: Track, chunk: Chunk, due_ns: NDArray[np.int64], values: Array, tick: int, end: int, fresh: bool
    ) -> tuple[Path, Path]:
        """The new path and the old one on the ticks from ``tick`` to ``end``."""
        ticks = np.arange(tick, end + 1)
        at_ns = ticks * self.pace.period_ns
        rows_ns, rows = due_ns, values
        if due_ns[0] > at_ns[0]:
            # Before its first point the chunk says where the robot was when it was seen.
            anchor_ns = min(self.pace.time_ns(tick) if fresh else int(due_ns[0]) - self.pace.dt_ns, int(at_ns[0]) - 1)
            anchor = base.sample(np.array([anchor_ns]))
            rows_ns, rows = np.concatenate([[anchor_ns], due_ns]), np.concatenate([anchor, values])
        if self.mode == "ensemble" and not fresh:
            last = self._last
            same = last is not None and last.chunk.instruction == chunk.instruction
            path = ensemble(self._layout.space, [*(self._chunks if same else ()), (rows_ns, rows)], at_ns)
        else:
            path = Path(*resample(self._layout.space, rows_ns, rows, at_ns))
        return path, Path(*base.rows(tick, end))

    def _take_over(
        self,
        path: Path,
        old: Path,
        new: tuple[NDArray[np.int64], Array],
        took_over: Handover,
        tick: int,
        begun: int,
    ) -> Path:
        """Lead from the old path into the new one as the mode says; ``new``: due times and rows."""
        space, pace = self._layout.space, self.pace
        if self.mode == "blend":
            begin = took_over.begin_ns / pace.period_ns - tick
            return faded(space, old, path, begin, BLEND_STEPS * pace.dt_ns / pace.period_ns, pace.period_ns * 1e-9)
        if not self._led:
            return path
        return taken_over(space, path, old, new, took_over, tick, pace.period_ns, self._growing(tick, begun))

    def _growing(self, tick: int, begun: int) -> float:
        """Ticks that are left of ``blend_in_s``."""
        return self._layout.embodiment.control.blend_in_s * 1e9 / self.pace.period_ns - (tick - begun)

    def _grown(self, path: Path, old: Path, tick: int, begun: int) -> Path:
        """After a start, the way from where the robot stands to the chunk grows from 0 to 1 over ``blend_in_s``."""
        space, period_s = self._layout.space, self.pace.period_ns * 1e-9
        length = self._growing(tick, begun)
        if length > 0:
            # Faster than the limits it would be clamped, and a clamped motion shoots past where it should end.
            steps = slice(math.ceil(self.pace.dt_ns / self.pace.period_ns) + 1)
            length = max(length, gentle_ticks(space, space.minus(path.values[steps], old.values[steps]), period_s))
        return faded(space, old, path, 0.0, length, period_s)
