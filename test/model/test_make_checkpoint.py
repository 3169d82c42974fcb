"""Random checkpoints: complete, reproducible, of moderate output; and their tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from groot_ros.model.checkpoint import load_config, load_model, save_model
from groot_ros.model.config import ModelConfig
from groot_ros.model.groot import GrootModel
from groot_ros.model.make_checkpoint import make_checkpoint, random_tensor
from groot_ros.model.random_networks import GENERATIONS, default_processor_kwargs, network_config
from groot_ros.model.tokenizer import SPECIAL_TOKENS, build_tokenizer, special_ids, write_tokenizer
from groot_ros.processing.generations import EAGLE_TOKEN_IDS
from groot_ros.processing.processor import Processor
from groot_ros.processing.tags import EMBODIMENT_IDS

RELEASED = Path(__file__).parent / "released"
PROMPT = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>pick up the red cube<|im_end|>\n"


NUMBERS = {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 0.5, "q01": -0.9, "q99": 0.9}


def modality(steps=8, history=1):
    def keys(indices, names):
        return {"delta_indices": indices, "modality_keys": names}

    return {
        "video": keys([0], ["front", "wrist"]),
        "state": keys(list(range(1 - history, 1)), ["arm"]),
        "action": keys(list(range(steps)), ["arm"]),
        "language": keys([0], ["task"]),
    }


def write(directory, seed=0, generation="n1d7", **changes):
    arguments = {
        "generation": generation,
        "size": "tiny",
        "processor_kwargs": default_processor_kwargs({"new_embodiment": modality()}, "tiny", generation),
        "statistics": {"new_embodiment": {}},
        "seed": seed,
    }
    make_checkpoint(directory, **{**arguments, **changes})
    return directory


@pytest.fixture(scope="module", params=GENERATIONS)
def tiny(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("tiny"), generation=request.param)


def tiny_inputs(directory, batch=1):
    """Random inputs with one image of 6 x 6 (Qwen, Eagle 2) or 4 x 4 (Eagle 2.5) patches per row."""
    model = load_model(directory)
    config, generation = model.config, model.config.generation
    patches, values, tokens = {"n1d7": (6, 1536, 9), "n1d6": (6, 588, 9), "n1d5": (4, 588, 16)}[generation]
    token = "<|image_pad|>" if generation == "n1d7" else "<IMG_CONTEXT>"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(PROMPT.replace("<|image_pad|>", token * tokens), return_tensors="pt")["input_ids"]
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": ids.expand(batch, -1),
        "attention_mask": torch.ones_like(ids).expand(batch, -1),
        "pixel_values": torch.rand(batch * patches**2, values, generator=generator) * 2 - 1,
        "image_grid_thw": torch.tensor([[1, patches, patches]] * batch),
        "state": torch.rand(batch, 1, config.max_state_dim, generator=generator) * 2 - 1,
        "embodiment_id": torch.full((batch,), 10),
    }


FILES = {
    "n1d7": {"embodiment_id.json", "preprocessor_config.json", "processor_config.json", "statistics.json"},
    "n1d6": {"embodiment_id.json", "processor_config.json", "statistics.json"},
    "n1d5": {"experiment_cfg", "experiment_cfg/metadata.json", "experiment_cfg/modality_config.json"},
}


def test_directory_is_complete(tiny):
    generation = load_config(tiny).generation
    assert {str(p.relative_to(tiny)) for p in tiny.rglob("*")} == FILES[generation] | {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }


def test_config_ids_are_the_tokenizers(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = load_config(tiny)
    backbone = json.loads((tiny / "config.json").read_text())["backbone_config"]
    qwen = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    expected = qwen if config.generation == "n1d7" else {"image_token_index": "<IMG_CONTEXT>"}
    for key, token in expected.items():
        assert backbone[key] == tokenizer.convert_tokens_to_ids(token)
    assert max(tokenizer.get_vocab().values()) < backbone["text_config"]["vocab_size"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_full_network_is_the_released_one(generation):
    kwargs = default_processor_kwargs({"new_embodiment": modality()}, "full", generation)
    made = network_config(generation, "full", kwargs).to_dict()
    released = json.loads((RELEASED / f"{generation}.json").read_text(encoding="utf-8"))
    # What the released files say about training, or repeat from the processor, is not the network's.
    assert "backbone_config" not in made
    differing = {key for key in made.keys() & released.keys() if made[key] != released[key]}
    assert differing <= {"action_head_cfg", "tune_llm", "tune_visual", "use_relative_action"}
    if generation == "n1d5":
        head = made["action_head_cfg"]
        assert {key: head[key] for key in released["action_head_cfg"]} == released["action_head_cfg"]
        assert made["backbone_cfg"] == released["backbone_cfg"]
    again = {**made, **released}
    with torch.device("meta"):
        shapes = [
            {name: tensor.shape for name, tensor in GrootModel(ModelConfig.from_dict(values)).state_dict().items()}
            for values in (made, again)
        ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_tiny_grows_to_the_robot(generation):
    statistics = {"new_embodiment": {"state": {"arm": {"min": [0.0] * 82}}, "action": {"arm": {"min": [0.0] * 40}}}}
    kwargs = default_processor_kwargs({"new_embodiment": modality(steps=30)}, "tiny", generation, statistics)
    assert (kwargs["max_state_dim"], kwargs["max_action_dim"], kwargs["max_action_horizon"]) == (164, 80, 30)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_tag_without_an_id_gets_a_free_one(tmp_path, generation):
    kwargs = default_processor_kwargs({"my_robot": modality(), "new_embodiment": modality()}, "tiny", generation)
    write(tmp_path, generation=generation, processor_kwargs=kwargs, statistics={"my_robot": {}})
    ids = json.loads((tmp_path / "embodiment_id.json").read_text())
    taken = set(EMBODIMENT_IDS[generation].values())
    assert ids["my_robot"] == min(set(range(32)) - taken)
    assert ("new_embodiment" in ids) is (generation != "n1d5")


def test_config_follows_the_processor(tmp_path):
    shares: list[float] = []
    kwargs = default_processor_kwargs({"new_embodiment": modality(history=2, steps=20)}, "tiny")
    statistics = {"new_embodiment": {"state": {"arm": {"min": [0.5]}}}}
    write(
        tmp_path,
        processor_kwargs=kwargs,
        statistics=statistics,
        embodiment_ids={"new_embodiment": 3},
        progress=shares.append,
    )
    config = load_model(tmp_path).config
    assert (config.state_history_length, config.action_horizon) == (2, 20)
    assert (config.max_state_dim, config.max_action_dim) == (kwargs["max_state_dim"], kwargs["max_action_dim"])
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert json.loads((tmp_path / "statistics.json").read_text()) == statistics
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_kwargs"] == kwargs
    ids = json.loads((tmp_path / "embodiment_id.json").read_text())
    assert (ids["new_embodiment"], ids["libero_sim"]) == (3, 2)


def test_actions_are_finite_and_moderate(tiny):
    model = load_model(tiny)
    inputs = tiny_inputs(tiny)
    for steps in (1, 4, 16):
        actions = model.sample(inputs, num_steps=steps, generator=torch.Generator().manual_seed(1))
        assert actions.isfinite().all()
        assert actions.abs().max() < 10


@pytest.mark.parametrize("key", ["pixel_values", "input_ids", "state", "embodiment_id"])
def test_every_input_matters(tiny, key):
    model = load_model(tiny)
    inputs = tiny_inputs(tiny)
    change = {
        "pixel_values": lambda x: -x,
        "input_ids": lambda x: torch.where(x < 400, (x + 7) % 400, x),
        "state": lambda x: -x,
        "embodiment_id": lambda x: x + 1,
    }
    noise = torch.zeros(1, model.config.action_horizon, model.config.max_action_dim)
    before = model.sample(inputs, noise)
    after = model.sample({**inputs, key: change[key](inputs[key])}, noise)
    assert (after - before).abs().max() > 1e-3


def test_seed_decides_the_weights(tiny, tmp_path):
    generation = load_config(tiny).generation
    expected = load_file(tiny / "model.safetensors")
    same = load_file(write(tmp_path / "same", generation=generation) / "model.safetensors")
    other = load_file(write(tmp_path / "other", seed=1, generation=generation) / "model.safetensors")
    assert all(torch.equal(expected[name], same[name]) for name in expected)
    assert not any(torch.equal(expected[name], other[name]) for name in expected)


def test_made_loaded_saved_and_loaded_again_are_equal(tiny, tmp_path):
    model = load_model(tiny)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    expected, found = model.state_dict(), again.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    made = load_file(tiny / "model.safetensors")
    assert made.keys() == load_file(tmp_path / "model.safetensors").keys() == expected.keys()


def test_random_tensor_does_not_depend_on_the_shape_of_others():
    first = random_tensor("a.weight", (4, 3), seed=0)
    assert torch.equal(first, random_tensor("a.weight", (4, 3), seed=0))
    assert not torch.equal(first, random_tensor("b.weight", (4, 3), seed=0))


def test_full_processor_has_the_released_values():
    kwargs = default_processor_kwargs({"new_embodiment": modality()}, "full")
    released = {
        "shortest_image_edge": 256,
        "crop_fraction": 0.95,
        "image_crop_size": [230, 230],
        "image_target_size": [256, 256],
        "max_state_dim": 132,
        "max_action_dim": 132,
        "max_action_horizon": 40,
        "use_percentiles": True,
        "model_name": "nvidia/Cosmos-Reason2-2B",
    }
    assert {key: kwargs[key] for key in released} == released


SMALL = {
    "new_embodiment": {
        name: {"arm": {kind: [value] * 3 for kind, value in NUMBERS.items()}} for name in ("state", "action")
    }
}
OTHER_ROBOT = default_processor_kwargs({"other_robot": modality()}, "tiny")
BAD_ARGUMENTS = {
    "generation": ({"generation": "n1d4"}, "generation is 'n1d4'"),
    "size": ({"size": "medium"}, "size is 'medium'"),
    "size of another generation": ({"size": "demo", "generation": "n1d6"}, "demo is n1d7's only; take size tiny"),
    "history of N1.6": (
        {
            "generation": "n1d6",
            "processor_kwargs": default_processor_kwargs({"a": modality(history=2)}, "tiny", "n1d6"),
        },
        "2 delta_indices; n1d6 takes 1",
    ),
    "no free id": (
        {"embodiment_ids": {f"robot{i}": i for i in range(32)}, "processor_kwargs": OTHER_ROBOT},
        "other_robot has no projector index, and all 32 are taken",
    ),
    "histories": (
        {
            "processor_kwargs": default_processor_kwargs(
                {
                    "a": modality(),
                    "b": modality(history=2),
                },
                "tiny",
            )
        },
        "state delta_indices differ",
    ),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_before_writing(tmp_path, case):
    changes, message = BAD_ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_chunk_longer_than_the_full_network_is_refused():
    with pytest.raises(ValueError, match="long_robot has 50"):
        default_processor_kwargs({"long_robot": modality(steps=50)}, "full")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    kwargs = default_processor_kwargs({"new_embodiment": modality()}, "demo", statistics=SMALL)
    return write(tmp_path_factory.mktemp("demo"), size="demo", processor_kwargs=kwargs, statistics=SMALL)


def test_demo_is_a_complete_checkpoint(demo):
    """Its processor's pictures are what its tower takes, with one place of the position table per patch, uncropped."""
    assert {path.name for path in demo.iterdir()} == FILES["n1d7"] | {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    processor, model = Processor.from_checkpoint(demo, "new_embodiment"), load_model(demo)
    frames = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    sample = processor.encode({"front": frames, "wrist": frames}, {"arm": np.zeros((1, 3), np.float32)}, "reach it")
    assert sample["image_grid_thw"].tolist() == [[1, 8, 8]] * 2
    assert len(model.backbone.visual.pos_embed.weight) == 64
    assert model.sample(processor.collate([sample])).shape == (1, 16, 8)
    edge = frames.copy()
    edge[:, :2] = 255 - edge[:, :2]  # a crop would leave this out
    other = processor.encode({"front": edge, "wrist": frames}, {"arm": np.zeros((1, 3), np.float32)}, "reach it")
    assert not np.array_equal(sample["pixel_values"], other["pixel_values"])


def test_colours_are_words_of_the_tokenizer(demo):
    """What tells two tasks apart is one token in the same place."""
    tokenizer = AutoTokenizer.from_pretrained(demo)
    red, blue = (tokenizer(f"reach the {colour} cube")["input_ids"] for colour in ("red", "blue"))
    assert len(red) == len(blue) and sum(a != b for a, b in zip(red, blue, strict=True)) == 1


def test_demo_starts_with_places_that_are_near_where_they_are_near(demo):
    model = load_model(demo)
    table = model.backbone.visual.pos_embed.weight.detach()
    places = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), dim=-1).flatten(0, 1)
    between, apart = torch.cdist(places, places), torch.cdist(table, table)
    assert apart[between == 1].max() < apart[between > 4].min()
    steps = model.action_head.position_embedding.weight.detach()[:16]
    assert (steps[1:] - steps[:-1]).norm(dim=1).max() < (steps[8:] - steps[:-8]).norm(dim=1).min()


