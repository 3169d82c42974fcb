"""``make demo``: a small GR00T that learnt to reach, on scenes that it has not seen, with a page of what happened."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from groot_ros.closed_loop.evaluation.record import RUN, EvaluationError, read_run
from groot_ros.closed_loop.evaluation.run import Request, run_evaluation
from groot_ros.closed_loop.evaluation.summary import EvaluationSummary
from groot_ros.share import share_directory

CHECKPOINT = Path("checkpoints") / "sim_tabletop_reach"
EMBODIMENT = "sim_tabletop"
TASK = "reach"
TIME_LIMIT_S = 6.0
EXPECTED = 0.8
"""Share of successes, of which less means that something is wrong, or the machine far too slow."""


def demo_checkpoint() -> Path:
    """The folder of the checkpoint that comes with this package."""
    return share_directory() / CHECKPOINT


def run_demo(output: Path, episodes: int, seed: int, console: Console) -> EvaluationSummary:
    """Play ``episodes`` seeded scenes in real time through simulator, policy node and evaluator, and write the page.

    An earlier demo's ``output`` is replaced.

    Args:
        seed: of the first scene; the checkpoint's demonstrations have those below 20000.

    Raises:
        EvaluationError: ``output`` is another evaluation; see also ``run_evaluation``.
        Interrupted: see ``run_evaluation``.
    """
    checkpoint = str(demo_checkpoint())
    if (output / RUN).exists():
        if read_run(output)["setting"].get("checkpoint") != checkpoint:
            raise EvaluationError(
                f"{output}: expected a new folder or an earlier demo, found another evaluation: give another --output"
            )
        shutil.rmtree(output)
    request = Request(
        embodiment=EMBODIMENT,
        checkpoint=checkpoint,
        output=output,
        task=TASK,
        episodes=episodes,
        seed=seed,
        time_limit_s=TIME_LIMIT_S,
        policy={"device": "cpu", "torch_threads": 1},
        evaluator={"videos": "all"},
    )
    return run_evaluation(request, console)
