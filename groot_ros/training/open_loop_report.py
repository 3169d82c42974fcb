"""What an open-loop evaluation found, as numbers that go into a table and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groot_ros.bags.report import Spread, spread
from groot_ros.training.open_loop import Column, EpisodeRun

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ColumnError:
    """Predicted minus recorded, of one number of the actions.

    Attributes:
        key, name, unit: which number.
        mse: mean of the squares, in ``unit`` squared.
        mae, max_abs: mean and largest absolute value, in ``unit``.
        held_mae: mean absolute error of keeping the last action before each observation: what any policy must beat.
    """

    key: str
    name: str
    unit: str
    mse: float
    mae: float
    max_abs: float
    held_mae: float


@dataclass(frozen=True)
class MeanError:
    """Means over several numbers; over those of several units, mse and mae have no unit."""

    mse: float
    mae: float
    held_mae: float


@dataclass(frozen=True)
class OpenLoopReport:
    """Result of an open-loop evaluation.

    Attributes:
        dataset, checkpoint, embodiment: what was evaluated on what.
        fps: rows per second.
        execution_horizon: rows of each chunk that count.
        seed: of the noise.
        columns: numbers of the actions.
        runs: one per episode.
        pictures: episode -> file of its plot.
        notices: what a person should know, as far as the run has come.
    """

    dataset: str
    checkpoint: str
    embodiment: str
    fps: float
    execution_horizon: int
    seed: int
    columns: Sequence[Column]
    runs: list[EpisodeRun]
    pictures: dict[int, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def column_errors(self, runs: Sequence[EpisodeRun] | None = None) -> list[ColumnError]:
        """One per column, over all rows of ``runs``; None: of all."""
        errors, held = self._differences(runs)
        return [
            ColumnError(
                column.key,
                column.name,
                column.unit,
                float((errors[:, i] ** 2).mean()),
                float(np.abs(errors[:, i]).mean()),
                float(np.abs(errors[:, i]).max()),
                float(np.abs(held[:, i]).mean()),
            )
            for i, column in enumerate(self.columns)
        ]

    def key_errors(self) -> dict[str, MeanError]:
        """Key -> means over its numbers and all rows."""
        keys = dict.fromkeys(column.key for column in self.columns)
        return {key: self._mean([i for i, column in enumerate(self.columns) if column.key == key]) for key in keys}

    def mean_error(self, runs: Sequence[EpisodeRun] | None = None) -> MeanError:
        """Means over all numbers and rows of ``runs`` (None: of all), as NVIDIA's open_loop_eval prints them."""
        return self._mean(list(range(len(self.columns))), runs)

    @property
    def latency_s(self) -> Spread:
        """Wall time per chunk, the host's work on the next observation beside it."""
        return spread([latency for run in self.runs for latency in run.latencies_s])

    def to_dict(self) -> dict[str, object]:
        """Plain lists, texts and numbers."""
        return {
            "dataset": self.dataset,
            "checkpoint": self.checkpoint,
            "embodiment": self.embodiment,
            "fps": self.fps,
            "execution_horizon": self.execution_horizon,
            "seed": self.seed,
            "notices": list(self.notices),
            "rows": sum(len(run.predicted) for run in self.runs),
            "all": asdict(self.mean_error()),
            "keys": {key: asdict(error) for key, error in self.key_errors().items()},
            "numbers": [asdict(error) for error in self.column_errors()],
            "latency_s": asdict(self.latency_s),
            "episodes": [self._episode(run) for run in self.runs],
        }

    def to_json(self, path: Path) -> None:
        """Write ``to_dict`` to ``path``. Raises OSError."""
        path.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _episode(self, run: EpisodeRun) -> dict[str, object]:
        return {
            "episode": run.index,
            "rows": len(run.predicted),
            "chunks": len(run.starts),
            "instructions": list(run.instructions),
            "picture": self.pictures.get(run.index),
            "all": asdict(self.mean_error([run])),
            "numbers": [asdict(error) for error in self.column_errors([run])],
        }

    def _mean(self, indices: list[int], runs: Sequence[EpisodeRun] | None = None) -> MeanError:
        errors, held = (values[:, indices] for values in self._differences(runs))
        return MeanError(float((errors**2).mean()), float(np.abs(errors).mean()), float(np.abs(held).mean()))

    def _differences(self, runs: Sequence[EpisodeRun] | None) -> tuple[Floats, Floats]:
        """Predicted and held minus recorded, [rows of all episodes, A]."""
        chosen = self.runs if runs is None else runs
        recorded = np.concatenate([run.recorded for run in chosen])
        return (
            np.concatenate([run.predicted for run in chosen]) - recorded,
            np.concatenate([run.held for run in chosen]) - recorded,
        )