def test_demo_learns(demo):
    """From its start a few steps towards one sample's actions take most of the loss away."""
    model = load_model(demo).train()
    generator = torch.Generator().manual_seed(0)
    action = torch.rand(1, 16, 8, generator=generator) * 2 - 1
    tokenizer = AutoTokenizer.from_pretrained(demo)
    ids = tokenizer(PROMPT.replace("<|image_pad|>", "<|image_pad|>" * 16), return_tensors="pt")["input_ids"]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.rand(64, 384, generator=generator) * 2 - 1,
        "image_grid_thw": torch.tensor([[1, 8, 8]]),
        "state": torch.zeros(1, 1, 8),
        "embodiment_id": torch.tensor([10]),
        "action": action,
        "action_mask": torch.ones(1, 16, 8),
    }
    noise, t = torch.randn(1, 4, 16, 8, generator=generator), torch.tensor([[0.1, 0.3, 0.6, 0.9]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss = model.loss(inputs, noise, t).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("first", [496, 151643])
def test_tokenizer_round_trip_and_special_ids(tmp_path, first):
    write_tokenizer(tmp_path, first)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(first, first + len(SPECIAL_TOKENS)))
    assert tokenizer.convert_tokens_to_ids(list(EAGLE_TOKEN_IDS)) == list(range(first + 26, first + 29))
    assert tokenizer.pad_token_id == first and tokenizer.padding_side == "left"
    for text in (PROMPT, "把红色方块放到碗里", "café №5: 50% done\t  ", "a🙂b"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    special = [i - first for i in ids if i >= first]
    assert [SPECIAL_TOKENS[i] for i in special] == [
        *("<|im_start|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|im_end|>"),
    ]


def test_special_ids_are_qwens():
    ids = special_ids(151643)
    assert (ids["<|endoftext|>"], ids["<|im_end|>"], ids["<|image_pad|>"]) == (151643, 151645, 151655)
    assert [ids[token] for token in EAGLE_TOKEN_IDS] == [151669, 151670, 151671]


def test_tokenizer_refuses_colliding_ids():
    with pytest.raises(ValueError, match="100"):
        build_tokenizer(100)
