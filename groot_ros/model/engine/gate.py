"""May a checkpoint run in a reduced precision? By its own chunks, on its user's own observations, with the same noise.

Three chunks per observation: the model's, the model's with other noise, and the reduced model's with the first noise.
What the noise changes is what the model leaves open; a reduced precision that changes less than that, and points the
same way, passes. Pure: arrays and JSON, no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MODEL, FP8_WEIGHTS, FP8 = "model", "fp8_weights", "fp8"
PRECISIONS = (MODEL, FP8_WEIGHTS, FP8)

COSINE = 0.99
"""Of all chunks together, at least: NVIDIA's pass for FP8, end to end (spec performance.md, A2)."""
WORST_COSINE = 0.98
"""Of the worst observation, at least: where NVIDIA's gate warns."""
NEGLIGIBLE = 0.001
"""Share of a key's training range below which a difference passes whatever the noise does: a policy that has learnt to
say the same whatever the noise has no spread to compare with."""
FEW = 16
"""Fewer observations than that are not enough for a verdict."""
PASSED, REFUSED = "passed", "refused"
FORMAT = 1


@dataclass(frozen=True)
class Answer:
    """A chunk of one observation.

    Attributes:
        physical: action key -> [H,D], as the robot gets it.
        normalized: action key -> [H,W], the same in the model's own units.
    """

    physical: Mapping[str, Array]
    normalized: Mapping[str, Array]


@dataclass(frozen=True)
class KeyNumbers:
    """How one action key differs, over all observations, rows and numbers of the key.

    Attributes:
        unit: of `largest`, `p95`, `noise_largest` and `noise_p95`.
        cosine: of the normalised chunks, all observations together.
        largest, p95: |difference| of the reduced model: the largest, and what 95 % do not exceed.
        noise_largest, noise_p95: the same of other noise, by the unreduced model.
        share_largest, share_p95, noise_share_largest, noise_share_p95: the four as shares of the training range of each
            number; what did not move in training is left out.
    """

    unit: str
    cosine: float
    largest: float
    p95: float
    noise_largest: float
    noise_p95: float
    share_largest: float
    share_p95: float
    noise_share_largest: float
    noise_share_p95: float


@dataclass(frozen=True)
class Comparison:
    """The numbers and the verdict.

    Attributes:
        observations: how many.
        cosine: of all normalised chunks together.
        worst_cosine: of the observation where it is smallest.
        keys: action key -> numbers.
        reasons: why it is refused; empty: passed.
    """

    observations: int
    cosine: float
    worst_cosine: float
    keys: Mapping[str, KeyNumbers]
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


def cosine(first: Array, second: Array) -> float:
    """Of two arrays of one shape; 1 for two of zeros, 0 where one is, NaN where a number is none."""
    first, second = first.ravel(), second.ravel()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    if length == 0:
        return 1.0 if np.array_equal(first, second) else 0.0
    return float(first @ second) / length


def compare(
    model: Sequence[Answer],
    other_noise: Sequence[Answer],
    reduced: Sequence[Answer],
    ranges: Mapping[str, tuple[Array, Array]],
    units: Mapping[str, str],
) -> Comparison:
    """Judges a reduced precision.

    Args:
        model: one per observation, by the unreduced model.
        other_noise: of the same observations by the same model, with other noise.
        reduced: of the same observations, with the noise of `model`.
        ranges: action key -> lowest and highest training value [D], in physical units.
        units: action key -> physical unit.

    Raises:
        ValueError: no observations, or not the same number of each.
    """
    if not model or not len(model) == len(other_noise) == len(reduced):
        raise ValueError(
            f"expected one chunk of each kind per observation, found {len(model)}, {len(other_noise)}, {len(reduced)}"
        )
    keys, reasons = {}, []
    for key in model[0].physical:
        keys[key] = _key_numbers(key, model, other_noise, reduced, ranges[key], units[key])
        reasons += _key_reasons(key, keys[key])
    whole = [_joined(answer) for answer in model], [_joined(answer) for answer in reduced]
    together = cosine(np.concatenate(whole[0]), np.concatenate(whole[1]))
    worst = [cosine(first, second) for first, second in zip(*whole, strict=True)]
    smallest = float(np.min(worst))
    if not together >= COSINE:
        reasons.append(f"cosine {together:.5f} of all chunks together, expected at least {COSINE}")
    if not smallest >= WORST_COSINE:
        reasons.append(f"cosine {smallest:.5f} of the worst observation, expected at least {WORST_COSINE}")
    if len(model) < FEW:
        reasons.append(f"{len(model)} observations, expected at least {FEW}")
    return Comparison(len(model), together, smallest, keys, tuple(reasons))


def _joined(answer: Answer) -> Array:
    return np.concatenate([np.asarray(rows, dtype=np.float64).ravel() for rows in answer.normalized.values()])


