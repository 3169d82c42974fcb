"""LocalPolicy on the engine: it says what the model says, and whatever goes wrong is told and ends in a slower way."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tape import TapeRecorder

from groot_ros.embodiment.load import embodiment_path
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import GENERATIONS
from groot_ros.model import attention, backbone
from groot_ros.model.engine import memory
from groot_ros.model.engine.engine import Engine, EngineOptions
from groot_ros.model.engine.graphs import CaptureError
from groot_ros.model.groot import GrootModel
from groot_ros.observation.types import Observation
from groot_ros.policy import local, sampler
from groot_ros.policy.base import Chunk, Prefix, TwoStepPolicy
from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.local import LocalPolicy
from groot_ros.policy.news import EngineFacts, Notices
from groot_ros.policy.process import ProcessPolicy
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.policy.sampler import Choice

SIDE = 64
WAIT_S = 30.0
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."
MakeEngine = Callable[..., Engine]


class Checkpoints:
    """Generation -> a tiny random checkpoint, made when asked for, and the robot for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        text = embodiment_path("sim_arm").read_text(encoding="utf-8")
        self.robot = folder / "small_arm.yaml"
        self.robot.write_text(text.replace("width: 224", f"width: {SIDE}").replace("height: 224", f"height: {SIDE}"))

    def path(self, generation: str) -> Path:
        path = self._folder / generation
        if not path.exists():
            make_random_checkpoint(path, generation, "tiny", str(self.robot), 0, Console(quiet=True))
        return path

    def embodiment(self, generation: str) -> Embodiment:
        return embodiment_for(self.robot, self.path(generation))

    def policy(self, generation: str = "n1d7", **arguments: Any) -> LocalPolicy:
        return LocalPolicy(self.path(generation), self.embodiment(generation), device="cpu", **arguments)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def plain(checkpoints: Checkpoints) -> LocalPolicy:
    return checkpoints.policy(engine=False)


def seen(policy: LocalPolicy, text: str = "pick up the red cube", number: int = 0) -> Observation:
    rng = np.random.default_rng(number)
    blank = policy.blank_observation()
    video = {key: rng.integers(0, 256, frames.shape, dtype=np.uint8) for key, frames in blank.video.items()}
    return replace(blank, video=video, instruction=text, stamp_ns=number)


def same(found: Chunk, expected: Chunk, tolerance: float = 0.0) -> None:
    assert found.actions.keys() == expected.actions.keys()
    for key, value in expected.actions.items():
        np.testing.assert_allclose(found.actions[key], value, rtol=tolerance, atol=tolerance)


def use(monkeypatch: pytest.MonkeyPatch, change: Callable[[Engine], None]) -> list[Engine]:
    """Every engine that is made from now on is changed before it is used; the list gets them."""
    make, made = sampler.make_engine, []

    def changed(*arguments: Any) -> Engine:
        engine = make(*arguments)
        change(engine)
        made.append(engine)
        return engine

    monkeypatch.setattr(sampler, "make_engine", changed)
    return made


def recorded(recorder: Any) -> MakeEngine:
    """Engines as on a GPU, with ``recorder`` in place of CUDA graphs."""

    def make(model: Any, embodiment_id: int, choice: Choice, log: Callable[[str], None]) -> Engine:
        options = EngineOptions(num_steps=choice.num_steps, pack=False)
        return Engine(model, embodiment_id, options, recorder=recorder, log=log)

    return make


def facts(policy: LocalPolicy) -> EngineFacts:
    """How chunks are computed, asked for anew."""
    policy._told = None
    engine = policy.news().engine
    assert engine is not None
    return engine


