"""The engine over a robot's day: other instructions, cameras and checkpoints; what it does per chunk; what it refuses;
what it does where something fails."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
from engine_rig import EMBODIMENT, GENERATIONS, network, noise_for, observation
from tape import TapeRecorder
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groot_ros.model.action_head import RtcOptions
from groot_ros.model.engine import Engine, EngineOptions
from groot_ros.model.engine import engine as engine_module
from groot_ros.model.engine.dense import Dense, tensors_of
from groot_ros.model.engine.graphs import CaptureError
from groot_ros.model.engine.packed import PackedDense, can_pack
from groot_ros.model.engine.program import Program
from groot_ros.model.engine.static import StaticProgram
from groot_ros.model.guidance import Guidance, cosine_weights

CLOSE = {"atol": 1e-5, "rtol": 0}
UNPACKED = EngineOptions(pack=False, text_bucket=8)


def recorded(model, **options: object) -> Engine:
    engine_options = EngineOptions(pack=False, text_bucket=8, **options)
    return Engine(model, EMBODIMENT, engine_options, recorder=TapeRecorder(), log=pytest.fail)


def same(engine: Engine, plain, inputs: dict[str, Tensor], seed: int = 0, **continuation: object) -> None:
    expected = plain.sample(inputs, noise_for(plain, seed), **continuation)
    torch.testing.assert_close(engine.sample(inputs, noise_for(plain, seed), **continuation), expected, **CLOSE)


# A robot's day: pictures and words of the prompt.
CHANGES = {
    "instruction": [(2, 6), (2, 6), (2, 6)],
    "length within the bucket": [(2, 6), (2, 7), (2, 4)],
    "length beyond it": [(2, 6), (2, 20), (2, 6), (2, 40)],
    "cameras": [(2, 6), (1, 6), (3, 6), (2, 6)],
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_engine_after_a_change(generation, change):
    plain, model = network(generation), network(generation)
    engine, eager = recorded(model), Engine(model, EMBODIMENT)
    for seed, (pictures, words) in enumerate(CHANGES[change]):
        inputs = observation(model, pictures=pictures, words=words, seed=seed)
        for _ in range(2):  # by the graph that is there, or eagerly and then by the new one
            same(engine, plain, inputs, seed)
            same(eager, plain, inputs, seed)
            assert engine.wait(60)
        assert engine.report().mode == "graph"
        assert eager.report().mode == "eager"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_engine_of_a_new_checkpoint(generation):
    """Two engines live side by side; neither has the other's numbers."""
    models = [network(generation, seed) for seed in (0, 1)]
    plains = [network(generation, seed) for seed in (0, 1)]
    engines = [recorded(model) for model in models]
    inputs = observation(models[0])
    for _ in range(2):
        for engine, plain in zip(engines, plains, strict=True):
            same(engine, plain, inputs)
            assert engine.wait(60)
    first, second = (engine.sample(inputs, noise_for(models[0])) for engine in engines)
    assert (first - second).abs().max() > 0.1


