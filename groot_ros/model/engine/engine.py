"""`GrootModel.sample` frozen for one robot and made fast: the same numbers, without what need not be done each time."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from groot_ros.model.action_head import RtcOptions
from groot_ros.model.engine.dense import Dense, tensors_of
from groot_ros.model.engine.graphs import CudaGraphs, Recorder
from groot_ros.model.engine.head import ChunkBuffers
from groot_ros.model.engine.inputs import Limits, check_observation, chunk_inputs
from groot_ros.model.engine.packed import can_pack, pack
from groot_ros.model.engine.program import Program
from groot_ros.model.engine.prompt import PromptBuffers, prompt_buffers
from groot_ros.model.engine.static import Run
from groot_ros.model.engine.vision import Views
from groot_ros.model.groot import GrootModel
from groot_ros.model.guidance import Guidance
from groot_ros.model.positions import Grid

_LOG = logging.getLogger(__name__)
TEXT_BUCKET = 16
"""On CUDA the text of a prompt is padded to a multiple of so many tokens, so that few lengths need a graph."""
PROMPTS = 64
"""Prompts that are remembered."""
ROWS = 48
"""About as many rows as a chunk's products have."""

Key = tuple[tuple[Grid, ...], int]
"""Sizes of the pictures and length of the padded prompt: what a graph is made for."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine works; what it computes is the same.

    Attributes:
        num_steps: Euler steps; None: the config's.
        graphs: record CUDA graphs, where the model is on CUDA.
        compile: give the program to `torch.compile` first. Takes minutes at the first chunk of every length.
        text_bucket: the text is padded to a multiple of it; None: 16 where graphs are recorded, else 1, no padding.
        pack: on a CPU in float32, bring the weights into oneDNN's order.
    """

    num_steps: int | None = None
    graphs: bool = True
    compile: bool = False
    text_bucket: int | None = None
    pack: bool = True


@dataclass(frozen=True)
class EngineReport:
    """How an engine works at the moment."""

    device: str
    dtype: str
    steps: int
    mode: str
    """`graph`, or `eager` and why."""
    lengths: Mapping[str, str] = field(default_factory=dict)
    """Per recorded or asked-for length of prompt: its state."""
    weight_bytes: int = 0
    """What the engine reads, the embeddings of tokens not counted."""
    released_bytes: int = 0
    """What was dropped from the model."""


