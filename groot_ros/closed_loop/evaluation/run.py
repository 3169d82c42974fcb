"""``groot-ros evaluate``: simulator, policy node and evaluator as processes, a progress bar, the report at the end."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from groot_ros.closed_loop.evaluation.judge import Interrupted
from groot_ros.closed_loop.evaluation.record import EPISODES, RUN, Episode, EvaluationError, read_episodes
from groot_ros.closed_loop.evaluation.report import PAGE, PICTURE, read_folder, write_report
from groot_ros.closed_loop.evaluation.summary import EvaluationSummary, summarize_episodes
from groot_ros.closed_loop.evaluation.words import headline, latency_rows, outcome_rows
from groot_ros.dataset.durable import make_folder, write_json
from groot_ros.processes import ProcessDied, Processes, node_command, ros_environment, stoppable
from groot_ros.simulation.tasks import find_task

LOOK_S = 0.25
ABOUT = "about.json"
_FATAL = re.compile(r"\[FATAL\] \[[^\]]*\] \[groot_evaluator\]: (.*)")


@dataclass(frozen=True)
class Request:
    """What is to be evaluated.

    Attributes:
        embodiment: name or YAML file of the robot.
        checkpoint: of the policy node that is started; empty: one runs already (``external``).
        output: folder of the report.
        task: of the simulator, such as ``reach:blue``; empty: its own.
        instruction: empty: the task's.
        speed: simulated seconds per second.
        control: ``cameras`` or ``joints``: the policy's robot is wired wrongly on purpose; empty: it is not.
        external: robot or simulator run already.
        sim_time: follow the /clock of an external simulator.
        policy: more parameters of the policy node.
        evaluator: more parameters of the evaluator.
    """

    embodiment: str
    checkpoint: str
    output: Path
    task: str = ""
    instruction: str = ""
    episodes: int = 100
    seed: int = 0
    time_limit_s: float = 15.0
    speed: float = 1.0
    control: str = ""
    external: bool = False
    sim_time: bool = False
    resume: bool = False
    policy: Mapping[str, object] = field(default_factory=dict)
    evaluator: Mapping[str, object] = field(default_factory=dict)

    @property
    def simulated_time(self) -> bool:
        """Whether nodes take their time from /clock."""
        return self.sim_time or (not self.external and self.speed != 1.0)


def run_evaluation(request: Request, console: Console, command: str = "") -> EvaluationSummary:
    """Play what is missing, and write the report, whatever happens on the way.

    Args:
        command: as it is to be told in the report; left out: this process's own.

    Raises:
        EvaluationError: it cannot begin; nothing was started.
        Interrupted: it did not come to its end; what was measured is in the report.
        KeyboardInterrupt: it was stopped; the same.
    """
    _check(request)
    make_folder(request.output)
    robot = _robot(request)
    about = {
        "setting": {"control": request.control, "speed": request.speed, **_words(request.policy)},
        "facts": {"command": command or " ".join(["groot-ros", *sys.argv[1:]])},
    }
    write_json(request.output / ABOUT, about)
    note = ""
    error: BaseException | None = None
    try:
        with stoppable(), Processes(request.output / "logs", _environment(request)) as processes:
            _start(request, robot, processes)
            try:
                _follow(request, processes, console)
            finally:
                processes.end_first("evaluator")  # while the policy is there to be stopped
    except KeyboardInterrupt as caught:
        note, error = "stopped by a signal", caught
    except (ProcessDied, Interrupted) as caught:
        note, error = str(caught), Interrupted(str(caught))
    summary = None
    try:
        summary = _report(request, note, console) if (request.output / EPISODES).exists() else None
    except (OSError, EvaluationError) as failure:
        if error is None:
            raise
        console.print(f"no report: {failure}", markup=False)
    if error is not None:
        raise error
    if summary is None:
        raise Interrupted(f"no episode was played; see {request.output / 'logs'}")
    return summary


def _check(request: Request) -> None:
    """Refuse before a model is loaded. Raises: EvaluationError."""
    if (request.output / RUN).exists() and not request.resume:
        raise EvaluationError(
            f"{request.output}: expected a new folder, found an evaluation: give another --output, or --resume to go on"
        )
    if not request.external and not request.checkpoint:
        raise EvaluationError("expected --checkpoint, or --external for a robot and a policy node that run already")
    if request.external and request.speed != 1.0:
        raise EvaluationError("--speed is of the embedded simulator: with --external it has to be left out")
    if request.control and not request.checkpoint:
        raise EvaluationError("--control changes the policy's robot: it needs --checkpoint, to start the policy itself")
    if not request.external:
        _check_task(request.task)


def _check_task(name: str) -> None:
    """The embedded simulator has to judge something. Raises: EvaluationError."""
    if not name:
        raise EvaluationError("expected --task, such as reach_one or reach: without one nothing succeeds")
    try:
        find_task(name)
    except ValueError as error:
        raise EvaluationError(f"--task: {error}") from error


def _robot(request: Request) -> str:
    """The robot as the policy node is to see it. Raises: EmbodimentError."""
    if not request.control:
        return request.embodiment
    from groot_ros.closed_loop.controls import write_control
    from groot_ros.policy.generation import checkpoint_generation

    target = request.output / f"control_{request.control}.yaml"
    generation = checkpoint_generation(request.checkpoint)
    return str(write_control(request.embodiment, request.control, target, generation=generation))


def _environment(request: Request) -> dict[str, str]:
    if not request.external:
        return ros_environment()
    return {**os.environ, "PYTHONUNBUFFERED": "1"}  # the domain of whatever runs already


def _start(request: Request, robot: str, processes: Processes) -> None:
    clock: dict[str, object] = {"use_sim_time": True} if request.simulated_time else {}
    if not request.external:
        simulator: dict[str, object] = {"embodiment": request.embodiment, "seed": request.seed}
        if request.simulated_time:
            simulator |= {"publish_clock": True, "real_time_factor": float(request.speed)}
        processes.start("simulator", node_command("simulator", simulator))
    if request.checkpoint:
        policy = {"embodiment": robot, "checkpoint": request.checkpoint, "autostart": True, **clock, **request.policy}
        processes.start("policy", node_command("policy", policy))
    evaluator: dict[str, object] = {
        "output": request.output,
        "resume": request.resume,
        "embodiment": request.embodiment,
        "episodes": request.episodes,
        "seed": request.seed,
        "task": request.task,
        "instruction": request.instruction,
        "time_limit_s": float(request.time_limit_s),
        "about": request.output / ABOUT,
        **clock,
        **request.evaluator,
    }
    processes.start("evaluator", node_command("evaluator", evaluator))


def _follow(request: Request, processes: Processes, console: Console) -> None:
    """Show how it goes until the evaluator ends. Raises: ProcessDied, Interrupted."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
    )
    wanted = range(request.seed, request.seed + request.episodes)
    size, seen = 0, 0
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(request.task or "episodes", total=request.episodes, told="the policy is loading")
        running = True
        while running:
            running = processes.ended("evaluator") is None
            now = _size(request.output / EPISODES)
            if now != size:
                size = now
                episodes = [episode for episode in read_episodes(request.output) if episode.seed in wanted]
                told = f"{sum(episode.success for episode in episodes)} successes"
                if episodes:  # those of a run that this one goes on with may all have other seeds
                    told += f", last: seed {episodes[-1].seed} {episodes[-1].outcome}"
                progress.update(bar, completed=len(episodes), told=escape(told))
                if not console.is_terminal and len(episodes) // 10 != seen // 10:
                    console.print(f"{len(episodes)}/{request.episodes}: {told}", markup=False)
                seen = len(episodes)
            if running:
                processes.check(but="evaluator")
                time.sleep(LOOK_S)
    code = processes.ended("evaluator")
    if code:
        fatal = _FATAL.findall(processes.log("evaluator").read_text(errors="replace"))
        raise Interrupted(fatal[-1] if fatal else processes.last_words("evaluator"))
    missing = len(set(wanted) - {episode.seed for episode in read_episodes(request.output)})
    if missing:
        raise Interrupted(f"the evaluator ended with {missing} episodes to play")