# --- the same chunks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("generation", "native"), [*((name, False) for name in GENERATIONS), ("n1d7", True)])
def test_the_engine_says_what_the_model_says(checkpoints: Checkpoints, generation: str, native: bool) -> None:
    """Freely, and led by the chunk before; after another instruction, too."""
    model, engine = (checkpoints.policy(generation, engine=on) for on in (False, True))
    assert (model.engine, engine.engine is not None) == (None, True)
    first, later = seen(model), seen(model, "put the blue cube into the box, slowly", 1)
    before = model.act(first, seed=1)
    prefix = Prefix({key: value.astype(np.float64) for key, value in before.actions.items()}, 12, 3, native)
    same(engine.act(first, seed=1), before, 1e-4)
    same(engine.act(later, seed=2), model.act(later, seed=2), 1e-4)
    same(engine.act(later, seed=3, prefix=prefix), model.act(later, seed=3, prefix=prefix), 1e-4)
    news = engine.news()
    assert news.notices == () and news.engine is not None
    assert (news.engine.mode, news.engine.reason, news.engine.precision) == ("eager", "", "model")
    assert "(expected at most 0.0001)" in news.engine.agreement
    assert model.news().engine == EngineFacts("plain")


def test_bfloat16_is_compared_by_its_cosine(checkpoints: Checkpoints) -> None:
    engine = facts(checkpoints.policy(dtype="bfloat16"))
    assert engine.mode == "eager" and engine.agreement.endswith("(expected at least 0.999)")


