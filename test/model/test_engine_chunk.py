"""What the engine does for each chunk, and what it holds: nothing that need not be."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from engine_rig import EMBODIMENT, GENERATIONS, network, noise_for, observation, recorded, same
from tape import TapeReplay
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groot_ros.model.engine import Engine, EngineOptions
from groot_ros.model.engine import engine as engine_module
from groot_ros.model.engine import packed as packed_module
from groot_ros.model.engine.dense import Dense, fuse, tensors_of
from groot_ros.model.engine.packed import PackedDense, can_pack
from groot_ros.model.engine.static import StaticProgram
from groot_ros.model.guidance import Guidance, cosine_weights


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


def test_engine_allocates_little_around_a_recorded_chunk(monkeypatch):
    """Beside the replay: copies into buffers that are there, and the result."""
    model = network("n1d7")
    engine, inputs, noise = recorded(model), observation(model), noise_for(model)
    guidance = Guidance(noise[0], torch.from_numpy(cosine_weights(noise.shape[1], 1, 8)))
    for _ in range(2):
        engine.sample(inputs, noise, guidance=guidance)
        assert engine.wait(60)
    monkeypatch.setattr(TapeReplay, "__call__", lambda replay: replay.output)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        engine.sample(inputs, noise, guidance=guidance)
    assert engine.mode == "graph"
    allocated = [event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 0]
    assert noise.nbytes <= sum(allocated) < 4 * noise.nbytes


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


GONE = (
    "action_head.action_encoder.W1.W",
    "action_head.state_encoder.layer1.W",
    "action_head.action_decoder.layer2.W",
    "action_head.model.proj_out_1.weight",
    "action_head.model.transformer_blocks.0.norm1.linear.weight",
)
"""Never read."""
COPIED = ("attn1.to_q.weight", "attn1.to_k.weight", "self_attn.v_proj.weight", "mlp.up_proj.weight")
"""Read, unless the engine has copies of them in another order; some of them are fused."""


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("packed", [False, True])
def test_engine_releases_what_it_does_not_read(generation, packed, monkeypatch):
    monkeypatch.setattr(packed_module, "SMALLEST", 1)
    model, plain = network(generation), network(generation)
    inputs = observation(model)
    engine = Engine(model, EMBODIMENT, EngineOptions(pack=packed))
    same(engine, plain, inputs)
    before = _held()
    freed = engine.release()
    assert before - _held() == freed == engine.report().released_bytes > 0
    gone = {name for name, parameter in model.named_parameters() if parameter.numel() == 0}
    assert set(GONE) <= gone
    assert model.unused_parameters() - gone <= {"backbone.model.lm_head.weight"}  # N1.7's is the table of tokens
    copied = {name for name, _ in model.named_parameters() if name.endswith(COPIED) and "vision" not in name}
    assert copied and (copied <= gone if packed else not copied & gone)
    same(engine, plain, inputs)
    same(engine, plain, observation(model, words=9, seed=3), 3)
    with pytest.raises(RuntimeError, match=r"weights are gone.*load the checkpoint again"):
        model.sample(inputs, noise_for(model))
    assert engine.release() == 0


@pytest.mark.parametrize("generation", GENERATIONS)
def test_engine_beside_another_one_fuses_nothing_twice(generation):
    model, plain = network(generation), network(generation)
    first = Engine(model, EMBODIMENT, EngineOptions(pack=False))
    before = _held()
    second = Engine(model, EMBODIMENT, EngineOptions(pack=False))
    own = 2 * sum(tensor.nbytes for tensor in tensors_of(second.program.head.encoder))
    assert _held() - before < own + 4 * sum(tensor.nbytes for tensor in tensors_of(second.program.head.decoder))
    for engine in (first, second):
        same(engine, plain, observation(model))


def test_fused_layers_are_views_of_what_they_became():
    layers = [nn.Linear(3, rows) for rows in (2, 5, 4)]
    weights = [layer.weight.detach().clone() for layer in layers]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    for _ in range(2):
        fused = fuse(*layers)
        torch.testing.assert_close(fused(x), expected)
        for layer, weight in zip(layers, weights, strict=True):
            torch.testing.assert_close(layer.weight, weight, atol=0, rtol=0)
            for own, joined in ((layer.weight, fused.weight), (layer.bias, fused.bias)):
                assert own.untyped_storage().data_ptr() == joined.untyped_storage().data_ptr()
    # Neighbours in another order, or of another tensor, are no fused layers.
    swapped = fuse(*reversed(layers))
    torch.testing.assert_close(swapped.weight, torch.cat(weights[::-1]), atol=0, rtol=0)
    torch.testing.assert_close(fuse(layers[0], layers[2]).weight, torch.cat([weights[0], weights[2]]), atol=0, rtol=0)


def _held() -> int:
    """Bytes of all tensors' memory that Python can reach."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if type(thing) not in (Tensor, nn.Parameter):  # a compiler leaves tensors that have no memory
            continue
        if thing.device.type == "cpu" and not thing.is_mkldnn:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


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