def _report(request: Request, note: str, console: Console) -> EvaluationSummary:
    folder = read_folder(request.output)
    wanted = range(request.seed, request.seed + request.episodes)
    folder.episodes = sorted((e for e in folder.episodes if e.seed in wanted), key=lambda episode: episode.seed)
    summary = summarize_episodes(folder.episodes, request.episodes)
    write_report(folder, request.episodes, note)
    if folder.episodes and _drawn(request, summary, folder.episodes, console):
        write_report(folder, request.episodes, note)  # that shows it
    _show(summary, Console(highlight=False))
    console.print(f"report: {request.output / PAGE}", markup=False, soft_wrap=True)
    return summary


def _drawn(request: Request, summary: EvaluationSummary, episodes: Sequence[Episode], console: Console) -> bool:
    """Whether there is a picture: a video that cannot be read is no reason to go without a report."""
    import av

    try:
        _draw(request, summary, episodes)
    except (OSError, ValueError, av.FFmpegError) as error:
        console.print(f"no picture: {error}", markup=False)
        return False
    return True


def _draw(request: Request, summary: EvaluationSummary, episodes: Sequence[Episode]) -> None:
    from groot_ros.closed_loop.evaluation.picture import draw_evaluation  # matplotlib takes a second to import

    robot = Path(request.embodiment).stem
    words = (request.task, robot, request.checkpoint, request.control and f"control {request.control}")
    path, title = request.output / PICTURE, ", ".join(filter(None, words))
    draw_evaluation(path, request.output, summary, episodes, title, request.time_limit_s)


def _show(summary: EvaluationSummary, out: Console) -> None:
    out.print(headline(summary), style="bold", markup=False)
    for title, rows in (("", outcome_rows(summary)), ("milliseconds per chunk", latency_rows(summary))):
        table = Table(title=title or None, title_justify="left")
        head, *body = rows
        for name in head:
            table.add_column(name)
        for row in body:
            table.add_row(*map(escape, row))
        out.print(table)


def _words(parameters: Mapping[str, object]) -> dict[str, Any]:
    return {f"policy {name}": str(value) for name, value in parameters.items()}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
