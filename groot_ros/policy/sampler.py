"""How ``LocalPolicy`` computes a chunk: by the engine where it runs and says what the model says, else by the model.

torch is imported when something is computed.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from groot_ros.policy.news import EngineFacts, Notices

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from groot_ros.model.engine.engine import Engine
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
        compile: torch.compile before recording; only with CUDA graphs.
        num_steps: Euler steps; None: the checkpoint's.
    """

    engine: bool = True
    graphs: bool = True
    compile: bool = False
    num_steps: int | None = None


def make_engine(model: GrootModel, embodiment_id: int, choice: Choice, log: Callable[[str], None]) -> Engine:
    """The engine as ``choice`` says."""
    from groot_ros.model.engine.engine import Engine, EngineOptions

    options = EngineOptions(
        num_steps=choice.num_steps,
        graphs=choice.graphs,
        compile=may_compile(model.device, choice, log),
        pack=may_pack(model, log),
    )
    return Engine(model, embodiment_id, options, log=log)


def may_compile(device: torch.device, choice: Choice, log: Callable[[str], None]) -> bool:
    """Whether the engine is to be compiled: not where the thread that infers would wait for it, minutes per length."""
    if not choice.compile or (choice.graphs and device.type == "cuda"):
        return choice.compile
    found = "graphs: false" if device.type == "cuda" else f"device {device}"
    log(
        f"compile: expected CUDA graphs, whose thread compiles in the background, found {found}; not compiled, since "
        "the first chunk with a prompt of any new length would wait for it for minutes"
    )
    return False