def test_the_comparison_is_with_float32_not_tf32(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    rounded: list[bool] = []
    sample = GrootModel.sample

    def watched(*arguments: Any, **named: Any) -> torch.Tensor:
        rounded.append(torch.backends.cudnn.allow_tf32)
        return sample(*arguments, **named)

    monkeypatch.setattr(GrootModel, "sample", watched)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    checkpoints.policy()
    assert rounded == [False] and torch.backends.cudnn.allow_tf32


def test_what_the_model_held_for_itself_is_freed_and_it_says_so(checkpoints: Checkpoints) -> None:
    policy = checkpoints.policy()
    encoded = policy.encode(seen(policy))
    with pytest.raises(RuntimeError, match="dropped what it does not need"):
        policy.model.sample(encoded.inputs)
    assert "dropped" in facts(policy).memory


def test_two_steps_are_the_same_chunk_also_from_another_thread(checkpoints: Checkpoints) -> None:
    policy = checkpoints.policy()
    assert isinstance(policy, TwoStepPolicy)
    observation = seen(policy)
    encoded: list[local.Encoded] = []
    encoding = threading.Thread(target=lambda: encoded.append(policy.encode(observation)))
    encoding.start()
    encoding.join(WAIT_S)
    chunk = policy.act_encoded(encoded[0], seed=4)
    same(chunk, policy.act(observation, seed=4))
    assert list(chunk.timings_s) == ["processing", "model", "decode"]


# --- CUDA graphs, played on a tape -----------------------------------------------------------------------------------


def test_graphs_are_there_when_it_is_ready_and_are_compared(
    checkpoints: Checkpoints, plain: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = TapeRecorder()
    monkeypatch.setattr(sampler, "make_engine", recorded(recorder))
    policy = checkpoints.policy()
    engine = facts(policy)
    assert (engine.mode, engine.reason) == ("graph", "")
    assert engine.agreement.count("largest difference") == 2 and "; recorded: " in engine.agreement
    assert policy.warm_up(1) > 0
    same(policy.act(policy.blank_observation(), seed=3), plain.act(plain.blank_observation(), seed=3), 1e-4)


def test_an_instruction_is_recorded_before_its_first_chunk(
    checkpoints: Checkpoints, plain: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "make_engine", recorded(TapeRecorder()))
    policy = checkpoints.policy()
    assert policy.engine is not None
    text = "put the red cube on top of the blue one and then go back to where you were before"
    policy.check_instruction(text)
    policy.engine.wait()
    same(policy.act(seen(policy, text), seed=5), plain.act(seen(plain, text), seed=5), 1e-4)
    assert facts(policy).mode == "graph"
    assert sorted(mode for _, mode in facts(policy).buckets) == ["graph", "graph"]


def test_a_graph_that_says_something_else_is_not_used(
    checkpoints: Checkpoints, plain: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(TapeRecorder):
        def record(self, function: Callable[[], torch.Tensor]) -> Any:
            replay = super().record(function)
            return lambda: replay().mul(1.01)

    monkeypatch.setattr(sampler, "make_engine", recorded(Wrong()))
    policy = checkpoints.policy()
    [notice] = policy.news().notices
    assert notice.startswith("what was recorded does not say what the engine says: largest difference 0.01 of")
    assert notice.endswith("please report it; the engine runs eagerly instead, which is slower")
    same(policy.act(seen(policy), seed=5), plain.act(seen(plain), seed=5), 1e-4)
    assert facts(policy).mode == "eager" and facts(policy).reason.startswith("what was recorded")


def test_what_cannot_be_recorded_runs_eagerly_and_says_why(
    checkpoints: Checkpoints, plain: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def record(self, function: Callable[[], torch.Tensor]) -> Any:
            raise CaptureError("operation not permitted when stream is capturing")

    monkeypatch.setattr(sampler, "make_engine", recorded(Broken()))
    policy = checkpoints.policy()
    [notice] = policy.news().notices
    assert "no graph, operation not permitted when stream is capturing" in notice
    same(policy.act(policy.blank_observation(), seed=5), plain.act(plain.blank_observation(), seed=5), 1e-4)
    assert (facts(policy).mode, policy.news().notices) == ("eager", ())
    assert "operation not permitted when stream is capturing" in facts(policy).reason


def test_what_had_no_room_beside_the_model_is_recorded_after_it_was_dropped(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(TapeRecorder):
        tries = 0

        def record(self, function: Callable[[], torch.Tensor]) -> Any:
            Full.tries += 1
            if Full.tries == 1:
                raise CaptureError(f"out of GPU memory while recording: {OUT_OF_MEMORY}")
            return super().record(function)

    monkeypatch.setattr(sampler, "make_engine", recorded(Full()))
    policy = checkpoints.policy()
    failed, after_all = policy.news().notices
    assert f"no graph, out of GPU memory while recording: {OUT_OF_MEMORY}" in failed
    assert after_all == "recorded after all, when what only the model reads had been dropped"
    policy.act(policy.blank_observation())
    assert (facts(policy).mode, facts(policy).reason, Full.tries) == ("graph", "", 2)


def test_first_inferences_are_told_from_the_others(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a prompt of another length, and by a graph that has just been recorded."""
    monkeypatch.setattr(sampler, "make_engine", recorded(TapeRecorder()))
    policy = checkpoints.policy()
    assert policy.engine is not None
    short, long = seen(policy, "go"), seen(policy, "go to the red cube at the far end of the table, and stay there")
    hold = threading.Event()
    record = policy.engine._slots._record  # type: ignore[union-attr]
    monkeypatch.setattr(policy.engine._slots, "_record", lambda key: (hold.wait(WAIT_S), record(key))[1])
    policy.warm_up(2)
    assert [policy.act(policy.blank_observation()).usual for _ in range(2)] == [True, True]
    assert [policy.act(short).usual for _ in range(2)] == [False, True]
    assert [policy.act(long).usual for _ in range(2)] == [False, True]  # eagerly, while its graph is awaited
    hold.set()
    policy.engine.wait()
    assert [policy.act(long).usual for _ in range(2)] == [False, True]
    assert policy.act(short).usual
    policy.engine.changed()  # forgotten, and recorded once more
    assert [policy.act(long).usual, policy.engine.wait(), policy.act(long).usual] == [False, True, False]
    assert policy.act(long).usual


# --- what goes wrong -------------------------------------------------------------------------------------------------


def off_by(share: float) -> Callable[[Engine], None]:
    def change(engine: Engine) -> None:
        sample = engine.sample

        def wrong(*arguments: Any, **named: Any) -> torch.Tensor:
            actions = sample(*arguments, **named)
            return actions + share * actions.abs().max()

        engine.sample = wrong  # type: ignore[method-assign]

    return change


def raising(error: Exception) -> Callable[[Engine], None]:
    def change(engine: Engine) -> None:
        def fail(*arguments: Any, **named: Any) -> torch.Tensor:
            raise error

        engine.sample = fail  # type: ignore[method-assign]

    return change


UNFIT = {
    "disagrees": (off_by(0.01), "the engine does not say what the model says: largest difference 0.01 of the largest"),
    "says NaN": (off_by(float("nan")), "the engine does not say what the model says: NaN or infinity"),
    "out of memory": (
        raising(torch.OutOfMemoryError(OUT_OF_MEMORY)),
        f"the engine cannot run this checkpoint here: OutOfMemoryError: {OUT_OF_MEMORY}",
    ),
    "raises": (
        raising(RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nand more")),
        "the engine cannot run this checkpoint here: RuntimeError: FlashAttention only supports Ampere GPUs or newer.;",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_engine_that_does_not_do_is_not_used_and_the_reason_is_told(
    checkpoints: Checkpoints, plain: LocalPolicy, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    change, reason = UNFIT[case]
    use(monkeypatch, change)
    policy = checkpoints.policy()
    news = policy.news()
    assert policy.engine is None
    [notice] = news.notices
    assert notice.startswith(reason) and notice.endswith("; the plain model runs instead, which is slower")
    assert news.engine is not None and news.engine.mode == "plain" and news.engine.reason in notice
    same(policy.act(seen(policy), seed=6), plain.act(seen(plain), seed=6))
    assert policy.news().notices == ()


def test_a_difference_that_is_rounding_does_no_harm(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, off_by(0.9e-4))
    assert checkpoints.policy().engine is not None


def test_an_engine_that_cannot_be_made_is_not_used(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Engine:
        raise TypeError("backbone Other: expected one of N1.5, N1.6 or N1.7")

    monkeypatch.setattr(sampler, "make_engine", fail)
    policy = checkpoints.policy()
    assert policy.engine is None
    assert (
        policy.news()
        .notices[0]
        .startswith("the engine cannot run this checkpoint here: TypeError: backbone Other: expected one of")
    )


def test_an_error_in_the_middle_of_a_run_is_raised_and_the_next_chunk_comes(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = use(monkeypatch, lambda engine: None)
    policy = checkpoints.policy()
    expected = policy.act(seen(policy), seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(made[-1], "sample", out_of_memory(1, lambda: None))
        with pytest.raises(RuntimeError, match="out of memory"):
            policy.act(seen(policy), seed=1)
    same(policy.act(seen(policy), seed=1), expected)


def out_of_memory(times: int, call: Callable[..., Any]) -> Callable[..., Any]:
    left = [times]

    def changed(*arguments: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return call(*arguments, **named)

    return changed


def test_the_plain_model_tries_once_more_when_memory_ran_out(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = checkpoints.policy(engine=False)
    expected, sample = policy.act(seen(policy), seed=1), policy.model.sample
    monkeypatch.setattr(policy.model, "sample", out_of_memory(1, sample))
    same(policy.act(seen(policy), seed=1), expected)
    [notice] = policy.news().notices
    assert notice.startswith("out of memory in the middle of a run, trying once more: OutOfMemoryError: CUDA out of")
    assert facts(policy).out_of_memory == 1
    monkeypatch.setattr(policy.model, "sample", out_of_memory(2, sample))
    with pytest.raises(memory.DeviceMemoryError, match=r"out of GPU memory, 2.00 GiB wanted; what helps: end other"):
        policy.act(seen(policy), seed=1)
    same(policy.act(seen(policy), seed=1), expected)


def test_a_model_that_does_not_fit_says_what_helps(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groot_ros.model.checkpoint.load_model", out_of_memory(1, lambda: None))
    with pytest.raises(memory.DeviceMemoryError, match=r"out of GPU memory, 2.00 GiB wanted; what helps: end other"):
        checkpoints.policy()


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (2**20, r"N1.7 in bfloat16 needs 0.0 GiB of weights and .* Small GPU has 0.0 GiB free of 8.0 GiB: .+"),
        (2**28, r"N1.7 in bfloat16 needs .*: it may run out of memory; .+"),
        (2**33, ""),
    ],
)
def test_a_gpu_that_is_too_small_is_refused_before_loading_and_a_tight_one_is_told(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, free: int, said: str
) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda device: memory.DeviceMemory("Small GPU", free, 2**33))
    policy = LocalPolicy.__new__(LocalPolicy)  # as far as it gets without the GPU
    policy.device, policy.dtype, policy._notices = torch.device("cuda"), torch.bfloat16, Notices()
    if free < 2**21:
        with pytest.raises(memory.DeviceMemoryError, match=said):
            policy._check_memory(checkpoints.path("n1d7"), "cuda", "auto")
        return
    policy._check_memory(checkpoints.path("n1d7"), "cuda", "auto")
    notices = policy._notices.take()
    assert len(notices) == bool(said) and all(re.match(said, notice) for notice in notices)


def test_auto_takes_the_cpu_where_the_gpu_is_too_small_and_the_host_has_room(
    checkpoints: Checkpoints, plain: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = memory.DeviceMemory("Small GPU", 2**20, 2**33)
    monkeypatch.setattr(memory, "device_memory", lambda device: small)
    monkeypatch.setattr("groot_ros.model.engine.device.device_problem", lambda index: None)
    path, embodiment = checkpoints.path("n1d7"), checkpoints.embodiment("n1d7")
    policy = LocalPolicy(path, embodiment, device="auto", keep_warm_s=1.0)
    [notice] = policy.news().notices
    said = "device 'auto': the CPU, many times slower than a GPU; N1.7 in bfloat16 needs 0.0 GiB of weights and "
    assert notice.startswith(said) and "Small GPU has 0.0 GiB free of 8.0 GiB" in notice
    assert (policy.device.type, policy.dtype, policy.keep_warm_s) == ("cpu", torch.float32, 0.0)
    same(policy.act(seen(policy), seed=6), plain.act(seen(plain), seed=6), 1e-4)
    with pytest.raises(memory.DeviceMemoryError, match="Small GPU has"):
        LocalPolicy(path, embodiment, device="cuda")
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**20)
    with pytest.raises(memory.DeviceMemoryError, match="Small GPU has"):
        LocalPolicy(path, embodiment, device="auto")


def test_weights_are_packed_for_a_cpu_only_where_there_is_room(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    made = use(monkeypatch, lambda engine: None)
    [notice] = checkpoints.policy().news().notices
    assert notice.startswith("the engine does not pack the weights for the CPU: that needs 0.0 GB beside the model")
    assert not made[-1].options.pack
    assert checkpoints.policy(dtype="bfloat16").news().notices == ()
    monkeypatch.undo()
    assert (memory.available_bytes() or 0) > 0


def test_what_is_logged_at_the_start_is_told(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why there is no GPU, and why flash-attn is not used, which shows when the first inference chooses attention."""

    def on_a_gpu(device: torch.device, dtype: torch.dtype) -> str:
        assert attention.flash_attention_problem(torch.device("cuda", 0)) is not None
        logging.getLogger("groot_ros.model.attention").info("nothing to worry about")
        return attention.TOWER_ATTENTION

    attention.flash_attention_problem.cache_clear()
    monkeypatch.setattr(attention, "_find_problem", lambda device: "it cannot be imported (undefined symbol)")
    monkeypatch.setattr(backbone, "tower_attention_name", on_a_gpu)
    monkeypatch.setattr("groot_ros.model.engine.device.device_problem", lambda index: "no driver; install it")
    try:
        policy = LocalPolicy(checkpoints.path("n1d5"), checkpoints.embodiment("n1d5"), device="auto")
    finally:
        attention.flash_attention_problem.cache_clear()
    assert policy.news().notices == (
        "device 'auto': the CPU, many times slower than a GPU; no driver; install it",
        "flash-attn is installed but not used on cuda:0: it cannot be imported (undefined symbol); SDPA is used "
        "instead",
    )
    logging.getLogger("groot_ros").warning("later")
    assert policy.news().notices == ()


@pytest.mark.parametrize(("device", "graphs", "found"), [("cpu", True, "device cpu"), ("cuda", False, "graphs: false")])
def test_nothing_is_compiled_where_a_chunk_would_wait_for_it(device: str, graphs: bool, found: str) -> None:
    said: list[str] = []
    assert not sampler.may_compile(torch.device(device), Choice(graphs=graphs, compile=True), said.append)
    [notice] = said
    assert notice.startswith("compile: expected CUDA graphs") and f"found {found}; not compiled, since" in notice
    assert sampler.may_compile(torch.device("cuda"), Choice(compile=True), said.append)
    assert not sampler.may_compile(torch.device(device), Choice(graphs=graphs), said.append)
    assert len(said) == 1


def test_compile_on_a_cpu_is_a_notice(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    made = use(monkeypatch, lambda engine: None)
    [notice] = checkpoints.policy(compile=True).news().notices
    assert notice.startswith("compile: ") and not made[-1].options.compile


# --- precision -------------------------------------------------------------------------------------------------------


def test_a_precision_without_a_measurement_is_refused_before_any_weight_is_read(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.policy()
    monkeypatch.setattr("groot_ros.model.checkpoint.load_model", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=r"precision 'fp8_weights': expected a measurement that passed .* none at"):
        checkpoints.policy(precision="fp8_weights", precision_file="/nowhere.json")
    with pytest.raises(ValueError, match=r"precision 'fp8': expected the engine, which has it, found engine: false"):
        checkpoints.policy(precision="fp8", engine=False)


class Gate:
    """A measurement that passed, elsewhere."""

    precision = "fp8_weights"

    def notices(self, machine: dict[str, str]) -> list[str]:
        return ["precision fp8_weights was measured with device Other, here it is this one"]


def with_gate(monkeypatch: pytest.MonkeyPatch, apply: Callable[..., Any]) -> None:
    monkeypatch.setattr(local, "_allowed", lambda *_: Gate())
    monkeypatch.setattr("groot_ros.model.engine.fp8.apply_precision", apply)


def test_a_precision_that_was_allowed_is_set_after_the_comparison_and_before_weights_are_freed(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def change(engine: Engine) -> None:
        for name in ("sample", "release"):
            call = getattr(engine, name)
            setattr(engine, name, lambda *a, call=call, name=name, **k: (order.append(name), call(*a, **k))[1])

    use(monkeypatch, change)
    with_gate(monkeypatch, lambda engine, gate: order.append(gate.precision))
    policy = checkpoints.policy()
    assert order[:4] == ["sample", "fp8_weights", "sample", "release"]
    assert policy.news().notices == ("precision fp8_weights was measured with device Other, here it is this one",)
    assert facts(policy).precision == "fp8_weights"


def test_a_precision_that_cannot_be_set_up_leaves_the_model_or_is_refused(
    checkpoints: Checkpoints, plain: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gate(monkeypatch, out_of_memory(1, lambda *_: None))
    policy = checkpoints.policy()
    [notice] = policy.news().notices
    assert notice == (
        f"precision fp8_weights could not be set up: OutOfMemoryError: {OUT_OF_MEMORY}; the plain model runs instead, "
        "which is slower"
    )
    assert facts(policy).precision == "model"
    same(policy.act(seen(policy), seed=6), plain.act(seen(plain), seed=6))

    def lacking(*_: Any) -> None:
        raise ValueError("precision 'fp8': expected compute capability 8.9 or more")

    with_gate(monkeypatch, lacking)
    with pytest.raises(ValueError, match="compute capability"):
        checkpoints.policy()


# --- instructions ----------------------------------------------------------------------------------------------------


def test_a_checked_instruction_is_prepared_as_it_will_be_asked(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[tuple[torch.Tensor, Sequence[Any]]] = []
    made = use(monkeypatch, lambda engine: None)
    policy = checkpoints.policy()
    monkeypatch.setattr(made[-1], "prepare", lambda ids, grids: prepared.append((ids, grids)))
    policy.check_instruction("pick up the red cube")
    inputs = policy.encode(seen(policy)).inputs
    [(ids, grids)] = prepared
    assert torch.equal(ids, inputs["input_ids"])
    assert torch.equal(torch.tensor(grids), inputs["image_grid_thw"])
    with pytest.raises(ValueError, match="at most"):
        policy.check_instruction("pick it up " * policy.model.max_prompt_tokens)
    assert len(prepared) == 1


def test_an_instruction_that_is_being_prepared_holds_nobody_up(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = use(monkeypatch, lambda engine: None)
    policy = checkpoints.policy()
    begun, go_on = threading.Event(), threading.Event()

    def prepare(*_: Any) -> None:
        begun.set()
        assert go_on.wait(WAIT_S)

    monkeypatch.setattr(made[-1], "prepare", prepare)
    checking = threading.Thread(target=policy.check_instruction, args=("go to the blue cube",))
    checking.start()
    assert begun.wait(WAIT_S)
    policy.act(seen(policy, "go to the blue cube"))
    policy.processor.prompt("something else")
    assert checking.is_alive()
    go_on.set()
    checking.join(WAIT_S)


def test_an_instruction_that_cannot_be_prepared_is_no_refusal(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = use(monkeypatch, lambda engine: None)
    policy = checkpoints.policy()
    monkeypatch.setattr(made[-1], "prepare", out_of_memory(1, lambda *_: None))
    policy.check_instruction("go to the blue cube")
    assert policy.news().notices == (
        f"the instruction could not be prepared, its first inference will be slow: OutOfMemoryError: {OUT_OF_MEMORY}",
    )
    policy.act(seen(policy, "go to the blue cube"))


# --- warm ------------------------------------------------------------------------------------------------------------


def test_on_a_cpu_nothing_is_kept_warm(checkpoints: Checkpoints) -> None:
    assert checkpoints.policy(keep_warm_s=1.0).keep_warm_s == 0.0


def test_to_be_kept_warm_has_no_effect(checkpoints: Checkpoints) -> None:
    """Before the first chunk, and after one."""
    policy, other = checkpoints.policy(), checkpoints.policy()
    policy.warm_up()
    policy.keep_warm()
    text = "go to the blue cube at the far end of the table"
    first = policy.act(seen(policy, text), seed=1)
    policy.keep_warm()
    second = policy.act(seen(policy, text, 1), seed=2)
    same(first, other.act(seen(other, text), seed=1))
    same(second, other.act(seen(other, text, 1), seed=2))
    assert (first.usual, second.usual) == (False, True)
    assert policy.news().notices == ()


# --- in its own process ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hosted(checkpoints: Checkpoints) -> Iterator[ProcessPolicy]:
    arguments = {"checkpoint": checkpoints.path("n1d7"), "embodiment": checkpoints.embodiment("n1d7"), "device": "cpu"}
    policy = ProcessPolicy("failing_engine:make", arguments, start_timeout_s=60.0)
    yield policy
    policy.close()


def test_the_child_tells_how_it_computes(hosted: ProcessPolicy, plain: LocalPolicy) -> None:
    assert hosted.facts.engine is not None
    assert (hosted.facts.engine.mode, hosted.facts.engine.reason) == ("eager", "")
    assert hosted.facts.notices == ()
    same(hosted.act(seen(plain), seed=1), plain.act(seen(plain), seed=1), 1e-4)


def test_an_error_of_the_engine_ends_neither_the_child_nor_its_parent(
    hosted: ProcessPolicy, plain: LocalPolicy
) -> None:
    """The error is the node's row `exception in the model` of docs/stopping.md."""
    with pytest.raises(RuntimeError, match="illegal memory access"):
        hosted.act(seen(plain, "illegal 1"), seed=1)
    assert hosted.gone is None
    same(hosted.act(seen(plain), seed=1), plain.act(seen(plain), seed=1), 1e-4)


def test_memory_that_runs_out_in_the_middle_is_told_once_and_the_chunk_comes(
    hosted: ProcessPolicy, plain: LocalPolicy
) -> None:
    hosted.take_notices()
    expected = plain.act(seen(plain, "memory 1"), seed=1)
    same(hosted.act(seen(plain, "memory 1"), seed=1), expected, 1e-4)
    [notice] = hosted.take_notices()
    assert notice == "out of memory on cpu: CUDA out of memory. Tried to allocate 2.00 GiB.; trying once more"
    expected = plain.act(seen(plain, "memory 1 again"), seed=1)
    same(hosted.act(seen(plain, "memory 1 again"), seed=1), expected, 1e-4)
    assert hosted.take_notices() == []
    assert hosted.facts.engine is not None and hosted.facts.engine.out_of_memory == 2
    with pytest.raises(RuntimeError, match=r"out of GPU memory, 2.00 GiB wanted; what helps: end other programs"):
        hosted.act(seen(plain, "memory 2"), seed=1)
    same(hosted.act(seen(plain, "memory 2"), seed=1), plain.act(seen(plain, "memory 2"), seed=1), 1e-4)