class Engine:
    """The model for one robot, one observation at a time.

    The weights are the model's own. Those that are fused or gathered for one embodiment are new tensors, and what the
    model then holds without use is dropped by `release`. Weights that change afterwards are not noticed: make another
    engine.

    Args:
        model: in evaluation mode, on the device where it will run.
        embodiment_id: index of the embodiment's projector weights.
        options: see there.
        recorder: records programs; None: CUDA graphs where the model is on CUDA and they are asked for.
        log: told of what makes the engine slower than it should be, in one line each; None: the module's logger.

    Raises:
        ValueError: no such embodiment, or no Euler step.
    """

    def __init__(
        self,
        model: GrootModel,
        embodiment_id: int,
        options: EngineOptions | None = None,
        *,
        recorder: Recorder | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        config, options = model.config, options or EngineOptions()
        steps = config.num_inference_timesteps if options.num_steps is None else options.num_steps
        if steps < 1:
            raise ValueError(f"num_steps is {steps}, expected at least 1")
        if not 0 <= embodiment_id < config.max_num_embodiments:
            raise ValueError(f"embodiment_id is {embodiment_id}, expected 0..{config.max_num_embodiments - 1}")
        self.options, self.config, self.steps = options, config, steps
        self.device, self.dtype = model.device, model.dtype
        self._log = log or _LOG.warning
        self._model, self._backbone = model, model.backbone
        self._table = model.backbone.language_model.embed_tokens.weight.detach()
        self._limits = Limits(config, embodiment_id, model.max_prompt_tokens, model.backbone.patch_values)
        self.program = Program(model, embodiment_id, steps)
        self._run: Run = self.program
        if options.compile:
            self._run = torch.compile(self.program, dynamic=False)
        self._packed = not (options.pack and can_pack(self.device, self.dtype))
        if recorder is None and options.graphs and self.device.type == "cuda":
            recorder = CudaGraphs(self.device)
        self._recorder = recorder
        self._bucket = options.text_bucket or (TEXT_BUCKET if recorder is not None else 1)
        self._lock = threading.Lock()  # of the prompts and the views, which two threads make
        self._prompts: OrderedDict[tuple[bytes, tuple[Grid, ...]], PromptBuffers] = OrderedDict()
        self._views: dict[tuple[Grid, ...], Views] = {}
        self._released = 0
        self._eager_since = ""

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that the model takes, image tokens included."""
        return self._limits.max_prompt_tokens

    def sample(
        self,
        inputs: Mapping[str, Tensor],
        noise: Tensor | None = None,
        rtc: RtcOptions | None = None,
        guidance: Guidance | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Actions as `GrootModel.sample` gives them, normalised and padded, float32 [1,H,A], on the host.

        One caller at a time.

        Args:
            inputs: see `GrootModel`; one sample without padding, best on the host.
            noise: float [1,H,A], where the integration starts; drawn from `generator` when None.
            rtc: in-painting of the previous chunk.
            guidance: a pull towards the previous chunk; not together with `rtc`.

        Raises:
            ValueError: an input is missing or of the wrong shape, more than one sample, padding, or another embodiment;
                the message names it.
            RuntimeError: the device is out of memory even without graphs; the message says what to do.
        """
        with torch.no_grad():
            grids = check_observation(inputs, self._limits)
            prompt, views = self._text(inputs["input_ids"], grids)
            settings = {"config": self.config, "steps": self.steps, "dtype": self.dtype}
            chunk = chunk_inputs(inputs, noise, rtc, guidance, generator, **settings)  # type: ignore[arg-type]
            return self._eager(prompt, chunk, views)

    def _eager(self, prompt: PromptBuffers, chunk: ChunkBuffers, views: Views) -> Tensor:
        self._pack()
        return self._run(prompt, chunk.to(self.device, self.dtype), views).cpu()

    def _text(self, input_ids: Tensor, grids: Sequence[Grid]) -> tuple[PromptBuffers, Views]:
        """Of the cache, or made."""
        sizes = tuple(grids)
        key = (input_ids.cpu().numpy().tobytes(), sizes)
        with self._lock:
            views = self._views.get(sizes)
            if views is None:
                views = self._views[sizes] = self.program.vision.views(sizes)
            prompt = self._prompts.get(key)
            if prompt is None:
                prompt = prompt_buffers(self._backbone, self._table, input_ids, sizes, self._bucket, self.device)
                self._prompts[key] = prompt
                if len(self._prompts) > PROMPTS:
                    self._prompts.popitem(last=False)
            self._prompts.move_to_end(key)
            return prompt, views

    def _pack(self) -> None:
        """Before the first chunk, when the products are the final ones."""
        if self._packed:
            return
        self._packed = True
        for _, holder, name in self.program.denses():
            dense = getattr(holder, name)
            if type(dense) is Dense:
                setattr(holder, name, pack(dense, ROWS))

    def release(self) -> int:
        """Drops from the model what the engine does not read; the model cannot be used otherwise afterwards.

        The embeddings of tokens, of which an instruction reads a few rows, go to the host.

        Returns:
            Bytes that were freed on the device.
        """
        self._pack()
        kept = {_memory(tensor) for tensor in tensors_of(self.program) if not tensor.is_mkldnn}
        freed = 0
        seen: set[int] = set()
        table = self._backbone.language_model.embed_tokens.weight
        for parameter in self._model.parameters():
            memory = _memory(parameter)
            if parameter.is_meta or memory in kept or memory in seen:
                continue
            seen.add(memory)
            if parameter is table:
                if self.device.type == "cpu":
                    continue
                self._table = parameter.detach().cpu()
            freed += parameter.untyped_storage().nbytes()
            parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
        self._model.released = "an engine that took them over has dropped what it does not need"
        self._released += freed
        return freed

    def report(self) -> EngineReport:
        """How the engine works at the moment."""
        held = {_memory(tensor): tensor.nbytes for tensor in tensors_of(self.program)}
        return EngineReport(
            str(self.device), str(self.dtype).removeprefix("torch."), self.steps, "eager", {}, sum(held.values())
        )


def _memory(tensor: Tensor) -> int:
    """Where the memory of a tensor begins: equal for views of one another."""
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()