def test_engine_with_pictures_of_different_sizes():
    """N1.6's tower takes any size; an observation may mix them."""
    model, plain = network("n1d6"), network("n1d6")
    small, large = (observation(model, pictures=1, grid=grid, words=2) for grid in ((1, 4, 6), (1, 6, 4)))
    large["pixel_values"] = torch.randn(24, model.backbone.patch_values, generator=torch.Generator().manual_seed(9))
    inputs = {
        **small,
        "input_ids": torch.cat((small["input_ids"], large["input_ids"], small["input_ids"]), dim=1),
        "pixel_values": torch.cat([part["pixel_values"] for part in (small, large, small)]),
        "image_grid_thw": torch.tensor([(1, 4, 6), (1, 6, 4), (1, 4, 6)]),
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    engine = recorded(model)
    for _ in range(2):
        same(engine, plain, inputs)
        assert engine.wait(60)
    assert engine.report().mode == "graph"


def test_engine_prepares_an_instruction_beforehand():
    model, plain = network("n1d7"), network("n1d7")
    engine, inputs = recorded(model), observation(model)
    engine.prepare(inputs["input_ids"], [tuple(grid) for grid in inputs["image_grid_thw"].tolist()])
    assert engine.wait(60)
    same(engine, plain, inputs)
    assert engine.report().mode == "graph"


def test_engine_draws_noise_as_the_plain_network_does():
    model, plain = network("n1d7"), network("n1d7")
    inputs = observation(model)
    expected = plain.sample(inputs, generator=torch.Generator().manual_seed(5))
    got = Engine(model, EMBODIMENT).sample(inputs, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(got, expected, **CLOSE)


# ---------------------------------------------------------------------------------------------- what is done per chunk


class WeightWork(TorchDispatchMode):
    """Notes operations that make new memory of weights (and indices) alone: copies, gathers, casts, tables."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.found, self.operations = weights, [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not leaf.is_mkldnn]
        floats = [tensor for tensor in inputs if tensor.is_floating_point()]
        own = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        new = [
            leaf
            for leaf in tree_leaves(result)
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in own and leaf.numel() > 64
        ]
        if new and floats and all(tensor.untyped_storage().data_ptr() in self.weights for tensor in floats):
            self.found.append(str(func))
        return result


def weight_work(run: Callable[[], object], weights: set[int]) -> WeightWork:
    mode = WeightWork(weights)
    with mode:
        run()
    return mode


def storages(tensors) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if not tensor.is_mkldnn}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("continued", [False, True])
def test_engine_works_on_no_weights_per_chunk(generation, continued):
    """No gather of an embodiment, no table, no cast, no copy of weights; the plain network does such work."""
    model = network(generation)
    inputs, noise = observation(model), noise_for(model)
    horizon = model.config.action_horizon
    pull = {"guidance": Guidance(noise[0], torch.from_numpy(cosine_weights(horizon, 1, 8)))} if continued else {}
    plain = weight_work(lambda: model.sample(inputs, noise, **pull), storages(model.parameters()))
    assert sum("aten.index" in name for name in plain.found) >= 5  # W[category]
    engine = Engine(model, EMBODIMENT, EngineOptions(pack=False))
    engine.sample(inputs, noise, **pull)
    mode = weight_work(lambda: engine.sample(inputs, noise, **pull), storages(tensors_of(engine.program)))
    assert mode.found == []
    assert mode.operations < 0.75 * plain.operations


@pytest.mark.parametrize("generation", GENERATIONS)
def test_engine_runs_no_python_of_the_program_when_recorded(generation, monkeypatch):
    model = network(generation)
    engine, inputs, noise = recorded(model), observation(model), noise_for(model)
    engine.sample(inputs, noise)
    assert engine.wait(60)
    monkeypatch.setattr(type(engine.program), "__call__", lambda *_: pytest.fail("the program ran"))
    monkeypatch.setattr(engine_module, "prompt_buffers", lambda *_: pytest.fail("the prompt was worked out again"))
    engine.sample(observation(model, seed=0) | {"state": torch.zeros_like(inputs["state"])}, noise)
    assert engine.report().mode == "graph"


def test_engine_frees_a_graph_that_it_drops():
    """At once: a GPU's memory does not wait for the garbage collector."""
    model = network("n1d7")
    engine, inputs = recorded(model), observation(model)
    engine.sample(inputs, noise_for(model))
    assert engine.wait(60)
    (key,) = engine._slots.statuses()
    program = engine._slots.get(key)
    assert isinstance(program, StaticProgram)
    alive = weakref.ref(program)
    del program
    gc.disable()
    try:
        engine.changed()
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("packed", [False, True])
def test_engine_holds_no_more_after_many_chunks(packed):
    """What a chunk allocates it gives back; counted by torch's profiler."""
    model = network("n1d7")
    engine = Engine(model, EMBODIMENT, EngineOptions(pack=packed))
    inputs, noise = observation(model), noise_for(model)
    guidance = Guidance(noise[0], torch.from_numpy(cosine_weights(noise.shape[1], 1, 8)))
    engine.sample(inputs, noise, guidance=guidance)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(3):
            engine.sample(inputs, noise, guidance=guidance)
    events = profile.events()
    assert sum(1 for event in events if event.name == "aten::index") == 0
    largest = max(event.self_cpu_memory_usage for event in events)
    weights = max(tensor.nbytes for tensor in model.parameters())
    assert 0 < largest < weights / 2
    net = sum(event.self_cpu_memory_usage for event in events)  # with "[memory]": what is freed outside of operations
    assert net == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("generation", GENERATIONS)
def test_engine_on_a_gpu(generation):
    """Recorded on the GPU: the numbers of the plain network, and no call of the allocator per chunk."""
    plain = network(generation).cuda().to(torch.bfloat16)
    model = network(generation).cuda().to(torch.bfloat16)
    engine = Engine(model, EMBODIMENT, log=pytest.fail)
    inputs, noise = observation(model), noise_for(model)
    engine.sample(inputs, noise)
    assert engine.wait(120)
    engine.sample(inputs, noise)
    assert engine.report().mode == "graph"
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    got = [engine.sample(inputs, noise) for _ in range(5)][-1]
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    expected = plain.sample(inputs, noise.cuda()).cpu()
    assert torch.cosine_similarity(got.flatten(), expected.flatten(), dim=0) >= 0.9999


# ------------------------------------------------------------------------------------------------------- what it frees


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("packed", [False, True])
def test_engine_releases_what_it_does_not_read(generation, packed):
    model, plain = network(generation), network(generation)
    inputs = observation(model)
    engine = Engine(model, EMBODIMENT, EngineOptions(pack=packed))
    same(engine, plain, inputs)
    watched = {name: parameter.untyped_storage() for name, parameter in model.named_parameters()}
    before = _held()
    freed = engine.release()
    del watched
    gc.collect()
    assert before - _held() == freed == engine.report().released_bytes > 0
    gone = {name for name, parameter in model.named_parameters() if parameter.numel() == 0}
    assert {
        "action_head.action_encoder.W1.W",
        "action_head.state_encoder.layer1.W",
        "action_head.action_decoder.layer2.W",
        "action_head.model.proj_out_1.weight",
        "action_head.model.transformer_blocks.0.norm1.linear.weight",
    } <= gone
    assert (
        model.unused_parameters()
        - {name for name, parameter in model.named_parameters() if parameter.numel() == 0 or "embed_tokens" in name}
        == set()
    )
    assert ("action_head.model.transformer_blocks.0.attn1.to_q.weight" in gone) == (
        packed and plain.action_head.model.transformer_blocks[0].attn1.to_q.weight.numel() >= 64 * 1024
    )
    same(engine, plain, inputs)
    same(engine, plain, observation(model, words=9, seed=3), 3)
    with pytest.raises(RuntimeError, match=r"weights are gone.*load the checkpoint again"):
        model.sample(inputs, noise_for(model))
    assert engine.release() == 0


def _held() -> int:
    """Bytes of all tensors' memory that Python can reach."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and thing.device.type == "cpu" and not thing.is_mkldnn and not thing.is_meta:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


# ---------------------------------------------------------------------------------------------------- what it refuses


def changed(inputs: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    return {name: value for name, value in {**inputs, **changes}.items() if value is not None}


REFUSED = {
    "another embodiment": (lambda i: changed(i, embodiment_id=torch.tensor([11])), "11.*made for 10"),
    "an unknown embodiment": (lambda i: changed(i, embodiment_id=torch.tensor([99])), "99.*expected 0"),
    "no state": (lambda i: changed(i, state=None), "lack state"),
    "a state of another width": (lambda i: changed(i, state=torch.zeros(1, 1, 3)), r"state has shape \(1, 1, 3\)"),
    "padding": (
        lambda i: changed(i, attention_mask=torch.zeros_like(i["attention_mask"])),
        "attention_mask marks padding",
    ),
    "two prompts": (
        lambda i: {
            **changed(i, embodiment_id=torch.tensor([10, 10]), state=i["state"].repeat(2, 1, 1)),
            "input_ids": i["input_ids"].repeat(2, 1),
            "attention_mask": i["attention_mask"].repeat(2, 1),
        },
        "one prompt",
    ),
    "no pictures": (lambda i: changed(i, image_grid_thw=torch.zeros(0, 3, dtype=torch.int64)), "at least one image"),
    "too few patches": (lambda i: changed(i, pixel_values=i["pixel_values"][:-1]), "pixel_values has shape"),
    "pictures without tokens": (
        lambda i: changed(
            i,
            image_grid_thw=i["image_grid_thw"].repeat(2, 1),
            pixel_values=i["pixel_values"].repeat(2, 1),
        ),
        "input_ids hold",
    ),
    "an id beyond the table": (
        lambda i: changed(i, input_ids=torch.where(i["input_ids"] == 7, 100000, i["input_ids"])),
        "100000",
    ),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("case", REFUSED)
def test_engine_refuses(generation, case):
    change, words = REFUSED[case]
    model = network(generation)
    engine, inputs = Engine(model, EMBODIMENT), observation(model)
    with pytest.raises(ValueError, match=words):
        engine.sample(change(inputs), noise_for(model))
    same(engine, network(generation), inputs)


def test_engine_refuses_continuations():
    model = network("n1d7")
    engine, inputs, noise = Engine(model, EMBODIMENT), observation(model), noise_for(model)
    rtc, pull = RtcOptions(noise, 16, 4, 2), Guidance(noise[0], torch.ones(16))
    for words, keywords in (
        ("give one of them", {"rtc": rtc, "guidance": pull}),
        ("frozen_steps", {"rtc": RtcOptions(noise, 16, 2, 4)}),
        ("guidance.previous", {"guidance": Guidance(noise[0, :3], torch.ones(16))}),
        ("guidance.beta is 0", {"guidance": Guidance(noise[0], torch.ones(16), beta=0)}),
    ):
        with pytest.raises(ValueError, match=words):
            engine.sample(inputs, noise, **keywords)
    with pytest.raises(ValueError, match="noise has shape"):
        engine.sample(inputs, noise[:, :3])


@pytest.mark.parametrize(
    ("embodiment", "steps", "words"), [(32, None, "embodiment_id is 32"), (10, 0, "num_steps is 0")]
)
def test_engine_refuses_to_be_made(embodiment, steps, words):
    with pytest.raises(ValueError, match=words):
        Engine(network("n1d6"), embodiment, EngineOptions(num_steps=steps))


# ------------------------------------------------------------------------------------------- where something fails


class Failing(TapeRecorder):
    """Records nothing, or what fails when it is replayed."""

    def __init__(self, at: str, error: Exception) -> None:
        super().__init__()
        self.at, self.error = at, error

    def record(self, function):
        if self.at == "capture":
            raise self.error
        replay = super().record(function)

        def fail() -> Tensor:
            assert replay is not None
            raise self.error

        return fail


@pytest.mark.parametrize(
    ("at", "error", "said"),
    [
        ("capture", CaptureError("operation not permitted when stream is capturing"), "not permitted"),
        ("capture", CaptureError("out of GPU memory while recording: tried to allocate 2 GiB"), "out of GPU memory"),
        ("replay", RuntimeError("CUDA error: invalid argument\nadvice"), "its replay failed: CUDA error: invalid arg"),
    ],
)
def test_engine_goes_on_without_a_graph(at, error, said):
    model, plain, told = network("n1d7"), network("n1d7"), []
    engine = Engine(model, EMBODIMENT, UNPACKED, recorder=Failing(at, error), log=told.append)
    inputs = observation(model)
    for _ in range(4):
        same(engine, plain, inputs)
        assert engine.wait(60)
    report = engine.report()
    assert report.mode == "eager" and said in report.reason
    assert len(told) == 1 and said in told[0] and "\n" not in told[0]
    assert any(said in state for state in report.lengths.values())
    same(engine, plain, observation(model, words=20))  # another length is tried


def test_engine_gives_up_graphs_when_out_of_memory():
    model, plain, told = network("n1d7"), network("n1d7"), []
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    engine = Engine(model, EMBODIMENT, UNPACKED, recorder=Failing("replay", error), log=told.append)
    inputs = observation(model)
    same(engine, plain, inputs)
    assert engine.wait(60)
    for _ in range(2):
        same(engine, plain, inputs)
    assert len(told) == 1 and "out of memory" in told[0] and "Tried to allocate 20.00 MiB" in told[0]
    assert engine.report().mode == "eager" and "out of memory" in engine.report().reason
    assert engine.report().lengths == {}
    engine.changed()  # there may be room now
    same(engine, plain, inputs)
    assert engine.wait(60) and len(engine.report().lengths) == 1


@pytest.mark.parametrize("where", [(Program, "__call__"), (engine_module, "prompt_buffers")])
def test_engine_says_what_to_do_when_out_of_memory_without_graphs(where, monkeypatch):
    """In the network, and where an instruction is prepared."""
    model, plain, told = network("n1d7"), network("n1d7"), []
    engine, inputs = Engine(model, EMBODIMENT, UNPACKED, log=told.append), observation(model)
    whole, left = getattr(*where), 1

    def short_of_memory(*arguments):
        nonlocal left
        if left:
            left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")
        return whole(*arguments)

    monkeypatch.setattr(*where, short_of_memory)
    same(engine, plain, inputs)  # the second try
    assert len(told) == 1 and "trying once more" in told[0]
    left, inputs = 2, observation(model, words=9)
    with pytest.raises(
        RuntimeError, match=r"out of GPU memory, 20.00 MiB wanted; what helps: end other programs.*bfloat16"
    ):
        engine.sample(inputs, noise_for(model))
    same(engine, plain, inputs)  # and goes on where there is memory again


@pytest.mark.parametrize("graphs", [False, True])
def test_engine_goes_on_uncompiled(graphs, monkeypatch):
    """With graphs, the thread that records them finds out; no chunk waits for a compiler."""
    threads = []

    def broken(*_: object) -> Tensor:
        threads.append(threading.current_thread())
        raise TypeError("InductorError: no compiler\nis installed")

    model, plain, told = network("n1d6"), network("n1d6"), []
    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    options = EngineOptions(compile=True, pack=False)
    engine = Engine(model, EMBODIMENT, options, recorder=TapeRecorder() if graphs else None, log=told.append)
    for words in (6, 20):
        for _ in range(2):
            same(engine, plain, observation(model, words=words))
            assert engine.wait(60)
    assert told == ["torch.compile: TypeError: InductorError: no compiler; the engine runs uncompiled"]
    assert [thread is threading.main_thread() for thread in threads] == [not graphs]
    assert engine.mode == ("graph" if graphs else "eager")


def test_engine_program_can_be_compiled(monkeypatch):
    """Without a break: dynamo traces the whole of it into one graph, which is run as it is."""
    compile_with = torch.compile

    def traced(function, *, dynamic: bool):
        return compile_with(function, dynamic=dynamic, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", traced)
    model, plain = network("n1d7"), network("n1d7")
    engine = Engine(model, EMBODIMENT, EngineOptions(compile=True, pack=False), log=pytest.fail)
    same(engine, plain, observation(model))
    same(engine, plain, observation(model, seed=1), 1)


# ------------------------------------------------------------------------------------------------------ packed weights


@pytest.mark.skipif(not can_pack(torch.device("cpu"), torch.float32), reason="this torch has no packed products")
def test_engine_packs_large_products_only_and_only_once():
    model = network("n1d7")
    engine = Engine(model, EMBODIMENT)
    inputs = observation(model)
    large = [name for name, holder, at in engine.program.denses() if getattr(holder, at).weight.numel() >= 64 * 1024]
    before = {name: getattr(holder, at).weight.clone() for name, holder, at in engine.program.denses()}
    engine.sample(inputs, noise_for(model))
    packed = {name: getattr(holder, at) for name, holder, at in engine.program.denses()}
    assert [name for name, dense in packed.items() if isinstance(dense, PackedDense)] == large
    for name, dense in packed.items():
        assert isinstance(dense, Dense)
        torch.testing.assert_close(dense.weight, before[name], atol=0, rtol=0)
    engine.sample(inputs, noise_for(model))
    assert all(getattr(holder, at) is packed[name] for name, holder, at in engine.program.denses())
