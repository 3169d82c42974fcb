"""Reduced precision is earned: measured per checkpoint and robot on the user's own observations, written to a file, and
refused where no such file says passed. torch is imported when something is measured."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from groot_ros.dataset.durable import make_folder, write_json
from groot_ros.embodiment.schema import Embodiment
from groot_ros.model.engine.gate import (
    FP8,
    MODEL,
    PASSED,
    PRECISIONS,
    REFUSED,
    Answer,
    Comparison,
    GateFileError,
    GateResult,
    compare,
)
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk, Prefix

if TYPE_CHECKING:
    import torch

    from groot_ros.model.engine.fp8 import HasProducts, QuantizeReport

Progress = Callable[[str, int, int], None]
"""Stage, done, in all."""


class PrecisionError(ValueError):
    """A precision that may not be used here. The message says what to do."""


class Processing(Protocol):
    """What the gate needs of a ``Processor``."""

    @property
    def action_widths(self) -> Mapping[str, int]:
        """Numbers per step of each group in the model's units."""
        ...

    def action_limits(self, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Training range in physical units."""
        ...

    def encode_action(self, action: Mapping[str, Any], state: Mapping[str, Any]) -> NDArray[np.float32]:
        """Physical chunk -> rows in the model's units."""
        ...


class EnginePolicy(Protocol):
    """What the gate needs of a ``LocalPolicy``: its chunks come from the program that ``engine`` runs, eagerly."""

    processor: Any
    device: torch.device
    dtype: torch.dtype

    @property
    def engine(self) -> Any:
        """With a ``program``; None: it has none."""
        ...

    def act(self, observation: Observation, *, seed: int | None = None, prefix: Prefix | None = None) -> Chunk:
        """See ``Policy``."""
        ...


def command(checkpoint: str | Path, embodiment: str, precision: str) -> str:
    """What to type to measure it."""
    return (
        f"groot-ros precision --checkpoint {checkpoint} --embodiment {embodiment} --dataset DIR --precision {precision}"
    )


def result_path(fingerprint: str, embodiment: str, precision: str) -> Path:
    """Where the result is looked for: ``~/.cache/groot_ros/precision``, or below ``XDG_CACHE_HOME``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"  # as the XDG specification says
    name = re.sub(r"[^\w.-]", "_", embodiment)
    return root / "groot_ros" / "precision" / f"{fingerprint[:16]}-{name}-{precision}.json"


def allowed_precision(
    directory: str | Path,
    embodiment: Embodiment,
    precision: str,
    *,
    num_steps: int | None = None,
    path: str | Path | None = None,
) -> GateResult | None:
    """The measurement that allows ``precision``; None for ``model``, which needs none. Reads no weights.

    Args:
        directory: the local checkpoint.
        num_steps: Euler steps that will be run; None: the checkpoint's.
        path: of the result file; None: see ``result_path``.

    Raises:
        PrecisionError: unknown precision; no result, or one that refuses, or of something else.
        CheckpointError, ConfigError: the checkpoint is incomplete.
    """
    if precision == MODEL:
        return None
    if precision not in PRECISIONS:
        raise PrecisionError(f"precision '{precision}': expected one of {', '.join(PRECISIONS)}")
    from groot_ros.model.checkpoint import load_config
    from groot_ros.model.engine.fingerprint import fingerprint

    directory = Path(directory)
    found = fingerprint(directory)
    file = result_path(found, embodiment.name, precision) if path is None else Path(path).expanduser()
    again = f"measure it: {command(directory, embodiment.name, precision)}"
    if not file.is_file():
        raise PrecisionError(
            f"precision '{precision}': expected a measurement that passed for this checkpoint and robot, found none at "
            f"{file}: {again}"
        )
    try:
        result = GateResult.read(file)
    except GateFileError as error:
        raise PrecisionError(f"precision '{precision}': {error}") from error
    steps = num_steps or load_config(directory).num_inference_timesteps
    expected = {
        "fingerprint": found,
        "embodiment": embodiment.name,
        "embodiment_tag": embodiment.embodiment_tag,
        "precision": precision,
        # The scales of the activations are of these steps; weights are of any.
        **({"num_steps": steps} if precision == FP8 else {}),
    }
    for name, value in expected.items():
        if getattr(result, name) != value:
            other = " (another checkpoint, or its weights or settings changed)" if name == "fingerprint" else ""
            raise PrecisionError(
                f"precision '{precision}': {file}: {name}: expected {value}, found {getattr(result, name)}{other}: "
                f"{again}"
            )
    if not result.passed:
        reasons = "; ".join(result.reasons) or "no reason given"
        raise PrecisionError(
            f"precision '{precision}': {file}: measured on {result.date} and refused ({reasons}): use precision model"
        )
    return result


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Device, dtype and torch, by name; for ``GateResult.notices``."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__}


class Measurement:
    """Chunks of a policy before and after its products are reduced, and what follows from them.

    Args:
        policy: unquantised; it is quantised afterwards.
        embodiment: its robot.
        precision: ``fp8_weights`` or ``fp8``.
        exclude: patterns of products that stay, beside the default ones.
        seed: of the noise.
        progress: called after every chunk.

    Raises:
        PrecisionUnavailable: the device does not have this precision.
    """

    def __init__(
        self,
        policy: EnginePolicy,
        embodiment: Embodiment,
        precision: str,
        *,
        exclude: Sequence[str] = (),
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        from groot_ros.model.engine.fp8 import EXCLUDED, check_device

        check_device(precision, policy.device)
        self._policy, self._embodiment, self.precision = policy, embodiment, precision
        self._exclude, self._progress = (*EXCLUDED, *exclude), progress
        self._seed = seed
        self.scales: dict[str, tuple[float, ...]] = {}
        self.report: QuantizeReport | None = None

    def run(self, observations: Sequence[Observation], calibration: Sequence[Observation]) -> Comparison:
        """Judge ``observations``; ``calibration`` are others, on which ``fp8`` finds its scales.

        Raises:
            ProcessorError: the unreduced policy refuses an observation.
            PrecisionUnavailable: see ``quantize``.
        """
        from groot_ros.model.engine.fp8 import Calibrator, quantize

        program: HasProducts = self._policy.engine.program
        model = list(self._answers("model", observations, 0))
        noise = list(self._answers("model, other noise", observations, 1))
        if self.precision == FP8:
            with Calibrator(program, exclude=self._exclude) as calibrator:
                for _ in self._answers("calibration", calibration, 2):
                    pass
            self.scales = calibrator.scales()
        self.report = quantize(program, self.precision, self.scales, exclude=self._exclude)
        ranges = {key: self._policy.processor.action_limits(key) for key in model[0].physical}
        units = {key: str(self._embodiment.action[key].unit) for key in model[0].physical}
        try:
            reduced = list(self._answers(self.precision, observations, 0))
        except ValueError as error:  # the processor's: NaN, or no rotation
            return Comparison(len(model), float("nan"), float("nan"), {}, (f"{self.precision}: {error}",))
        return compare(model, noise, reduced, ranges, units)

    def _answers(self, stage: str, observations: Sequence[Observation], draw: int) -> Iterator[Answer]:
        for number, observation in enumerate(observations):
            seed = int(np.random.default_rng((self._seed, draw, number)).integers(2**31))
            actions = self._policy.act(observation, seed=seed).actions
            yield Answer(_exact(actions), self._normalized(actions, observation))
            if self._progress is not None:
                self._progress(stage, number + 1, len(observations))

    def _normalized(self, actions: Mapping[str, Any], observation: Observation) -> dict[str, NDArray[np.float64]]:
        processor: Processing = self._policy.processor
        rows = processor.encode_action(actions, observation.state).astype(np.float64)
        ends = np.cumsum(list(processor.action_widths.values()))
        return dict(zip(processor.action_widths, np.split(rows, ends[:-1], axis=1), strict=True))

    def result(self, comparison: Comparison, directory: Path, checkpoint: str, num_steps: int) -> GateResult:
        """What is written.

        Args:
            directory: the local checkpoint.
            checkpoint: as the user named it.
        """
        from groot_ros.model.engine.fingerprint import fingerprint

        report = self.report
        return GateResult(
            precision=self.precision,
            verdict=PASSED if comparison.passed else REFUSED,
            reasons=comparison.reasons,
            fingerprint=fingerprint(directory),
            checkpoint=checkpoint,
            embodiment=self._embodiment.name,
            embodiment_tag=self._embodiment.embodiment_tag,
            generation=self._embodiment.generation or "",
            num_steps=num_steps,
            layers=report.layers if report is not None else (),
            scales=self.scales,
            machine=machine(self._policy.device, self._policy.dtype),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            numbers={
                **{name: value for name, value in asdict(comparison).items() if name != "reasons"},
                "weight_bytes": None if report is None else [report.bytes_before, report.bytes_after],
            },
        )


def _exact(actions: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    return {key: np.asarray(value, dtype=np.float64) for key, value in actions.items()}


def write_result(result: GateResult, path: Path | None = None) -> Path:
    """Write it at once, to ``path`` or where ``allowed_precision`` looks; return where. Raises: OSError."""
    path = result_path(result.fingerprint, result.embodiment, result.precision) if path is None else path
    make_folder(path.parent)
    write_json(path, result.to_document())
    return path
