"""How ``LocalPolicy`` computes a chunk: by the engine where it runs and says what the model says, else by the model.

torch is imported when something is computed.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from groot_ros.policy.news import EngineFacts, Notices

if TYPE_CHECKING:
    from torch import Tensor

    from groot_ros.model.engine import Engine  # type: ignore[attr-defined]
    from groot_ros.model.engine.gate import GateResult
    from groot_ros.model.groot import GrootModel

PRECISIONS = ("model", "fp8_weights", "fp8")
AGREES = 1e-4  # float32: largest |difference|, as a share of the largest |number|
COSINE = 0.999  # bfloat16, whose rounding depends on the order of sums
SLOWER = "the plain model runs instead, which is slower"

Grids = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Choice:
    """What the user asked for.

    Attributes:
        engine: False: the plain model.
        graphs: record CUDA graphs.
        compile: torch.compile before recording.
        num_steps: Euler steps; None: the checkpoint's.
    """

    engine: bool = True
    graphs: bool = True
    compile: bool = False
    num_steps: int | None = None


def make_engine(model: GrootModel, embodiment_id: int, choice: Choice, log: Callable[[str], None]) -> Engine:
    """The engine as ``choice`` says."""
    from groot_ros.model.engine import Engine, EngineOptions  # type: ignore[attr-defined]

    options = EngineOptions(num_steps=choice.num_steps, graphs=choice.graphs, compile=choice.compile)
    return Engine(model, embodiment_id, options, log=log)


class Sampler:
    """``GrootModel.sample`` for one robot.

    Args:
        model: loaded.
        embodiment_id: of the robot's weights.
        choice: how.
        notices: gets whatever a person should know.

    Attributes:
        engine: None: the plain model is used.
    """

    def __init__(self, model: GrootModel, embodiment_id: int, choice: Choice, notices: Notices) -> None:
        self._model, self._embodiment_id, self._choice, self._notices = model, embodiment_id, choice, notices
        self.engine: Engine | None = None
        self._reason = self._agreement = ""
        self._precision = "model"
        self._seen: set[tuple[int, str]] = set()

    def start(self, inputs: dict[str, Tensor], noise: Tensor, gate: GateResult | None = None) -> None:
        """Make the engine, compare it with the model, reduce its precision, free what only the model reads.

        Whatever the engine raises, the plain model is used, and the reason is told.

        Args:
            inputs, noise: of any observation, for ``GrootModel.sample``.
            gate: the measurement that allows a reduced precision; None: the model's.

        Raises:
            ValueError: the device does not have the precision.
            Exception: what the plain model raises.
        """
        if not self._choice.engine:
            return
        expected = self._plain(inputs, noise)
        try:
            engine = make_engine(self._model, self._embodiment_id, self._choice, self._notices.add)
            agreement, agrees = compared(engine.sample(inputs, noise=noise), expected, self._model.dtype)
        except Exception as error:
            self._without(f"the engine cannot run this checkpoint here: {said(error)}")
            return
        self._agreement = agreement
        if not agrees:
            del engine
            self._without(f"the engine does not say what the model says: {agreement}; please report it")
            return
        try:
            if gate is not None:
                self._reduce(engine, gate)
            engine.release()
        except ValueError:
            raise  # a precision that this device has not
        except Exception as error:
            del engine
            self._without(f"precision '{gate.precision if gate else 'model'}' could not be set up: {said(error)}")
            return
        self.engine = engine

    def sample(self, inputs: dict[str, Tensor], noise: Tensor, **continuation: Any) -> tuple[Tensor, bool]:
        """Actions float32 [1,H,A], normalised and padded, and whether it was an inference like all others.

        Args:
            continuation: ``rtc`` or ``guidance``, as for ``GrootModel.sample``.
        """
        if self.engine is None:
            actions, mode = self._plain(inputs, noise, **continuation), "plain"
        else:
            actions, mode = self.engine.sample(inputs, noise=noise, **continuation), self._mode()
        run = (inputs["input_ids"].shape[1], mode)
        usual = run in self._seen
        self._seen.add(run)
        return actions, usual

    def prepare(self, input_ids: Tensor, grids: Grids) -> None:
        """Do what an instruction needs before its first inference; from any thread. What fails is told, not raised.

        Args:
            input_ids: int64 [1,L].
            grids: one per image.
        """
        if self.engine is None:
            return
        try:
            self.engine.prepare(input_ids, grids)
        except Exception as error:
            self._notices.add(f"the instruction could not be prepared, its first inference will be slow: {said(error)}")

    def facts(self) -> EngineFacts:
        """How chunks are computed now."""
        if self.engine is None:
            return EngineFacts("plain", self._reason, agreement=self._agreement)
        return EngineFacts(self._mode(), self._reason, self._precision, self._agreement)

    def _mode(self) -> Literal["graph", "eager"]:
        return "eager"

    def _plain(self, inputs: dict[str, Tensor], noise: Tensor, **continuation: Any) -> Tensor:
        import torch

        model = self._model
        with torch.inference_mode():
            noise = noise.to(model.device, model.dtype)
            return model.sample(inputs, noise=noise, num_steps=self._choice.num_steps, **continuation)

    def _reduce(self, engine: Engine, gate: GateResult) -> None:
        from groot_ros.model.engine.fp8 import apply_precision
        from groot_ros.policy.precision_gate import machine

        apply_precision(engine, gate)
        self._precision = gate.precision
        for notice in gate.notices(machine(self._model.device, self._model.dtype)):
            self._notices.add(notice)

    def _without(self, reason: str) -> None:
        """No engine; what it held is freed."""
        self._reason = reason
        self._notices.add(f"{reason}; {SLOWER}")
        gc.collect()
        if self._model.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()


def compared(found: Tensor, expected: Tensor, dtype: Any) -> tuple[str, bool]:
    """How far two chunks are apart, in words, and whether that is rounding."""
    import torch

    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    if not (torch.isfinite(found).all() and torch.isfinite(expected).all()):
        return "NaN or infinity (expected finite numbers of both)", False
    if dtype == torch.float32:
        largest = float(expected.abs().max())
        share = float((found - expected).abs().max()) / (largest or 1.0)
        return f"largest difference {share:.2g} of the largest number (expected at most {AGREES:g})", share <= AGREES
    cosine = float(torch.nn.functional.cosine_similarity(found.flatten().double(), expected.flatten().double(), dim=0))
    return f"cosine {cosine:.6f} (expected at least {COSINE:g})", cosine >= COSINE


def said(error: BaseException) -> str:
    """Class and first line; the frames of its traceback let go of what they hold."""
    traceback.clear_frames(error.__traceback__)
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].strip()}" if text else type(error).__name__
