"""`GrootModel.sample` frozen for one robot and made fast: the same numbers, without what need not be done each time."""

from __future__ import annotations

import gc
import logging
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groot_ros.model.action_head import RtcOptions
from groot_ros.model.engine.cache import Slots
from groot_ros.model.engine.graphs import CaptureError, CudaGraphs, Recorder, one_line
from groot_ros.model.engine.head import ChunkBuffers
from groot_ros.model.engine.inputs import Limits, check_observation, check_prompt, chunk_inputs
from groot_ros.model.engine.memory import OUT_OF_MEMORY, device_memory, is_out_of_memory, out_of_memory_message
from groot_ros.model.engine.packed import can_pack, pack_products
from groot_ros.model.engine.program import Program
from groot_ros.model.engine.prompt import PromptBuffers, prompt_buffers
from groot_ros.model.engine.release import bytes_held, drop_unread
from groot_ros.model.engine.staging import Fetch
from groot_ros.model.engine.static import Run, StaticProgram
from groot_ros.model.engine.vision import Views
from groot_ros.model.groot import GrootModel
from groot_ros.model.guidance import Guidance
from groot_ros.model.positions import Grid

_LOG = logging.getLogger(__name__)
TEXT_BUCKET = 16
"""On CUDA the text of a prompt is padded to a multiple of so many tokens, so that few lengths need a graph."""
PROMPTS = 64
"""Prompts that are remembered."""


@dataclass(frozen=True)
class Key:
    """What a graph is made for."""

    grids: tuple[Grid, ...]
    length: int
    """Of the prompt, with its padding, in tokens."""

    def __str__(self) -> str:
        sizes = " and ".join(dict.fromkeys(f"{rows}x{cols}" for _, rows, cols in self.grids))
        return f"{len(self.grids)} picture(s) of {sizes} patches, prompts of up to {self.length} tokens"


