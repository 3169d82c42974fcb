"""``make demo``: a small GR00T that learnt to reach, on scenes that it has not seen, with a page of what happened."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from groot_ros.closed_loop.evaluation.record import RUN
from groot_ros.closed_loop.evaluation.run import Request, run_evaluation
from groot_ros.closed_loop.evaluation.summary import EvaluationSummary
from groot_ros.share import share_directory

CHECKPOINT = Path("checkpoints") / "sim_tabletop_reach"
EMBODIMENT = "sim_tabletop"
TASK = "reach"
SEED = 20_000
"""The checkpoint's demonstrations have lower ones."""
TIME_LIMIT_S = 6.0
EXPECTED = 0.8
"""Share of successes, of which less means that something is wrong, or the machine far too slow."""


def demo_checkpoint() -> Path:
    """The folder of the checkpoint that comes with this package."""
    return share_directory() / CHECKPOINT


def run_demo(output: Path, episodes: int, seed: int, console: Console) -> EvaluationSummary:
    """Play ``episodes`` seeded scenes in real time through simulator, policy node and evaluator, and write the page.

    An earlier demo's ``output`` is replaced.

    Raises:
        EvaluationError, Interrupted: see ``run_evaluation``.
    """
    if (output / RUN).exists():
        shutil.rmtree(output)
    request = Request(
        embodiment=EMBODIMENT,
        checkpoint=str(demo_checkpoint()),
        output=output,
        task=TASK,
        episodes=episodes,
        seed=seed,
        time_limit_s=TIME_LIMIT_S,
        policy={"device": "cpu", "torch_threads": 1},
        evaluator={"videos": "all"},
    )
    return run_evaluation(request, console)