def _key_numbers(
    key: str,
    model: Sequence[Answer],
    other_noise: Sequence[Answer],
    reduced: Sequence[Answer],
    limits: tuple[Array, Array],
    unit: str,
) -> KeyNumbers:
    first, noise, second = (
        np.stack([np.asarray(answer.physical[key], dtype=np.float64) for answer in answers])
        for answers in (model, other_noise, reduced)
    )
    width = np.asarray(limits[1], dtype=np.float64) - np.asarray(limits[0], dtype=np.float64)
    moved = width > 0
    numbers = []
    for differences in (np.abs(second - first), np.abs(noise - first)):
        shares = differences[..., moved] / width[moved]
        numbers += [*_largest_and_p95(differences), *_largest_and_p95(shares)]
    largest, p95, share_largest, share_p95, noise_largest, noise_p95, noise_share_largest, noise_share_p95 = numbers
    pair = (np.stack([answer.normalized[key] for answer in answers]).astype(np.float64) for answers in (model, reduced))
    return KeyNumbers(
        unit,
        cosine(*pair),
        largest,
        p95,
        noise_largest,
        noise_p95,
        share_largest,
        share_p95,
        noise_share_largest,
        noise_share_p95,
    )


def _largest_and_p95(values: Array) -> tuple[float, float]:
    return (float(values.max()), float(np.quantile(values, 0.95))) if values.size else (0.0, 0.0)


def _key_reasons(key: str, numbers: KeyNumbers) -> list[str]:
    """What is larger than what other noise does. A NaN is."""
    reasons = []
    for what, share, noise in (
        ("95 % |difference|", numbers.share_p95, numbers.noise_share_p95),
        ("largest |difference|", numbers.share_largest, numbers.noise_share_largest),
    ):
        allowed = max(noise, NEGLIGIBLE)
        if not share <= allowed:
            reasons.append(
                f"{key}: {what} {share:.3%} of the training range, expected at most {allowed:.3%}, "
                + ("what other noise changes" if noise > NEGLIGIBLE else "which passes in any case")
            )
    return reasons


class GateFileError(ValueError):
    """A result file that cannot be used; the message names it and what to do."""


@dataclass(frozen=True)
class GateResult:
    """What a result file says.

    Attributes:
        precision: `fp8_weights` or `fp8`.
        verdict: `passed` or `refused`.
        reasons: of a refusal.
        fingerprint: of the checkpoint (`groot_ros.model.engine.fingerprint`).
        checkpoint: its path or hub id, for people.
        embodiment, embodiment_tag, generation: the robot and the model.
        num_steps: Euler steps.
        layers: names of the products that were reduced.
        scales: `fp8`: name -> scale of the activations per Euler step.
        machine: device, dtype, torch, of the measurement.
        date: UTC, ISO 8601.
        numbers: of `Comparison`, for people.
        source: where it was read from, for messages.
    """

    precision: str
    verdict: str
    reasons: tuple[str, ...]
    fingerprint: str
    checkpoint: str
    embodiment: str
    embodiment_tag: str
    generation: str
    num_steps: int
    layers: tuple[str, ...]
    scales: Mapping[str, tuple[float, ...]]
    machine: Mapping[str, str]
    date: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    source: str = "the result file"

    @property
    def passed(self) -> bool:
        return self.verdict == PASSED

    def notices(self, machine: Mapping[str, str]) -> list[str]:
        """What is otherwise here than in the measurement, one sentence each; to be logged."""
        return [
            f"precision {self.precision} was measured with {name} {self.machine[name]}, here it is {found}"
            for name, found in machine.items()
            if self.machine.get(name) not in (None, found)
        ]

    def to_document(self) -> dict[str, Any]:
        """For JSON; a number that is none is null."""
        document = {"format": FORMAT, **asdict(self)}
        del document["source"]
        return _finite(document)  # type: ignore[no-any-return]

    @classmethod
    def read(cls, path: Path) -> GateResult:
        """Raises: GateFileError: the file is missing, broken, or of another format."""
        again = "measure again with `groot-ros precision`"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GateFileError(f"{path}: cannot be read ({error}): {again}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            found = document.get("format") if isinstance(document, dict) else type(document).__name__
            raise GateFileError(f"{path}: format: expected {FORMAT}, found {found!r}: {again}")
        names = [entry.name for entry in fields(cls) if entry.name != "source"]
        missing = [name for name in names if name not in document]
        if missing:
            raise GateFileError(f"{path}: expected the keys {', '.join(names)}, found no {', '.join(missing)}: {again}")
        values = {name: document[name] for name in names}
        try:
            values["reasons"], values["layers"] = tuple(map(str, values["reasons"])), tuple(map(str, values["layers"]))
            values["scales"] = {str(k): tuple(float(v) for v in steps) for k, steps in values["scales"].items()}
            values["num_steps"] = int(values["num_steps"])
            values["machine"] = {str(k): str(v) for k, v in values["machine"].items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise GateFileError(f"{path}: layers, scales, num_steps or machine: {error}: {again}") from error
        bad = [name for name, steps in values["scales"].items() if not all(_sound(scale) for scale in steps)]
        if bad:
            raise GateFileError(f"{path}: scales.{bad[0]}: expected positive numbers, found {values['scales'][bad[0]]}")
        return cls(**values, source=str(path))


def _sound(scale: float) -> bool:
    return math.isfinite(scale) and scale > 0


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