def may_pack(model: GrootModel, log: Callable[[str], None]) -> bool:
    """Whether there is room for a second copy of the weights on the host, while the engine packs them."""
    from groot_ros.model.engine import memory
    from groot_ros.model.engine.packed import can_pack

    if not can_pack(model.device, model.dtype):
        return False
    needed, there = sum(parameter.nbytes for parameter in model.parameters()), memory.available_bytes()
    if there is None or needed <= there:
        return True
    log(
        f"the engine does not pack the weights for the CPU: that needs {needed / 1e9:.1f} GB beside the model for a "
        f"while, {there / 1e9:.1f} GB are available; end other programs for quicker chunks"
    )
    return False


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
        self._modes: dict[int, str] = {}  # length of a prompt -> how the last inference with it was run
        self._retries = 0  # of the plain model, after memory ran out
        self._facts: EngineFacts | None = None
        self._facts_of = -1  # how many notices there were

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
        with telling_what_memory_is_there(self._model.device), without_tf32():
            expected = self._plain(inputs, noise)
        engine = self._agreeing(inputs, noise, expected)
        if engine is None:
            return
        try:
            if gate is not None:
                self._reduce(engine, gate)
                expected = engine.sample(inputs, noise=noise)
            engine.release()
        except ValueError:
            raise  # a precision that this device has not
        except Exception as error:
            engine.close()
            del engine
            self._without(f"precision {gate.precision if gate else 'model'} could not be set up: {said(error)}")
            return
        self.engine = engine
        self._record(inputs, noise, expected)

    def sample(self, inputs: dict[str, Tensor], noise: Tensor, **continuation: Any) -> tuple[Tensor, bool]:
        """Actions float32 [1,H,A], normalised and padded, and whether it was an inference like all others.

        Args:
            continuation: ``rtc`` or ``guidance``, as for ``GrootModel.sample``.
        """
        if self.engine is None:
            actions, mode = self._plain_twice(inputs, noise, **continuation), "plain"
        else:
            actions = self.engine.sample(inputs, noise=noise, **continuation)
            mode = self.engine.mode
        length = inputs["input_ids"].shape[1]
        usual = self._modes.get(length) == mode
        if not usual:
            self._modes[length] = mode
            self._facts = None
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
        """How chunks are computed now; cheap where nothing has happened since the last call."""
        if self._facts is None or self._facts_of != self._notices.count:
            self._facts_of = self._notices.count
            self._facts = self._new_facts()
        return self._facts

    def _new_facts(self) -> EngineFacts:
        if self.engine is None:
            return EngineFacts("plain", self._reason, agreement=self._agreement, out_of_memory=self._retries)
        report = self.engine.report()
        return EngineFacts(
            report.mode,
            report.reason or self._reason,
            self._precision,
            self._agreement,
            tuple(report.lengths.items()),
            f"{1e-6 * report.weight_bytes:.0f} MB of weights; {1e-6 * report.released_bytes:.0f} MB dropped",
            out_of_memory=self.engine.retries,
        )

    def _agreeing(self, inputs: dict[str, Tensor], noise: Tensor, expected: Tensor) -> Engine | None:
        """The engine, if it says what the model says."""
        engine = None
        try:
            engine = make_engine(self._model, self._embodiment_id, self._choice, self._notices.add)
            self._agreement, agrees = compared(engine.sample(inputs, noise=noise), expected, self._model.dtype)
        except Exception as error:
            reason = f"the engine cannot run this checkpoint here: {said(error)}"
        else:
            if agrees:
                return engine
            reason = f"the engine does not say what the model says: {self._agreement}; please report it"
        if engine is not None:
            engine.close()  # waits for what is being recorded
        del engine
        self._without(reason)
        return None

    def _record(self, inputs: dict[str, Tensor], noise: Tensor, expected: Tensor) -> None:
        """Wait for the CUDA graph, where one was asked for, and compare it, too."""
        from groot_ros.model.engine.memory import OUT_OF_MEMORY

        engine = self.engine
        assert engine is not None
        if not engine.report().lengths:
            return  # nothing is recorded here
        engine.wait()
        engine.sample(inputs, noise=noise)
        if engine.mode != "graph" and OUT_OF_MEMORY in engine.report().reason:
            # It was tried when the engine was first run, with all of the model still there.
            engine.changed()
            engine.sample(inputs, noise=noise)
            engine.wait()
            engine.sample(inputs, noise=noise)
            if engine.mode == "graph":
                self._notices.add("recorded after all, when what only the model reads had been dropped")
        if engine.mode != "graph":
            return
        # Of another start first: numbers that were left over from the last chunk must not pass for this one's.
        engine.sample(inputs, noise=-noise)
        found = engine.sample(inputs, noise=noise)
        graph, agrees = compared(found, expected, self._model.dtype)
        self._agreement = f"{self._agreement}; recorded: {graph}"
        if not agrees:
            engine.close()
            self._reason = f"what was recorded does not say what the engine says: {graph}; please report it"
            self._notices.add(f"{self._reason}; the engine runs eagerly instead, which is slower")

    def _plain(self, inputs: dict[str, Tensor], noise: Tensor, **continuation: Any) -> Tensor:
        import torch

        model = self._model
        with torch.inference_mode():
            noise = noise.to(model.device, model.dtype)
            return model.sample(inputs, noise=noise, num_steps=self._choice.num_steps, **continuation)

    def _plain_twice(self, inputs: dict[str, Tensor], noise: Tensor, **continuation: Any) -> Tensor:
        """Once more where memory ran out, after giving back what torch holds without using it. So does the engine."""
        from groot_ros.model.engine.memory import is_out_of_memory

        try:
            return self._plain(inputs, noise, **continuation)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._retries += 1
            self._notices.add(f"out of memory in the middle of a run, trying once more: {said(error)}")
        free_unused(self._model.device)
        with telling_what_memory_is_there(self._model.device):
            return self._plain(inputs, noise, **continuation)

    def _reduce(self, engine: Engine, gate: GateResult) -> None:
        from groot_ros.model.engine.fp8 import apply_precision
        from groot_ros.policy.precision_gate import machine

        apply_precision(engine, gate)
        self._precision = gate.precision
        for notice in gate.notices(machine(self._model.device, self._model.dtype)):
            self._notices.add(notice)

    def _without(self, reason: str) -> None:
        """No engine; what it held is freed."""
        self._reason, self._precision = reason, "model"
        self._notices.add(f"{reason}; {SLOWER}")
        free_unused(self._model.device)


@contextmanager
def telling_what_memory_is_there(device: torch.device) -> Iterator[None]:
    """An error that says that memory ran out becomes one that says what is needed and what helps.

    Raises:
        DeviceMemoryError: memory ran out.
    """
    from groot_ros.model.engine import memory

    try:
        yield
    except RuntimeError as error:
        if isinstance(error, memory.DeviceMemoryError) or not memory.is_out_of_memory(error):
            raise
        said(error)  # what it holds is no need
        there = memory.device_memory(device) if device.type == "cuda" else None
        raise memory.DeviceMemoryError(memory.out_of_memory_message(error, there)) from error


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions in float32 as they are meant: torch rounds their inputs to TF32 on a GPU unless told otherwise."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def free_unused(device: torch.device) -> None:
    """Give back what nobody uses. Not while a CUDA graph is being recorded."""
    gc.collect()
    if device.type == "cuda":
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