@dataclass(frozen=True)
class EngineOptions:
    """How an engine works; what it computes is the same.

    Attributes:
        num_steps: Euler steps; None: the config's.
        graphs: record CUDA graphs, where the model is on CUDA.
        compile: give the program to `torch.compile` first, which takes minutes for every length of prompt: in the
            thread that records graphs, or, where there are none, at the first chunk. torch compiles eight lengths.
        text_bucket: the text is padded to a multiple of it; None: 16 with graphs or `compile`, else 1, no padding.
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
    """Of the last chunk: `graph`, or `eager`."""
    reason: str
    """Why it was eager; empty: it was not, or that is as it should be."""
    lengths: Mapping[str, str]
    """What graphs were asked for, and what came of it."""
    weight_bytes: int
    """Of what the engine reads, the embeddings of tokens not counted."""
    released_bytes: int
    """Of what was dropped from the model."""
    options: EngineOptions
    """As asked for."""
    compiled: bool
    """Whether `torch.compile` is used; it was asked for and failed, where the options say otherwise."""


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
        ValueError: no such embodiment, no Euler step, or a model whose weights another engine has taken over.

    Attributes:
        mode: how the last chunk was computed: `graph`, or `eager`.
        reason: why it was eager; empty: it was not, or that is as it should be.
        retries: chunks that were computed a second time, since memory ran out.
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
        if model.released:
            raise ValueError(f"this model's weights are gone: {model.released}; load the checkpoint again")
        config, options = model.config, options or EngineOptions()
        steps = config.num_inference_timesteps if options.num_steps is None else options.num_steps
        if steps < 1:
            raise ValueError(f"num_steps is {steps}, expected at least 1")
        if not 0 <= embodiment_id < config.max_num_embodiments:
            raise ValueError(f"embodiment_id is {embodiment_id}, expected 0..{config.max_num_embodiments - 1}")
        if options.text_bucket is not None and options.text_bucket < 1:
            raise ValueError(f"text_bucket is {options.text_bucket}, expected at least 1")
        self.options, self.config, self.steps = options, config, steps
        self.device, self.dtype = model.device, model.dtype
        self._log = log or _LOG.warning
        self._model, self._backbone = model, model.backbone
        self._table = model.backbone.language_model.embed_tokens.weight.detach()
        self._limits = Limits(config, embodiment_id, model.max_prompt_tokens)
        self.program = Program(model, embodiment_id, steps)
        self._run: Run = self.program
        if options.compile:
            self._run = torch.compile(self.program, dynamic=False)
        self._packed = not (options.pack and can_pack(self.device, self.dtype))
        if recorder is None and options.graphs and self.device.type == "cuda":
            recorder = CudaGraphs(self.device)
        self._recorder = recorder
        few_lengths = recorder is not None or options.compile
        self._bucket = options.text_bucket or (TEXT_BUCKET if few_lengths else 1)
        self._lock = threading.Lock()  # of the texts, which two threads make
        self._texts: OrderedDict[tuple[bytes, tuple[Grid, ...]], tuple[PromptBuffers, Views]] = OrderedDict()
        self._released = 0
        self._slots: Slots[Key, StaticProgram] | None = None
        if recorder is not None:
            self._slots = Slots(self._record, log=self._log, name="engine-recorder")
        self.mode, self.reason, self.retries = "eager", "", 0
        self._no_graphs = ""
        """Why there will be none any more."""
        self._fetch = Fetch(torch.zeros(1, config.action_horizon, config.max_action_dim, device=self.device))

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
            noise: float [1,H,A], where the integration starts; drawn when None, from `generator` or else on the host.
            rtc: in-painting of the previous chunk.
            guidance: a pull towards the previous chunk; not together with `rtc`.

        Raises:
            ValueError: an input is missing or of the wrong shape, more than one sample, padding, or another embodiment;
                the message names it.
            RuntimeError: the device is out of memory even without graphs; the message says what to do.
        """
        with torch.no_grad():
            grids = check_observation(inputs, self._limits, self._backbone)
            chunk = chunk_inputs(
                inputs, noise, rtc, guidance, generator, config=self.config, steps=self.steps, dtype=self.dtype
            )
            try:
                return self._chunk(inputs["input_ids"], grids, chunk)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)  # what they hold on the device
                out_of_memory = one_line(error)
            self._free(out_of_memory)
            try:
                return self._eager(*self._text(inputs["input_ids"], grids), chunk)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                memory = device_memory(self.device) if self.device.type == "cuda" else None
                raise RuntimeError(out_of_memory_message(error, memory)) from error

    def prepare(self, input_ids: Tensor, grids: Sequence[Grid]) -> None:
        """The text side of an instruction, before the first chunk with it; the graph is asked for, not waited for.

        From any thread, also while another one samples.

        Args:
            input_ids: int64 [1,L] without padding.
            grids: one per image.

        Raises:
            ValueError: not one prompt, one that is too long, or tokens and images disagree.
        """
        with torch.no_grad():
            sizes = tuple(grids)
            check_prompt(input_ids, sizes, self._limits)
            self._request(_key(*self._text(input_ids, sizes)))

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until all graphs that were asked for are there, or known to fail; False: not within `timeout` (s)."""
        return self._slots is None or self._slots.wait(timeout)

    def changed(self) -> None:
        """Forgets all graphs: products of the program were replaced. They are recorded again when they are needed."""
        self._no_graphs = ""
        if self._slots is not None:
            self._slots.clear()

    def close(self) -> None:
        """Drops the graphs, and waits for one that is being recorded."""
        if self._slots is not None:
            self._slots.close()

    def _chunk(self, input_ids: Tensor, grids: tuple[Grid, ...], chunk: ChunkBuffers) -> Tensor:
        """By the graph if there is one."""
        prompt, views = self._text(input_ids, grids)
        key = _key(prompt, views)
        program = None if self._slots is None or self._no_graphs else self._slots.get(key)
        if program is None:
            self._request(key)
            return self._eager(prompt, views, chunk, key)
        try:
            actions = self._fetch(program(prompt, chunk))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            assert self._slots is not None
            self._slots.fail(key, f"its replay failed: {one_line(error)}")
            del program
            return self._eager(prompt, views, chunk, key)
        self.mode, self.reason = "graph", ""
        return actions

    def _eager(self, prompt: PromptBuffers, views: Views, chunk: ChunkBuffers, key: Key | None = None) -> Tensor:
        self._pack()
        self.mode, self.reason = "eager", self._no_graphs
        if self._slots is not None and key is not None and (status := self._slots.status(key)) is not None:
            self.reason = status.reason or self._no_graphs
        chunk = chunk.to(self.device, self.dtype)
        # With graphs, compiling is left to the thread that records them: it takes minutes.
        if self._slots is None and self._run is not self.program:
            try:
                return self._fetch(self._run(prompt, chunk, views))
            except Exception as error:
                self._uncompiled(error)
        return self._fetch(self.program(prompt, chunk, views))

    def _uncompiled(self, error: Exception) -> None:
        """After whatever dynamo, inductor, triton or the C++ compiler raised; being out of memory is another thing."""
        if is_out_of_memory(error):
            raise error
        name = "" if isinstance(error, CaptureError) else f"{type(error).__name__}: "
        self._log(f"torch.compile: {name}{one_line(error)}; the engine runs uncompiled")
        self._run = self.program

    def _free(self, reason: str) -> None:
        """After the device was out of memory: no graphs from now on, which hold memory of their own."""
        self.retries += 1
        if self._slots is not None and not self._no_graphs:
            self._no_graphs = f"out of memory on {self.device}: {reason}"
            self._log(
                f"{self._no_graphs}; graphs are dropped, chunks are computed eagerly until the policy is configured "
                "again"
            )
            self._slots.clear()
        else:
            self._log(f"out of memory on {self.device}: {reason}; trying once more")
        gc.collect()
        # Freeing cached memory would break a recording under way, and waiting for that one would stop the robot.
        if self.device.type == "cuda" and (self._slots is None or self._slots.wait(0)):
            torch.cuda.empty_cache()

    def _request(self, key: Key) -> None:
        if self._slots is not None and not self._no_graphs:
            self._slots.request(key)

    def _record(self, key: Key) -> StaticProgram:
        """In the background thread."""
        with self._lock:
            prompt, views = next(text for text in reversed(self._texts.values()) if _key(*text) == key)
        try:
            return self._static(self._run, key, prompt, views)
        except Exception as error:
            if is_out_of_memory(error) and not isinstance(error, CaptureError):
                raise CaptureError(f"{OUT_OF_MEMORY} while recording: {one_line(error)}") from error
            if self._run is self.program or is_out_of_memory(error):
                raise
            program = self._static(self.program, key, prompt, views)
            self._uncompiled(error)  # compiling was what failed
            return program

    def _static(self, run: Run, key: Key, prompt: PromptBuffers, views: Views) -> StaticProgram:
        assert self._recorder is not None
        patches = sum(frames * rows * cols for frames, rows, cols in key.grids)
        return StaticProgram(
            run,
            views,
            prompt,
            config=self.config,
            steps=self.steps,
            patches=(patches, self._backbone.patch_values),
            dtype=self.dtype,
            recorder=self._recorder,
        )

    def _text(self, input_ids: Tensor, grids: tuple[Grid, ...]) -> tuple[PromptBuffers, Views]:
        """Of the cache, or made; made outside of the lock, which the next chunk may want."""
        key = (input_ids.cpu().numpy().tobytes(), grids)
        with self._lock:
            found = self._texts.get(key)
            if found is not None:
                self._texts.move_to_end(key)
                return found
            views = next((views for _, views in self._texts.values() if views.grids == grids), None)
        prompt = prompt_buffers(self._backbone, self._table, input_ids, grids, self._bucket, self.device)
        made = prompt, views or self.program.vision.views(grids)
        with self._lock:
            made = self._texts.setdefault(key, made)
            if len(self._texts) > PROMPTS:
                self._texts.popitem(last=False)
        return made

    def _pack(self) -> None:
        """Before the first chunk, when the products are the final ones."""
        if not self._packed:
            self._packed = True
            pack_products(self.program.denses())

    def release(self) -> int:
        """Drops from the model what the engine does not read; the model cannot be used otherwise afterwards.

        The embeddings of tokens, of which an instruction reads a few rows, go to the host.

        Returns:
            Bytes that were freed on the device.
        """
        self._pack()
        freed, table = drop_unread(self._model, self.program)
        self._table = self._table if table is None else table
        self._released += freed
        return freed

    def report(self) -> EngineReport:
        """How the engine works at the moment."""
        lengths = {} if self._slots is None else self._slots.statuses()
        return EngineReport(
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            steps=self.steps,
            mode=self.mode,
            reason=self.reason,
            lengths={
                str(key): f"{status.mode}: {status.reason}" if status.reason else status.mode
                for key, status in lengths.items()
            },
            weight_bytes=bytes_held(self.program),
            released_bytes=self._released,
            options=self.options,
            compiled=self._run is not self.program,
        )


def _key(prompt: PromptBuffers, views: Views) -> Key:
    return Key(views.grids, prompt.words.shape[1])
