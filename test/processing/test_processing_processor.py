"""The whole processor: the end-to-end reference both ways, histories, files, and everything it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processing_helpers import TableTokenizer, groups

from groot_ros.processing.config import ProcessorFiles
from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.images import ImageTransform
from groot_ros.processing.patches import PatchLayout
from groot_ros.processing.processor import Processor

TAG = "new_embodiment"
IMAGE_PAD = "<|image_pad|>"


def sample_inputs(e2e: dict[str, np.ndarray], index: int, modality: str) -> dict[str, np.ndarray]:
    return groups(e2e, f"in{index}.{modality}.")


@pytest.fixture
def golden_processor(n1d7: Path, e2e: dict[str, np.ndarray], e2e_info: dict[str, Any]) -> Processor:
    special_ids = json.loads((n1d7 / "prompt_tokens.json").read_text())["special_ids"]
    files = ProcessorFiles.read(n1d7 / "processor_dir")
    (tag,) = files.modality_configs
    smallest, largest = e2e_info["qwen_image_size"]
    prompts = list(zip(e2e_info["texts"], e2e["out.input_ids"], e2e["out.attention_mask"], strict=True))
    tokenizer = TableTokenizer(special_ids, IMAGE_PAD, prompts)
    return Processor(files, tag, tokenizer, PatchLayout(smallest, largest))


def test_golden_processor_end_to_end(
    golden_processor: Processor, e2e: dict[str, np.ndarray], e2e_info: dict[str, Any]
) -> None:
    samples = [
        golden_processor.encode(
            sample_inputs(e2e, i, "video"),
            sample_inputs(e2e, i, "state"),
            instruction,
            sample_inputs(e2e, i, "action"),
        )
        for i, instruction in enumerate(e2e_info["langs"])
    ]
    batch = golden_processor.collate(samples)
    names = [key.removeprefix("out.") for key in e2e if key.startswith("out.") and "decoded" not in key]
    assert set(names) == set(batch)
    for name in names:
        result, expected = batch[name].numpy(), e2e[f"out.{name}"]
        # The reference's mask is float64 by accident of its pose code; everything else has the model's types.
        assert result.dtype == (np.float32 if name == "action_mask" else expected.dtype), name
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 if name == "action" else 0, err_msg=name)


def test_golden_decode(golden_processor: Processor, e2e: dict[str, np.ndarray], e2e_info: dict[str, Any]) -> None:
    states = [sample_inputs(e2e, i, "state") for i in range(len(e2e_info["langs"]))]
    state = {key: np.stack([one[key] for one in states]) for key in states[0]}
    decoded = golden_processor.decode(e2e["in.model_action"], state)
    expected = {key.removeprefix("out.decoded."): value for key, value in e2e.items() if "out.decoded." in key}
    assert list(decoded) == list(golden_processor.action_dims)
    assert set(decoded) == set(expected)
    for key, value in decoded.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-6, err_msg=key)


def test_golden_files_are_written_back_as_read(golden_processor: Processor, n1d7: Path, tmp_path: Path) -> None:
    golden_processor.save(tmp_path)
    for path in (n1d7 / "processor_dir").iterdir():
        assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text()), path.name


def observation(seed: int = 0, size: tuple[int, int] = (40, 56)) -> dict[str, Any]:
    """An observation that fits the reference's processor_dir."""
    generator = np.random.default_rng(seed)
    return {
        "video": {key: generator.integers(0, 256, (2, *size, 3), dtype=np.uint8) for key in ("front", "wrist")},
        "state": {
            "eef_9d": np.array([[0.1, 0.2, 0.3, 1, 0, 0, 0, 1, 0]], dtype=np.float32),
            "arm": generator.uniform(-1, 1, (1, 3)).astype(np.float32),
            "gripper": generator.uniform(0, 1, (1, 1)).astype(np.float32),
        },
        "instruction": "Pick up the cube.",
    }


def test_attributes_of_the_contract(checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(checkpoint, "NEW_EMBODIMENT")
    assert processor.embodiment_tag == TAG
    assert processor.embodiment_id == 10
    assert processor.modality["video"].delta_indices == (-15, 0)
    assert processor.state_dims == processor.action_dims == {"eef_9d": 9, "arm": 3, "gripper": 1}
    assert processor.action_horizon == 5
    statistics = json.loads((checkpoint / "statistics.json").read_text())[TAG]
    for section, limits in (("state", processor.state_limits), ("action", processor.action_limits)):
        low, high = limits("arm")
        assert low.tolist() == statistics[section]["arm"]["min"]
        assert high.tolist() == statistics[section]["arm"]["max"]
    assert processor.action_widths == processor.action_dims


def test_images_are_ordered_by_time_then_view(checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    given = observation()
    sample = processor.encode(**given)
    transform = ImageTransform.from_kwargs(
        {"use_albumentations": True, "shortest_image_edge": 32, "crop_fraction": 0.95}, ""
    )
    frames = [given["video"][view][t] for t in range(2) for view in ("front", "wrist")]
    expected = [PatchLayout(1024).patches(transform(frame[None]))[0][0] for frame in frames]
    np.testing.assert_array_equal(sample["pixel_values"], np.concatenate(expected))
    assert sample["image_grid_thw"].shape == (4, 3)


def test_views_of_another_size_and_the_same_shape_keep_the_order(checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    given = observation()
    given["video"]["wrist"] = np.repeat(np.repeat(given["video"]["wrist"], 2, axis=1), 2, axis=2)
    sample = processor.encode(**given)
    grids = sample["image_grid_thw"].tolist()
    assert grids == [grids[0]] * 4
    rows = grids[0][1] * grids[0][2]
    same = processor.encode(**observation())["pixel_values"]
    for image, equal in enumerate((True, False, True, False)):
        part = slice(image * rows, (image + 1) * rows)
        assert np.array_equal(sample["pixel_values"][part], same[part]) is equal


def test_a_state_history_gives_one_row_per_step(checkpoint: Path, edit_json: Callable[..., None]) -> None:
    def history(document: Any) -> None:
        document["processor_kwargs"]["modality_configs"][TAG]["state"]["delta_indices"] = [-2, 0]

    edit_json(checkpoint / "processor_config.json", history)
    processor = Processor.from_checkpoint(checkpoint, TAG)
    first, second = observation(1), observation(2)
    both = dict(first)
    both["state"] = {key: np.concatenate([first["state"][key], second["state"][key]]) for key in first["state"]}
    rows = processor.encode(**both)["state"]
    assert rows.shape == (2, 16)
    assert (rows[:, 13:] == 0).all()
    single = Processor(
        replace(processor._files, modality_configs=_with_delta(processor._files.modality_configs, [0])),
        TAG,
        processor.prompts.tokenizer,
    )
    np.testing.assert_array_equal(rows[1:], single.encode(**second)["state"])


def _with_delta(configs: Any, delta: list[int]) -> Any:
    copied = json.loads(json.dumps(configs))
    copied[TAG]["state"]["delta_indices"] = delta
    return copied


@pytest.mark.parametrize("where", ["processor", "modality"])
def test_an_excluded_state_is_zeros_but_still_the_reference_of_actions(
    checkpoint: Path, edit_json: Callable[..., None], where: str
) -> None:
    def exclude(document: Any) -> None:
        kwargs = document["processor_kwargs"]
        target = kwargs if where == "processor" else kwargs["modality_configs"][TAG]["state"]
        target["exclude_state"] = True

    normal = Processor.from_checkpoint(checkpoint, TAG).encode(**observation(), action=_hold(observation()["state"]))
    edit_json(checkpoint / "processor_config.json", exclude)
    sample = Processor.from_checkpoint(checkpoint, TAG).encode(**observation(), action=_hold(observation()["state"]))
    assert (sample["state"] == 0).all()
    assert (normal["state"] != 0).any()
    np.testing.assert_array_equal(sample["action"], normal["action"])


def _hold(state: dict[str, np.ndarray], steps: int = 5) -> dict[str, np.ndarray]:
    return {key: np.repeat(value[-1:], steps, axis=0) for key, value in state.items()}


def test_the_action_mask_marks_real_steps_and_dimensions(checkpoint: Path) -> None:
    sample = Processor.from_checkpoint(checkpoint, TAG).encode(**observation(), action=_hold(observation()["state"]))
    assert sample["action"].shape == sample["action_mask"].shape == (8, 16)
    assert (sample["action_mask"][:5, :13] == 1).all()
    assert sample["action_mask"].sum() == 5 * 13
    assert (sample["action"][sample["action_mask"] == 0] == 0).all()


def test_decoding_encoded_actions_gives_them_back(checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    given = observation(3)
    # The middle of the relative range is surely inside it.
    middle = np.zeros((1, 8, 16), dtype=np.float32)
    state = {key: value[None] for key, value in given["state"].items()}
    chunk = processor.decode(middle, state)
    sample = processor.encode(**given, action={key: value[0] for key, value in chunk.items()})
    again = processor.decode(sample["action"][None], state)
    for key in chunk:
        np.testing.assert_allclose(again[key], chunk[key], atol=1e-5, err_msg=key)


def test_collate_pads_on_the_left(checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    short, long = observation(), observation()
    short["instruction"], long["instruction"] = "go", "go to the table"
    samples = [processor.encode(**given) for given in (short, long)]
    batch = processor.collate(samples)
    assert {name: value.dtype for name, value in batch.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
        "pixel_values": torch.float32,
        "image_grid_thw": torch.int64,
        "state": torch.float32,
        "embodiment_id": torch.int64,
    }
    missing = len(samples[1]["input_ids"]) - len(samples[0]["input_ids"])
    assert missing == len(" to the table")
    assert batch["attention_mask"][0].tolist() == [0] * missing + [1] * len(samples[0]["input_ids"])
    assert (batch["input_ids"][0, :missing] == processor.prompts.pad_token_id).all()
    assert batch["attention_mask"][1].all()
    assert batch["image_grid_thw"].shape == (8, 3)
    assert batch["state"].shape == (2, 1, 16)
    assert batch["embodiment_id"].tolist() == [10, 10]


@pytest.mark.parametrize("samples", [[], "mixed"])
def test_collate_refuses_what_is_no_batch(checkpoint: Path, samples: Any) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    if samples == "mixed":
        given = observation()
        samples = [processor.encode(**given), processor.encode(**given, action=_hold(given["state"]))]
    with pytest.raises(ProcessorError, match="collate: expected"):
        processor.collate(samples)


def test_the_processor_may_lie_in_a_subfolder(checkpoint: Path) -> None:
    inner = checkpoint / "processor"
    inner.mkdir()
    for name in ("processor_config.json", "statistics.json", "embodiment_id.json", "preprocessor_config.json"):
        (checkpoint / name).rename(inner / name)
    processor = Processor.from_checkpoint(checkpoint, TAG)  # the tokenizer is still in the root
    assert processor.embodiment_id == 10
    assert processor.images.layout.min_pixels == 1024


def test_a_saved_processor_loads_and_does_the_same(checkpoint: Path, tmp_path: Path) -> None:
    first = Processor.from_checkpoint(checkpoint, TAG)
    first.save(tmp_path / "again")
    second = Processor.from_checkpoint(tmp_path / "again", TAG)
    one, two = first.encode(**observation()), second.encode(**observation())
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    second.save(tmp_path / "again")  # onto itself


def test_ids_of_the_checkpoint_win(checkpoint: Path, edit_json: Callable[..., None]) -> None:
    edit_json(checkpoint / "embodiment_id.json", lambda ids: (ids.clear(), ids.update({TAG: 31})))
    assert Processor.from_checkpoint(checkpoint, TAG).embodiment_id == 31
    (checkpoint / "embodiment_id.json").unlink()
    assert Processor.from_checkpoint(checkpoint, TAG).embodiment_id == 10


def test_without_a_tokenizer_the_backbone_is_asked_for_and_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def offline(source: str, **kwargs: object) -> None:
        raise OSError(f"no connection for {source}")

    for path in checkpoint.glob("*token*"):
        path.unlink()
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(ProcessorError) as caught:
        Processor.from_checkpoint(checkpoint, TAG)
    for part in ("nvidia/Cosmos-Reason2-2B", "no connection", "Set the parameter `tokenizer`"):
        assert part in str(caught.value)


def kwargs_edit(**changes: Any) -> Callable[[Any], None]:
    return lambda document: document["processor_kwargs"].update(changes)


@pytest.mark.parametrize(
    ("file", "change", "parts"),
    [
        ("processor_config.json", None, ["processor_config.json", "no such file"]),
        ("statistics.json", None, ["statistics.json", "no such file"]),
        ("statistics.json", "{\n ?", ["statistics.json:2:2", "valid JSON"]),
        ("statistics.json", "[]", ["statistics.json", "a JSON object", "list"]),
        ("embodiment_id.json", '{"new_embodiment": "ten"}', ["embodiment_id.json: new_embodiment", "'ten'"]),
        (
            "processor_config.json",
            lambda document: document.update(processor_class="Gr00tN1d9Processor"),
            ["processor_class", "Gr00tN1d6Processor or Gr00tN1d7Processor", "'Gr00tN1d9Processor'", "N1.5"],
        ),
        ("processor_config.json", lambda document: document.pop("processor_kwargs"), ["processor_kwargs", "none"]),
        ("processor_config.json", kwargs_edit(modality_configs={}), ["modality_configs", "one entry per tag"]),
        ("processor_config.json", kwargs_edit(max_state_dim=None), ["max_state_dim", "positive integer"]),
        ("processor_config.json", kwargs_edit(max_state_dim=12), ["max_state_dim", "at least 13", "found 12"]),
        ("processor_config.json", kwargs_edit(max_action_dim=12), ["max_action_dim", "at least 13"]),
        ("processor_config.json", kwargs_edit(max_action_horizon=4), ["max_action_horizon", "at least 5"]),
        ("processor_config.json", kwargs_edit(use_percentiles="no"), ["use_percentiles", "'no'"]),
        ("statistics.json", lambda statistics: statistics.pop(TAG), ["statistics.json", "'new_embodiment'"]),
        (
            "statistics.json",
            lambda statistics: statistics[TAG]["state"].pop("arm"),
            ["statistics.json: new_embodiment.state", "'arm'"],
        ),
    ],
)
def test_broken_checkpoints_are_named(
    checkpoint: Path, edit_json: Callable[..., None], file: str, change: Any, parts: list[str]
) -> None:
    path = checkpoint / file
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        edit_json(path, change)
    with pytest.raises(ProcessorError) as caught:
        Processor.from_checkpoint(checkpoint, TAG)
    for part in [str(checkpoint), *parts]:
        assert part in str(caught.value)


def test_an_unknown_tag_lists_the_available_ones(checkpoint: Path) -> None:
    with pytest.raises(ProcessorError) as caught:
        Processor.from_checkpoint(checkpoint, "so101")
    for part in ("'so101'", "tags new_embodiment", "processor_config.json"):
        assert part in str(caught.value)


def test_a_tag_without_an_index_is_named(checkpoint: Path, edit_json: Callable[..., None]) -> None:
    def rename(content: Any) -> None:
        configs = content["processor_kwargs"]["modality_configs"]
        configs["my_robot"] = configs.pop(TAG)

    edit_json(checkpoint / "processor_config.json", rename)
    edit_json(checkpoint / "statistics.json", lambda content: content.update(my_robot=content.pop(TAG)))
    with pytest.raises(ProcessorError, match=r"embodiment_id.json: expected a projector index for 'my_robot'"):
        Processor.from_checkpoint(checkpoint, "my_robot")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProcessorError, match="nowhere: expected a checkpoint directory"):
        Processor.from_checkpoint(tmp_path / "nowhere", TAG)


def put(modality: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda given: given[modality].update({key: value})


FRAMES = np.zeros((2, 40, 56, 3), dtype=np.uint8)
NAN_ARM = np.array([[0, np.nan, 0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda given: given["video"].pop("wrist"), ["video:", "missing wrist"]),
        (put("video", "top", FRAMES), ["video:", "unknown top"]),
        (put("video", "wrist", FRAMES.astype(np.float32)), ["video 'wrist'", "uint8", "float32"]),
        (put("video", "wrist", FRAMES[:1]), ["video 'wrist'", "[2, height, width, 3]", "[1, 40, 56, 3]"]),
        (put("video", "wrist", FRAMES[..., :1]), ["video 'wrist'", "[2, 40, 56, 1]"]),
        (put("video", "wrist", FRAMES[:, :0]), ["video 'wrist'", "[2, 0, 56, 3]"]),
        (put("video", "wrist", FRAMES[0]), ["video 'wrist'", "[40, 56, 3]"]),
        (put("video", "wrist", FRAMES.tolist()), ["video 'wrist'", "a uint8 array"]),
        (lambda given: given.update(video=[FRAMES]), ["video:", "a mapping"]),
        (lambda given: given["state"].pop("arm"), ["state:", "missing arm"]),
        (put("state", "arm", np.zeros((1, 4), np.float32)), ["state 'arm'", "[1, 3]", "[1, 4]"]),
        (put("state", "arm", np.zeros((2, 3), np.float32)), ["state 'arm'", "[1, 3]", "[2, 3]"]),
        (put("state", "arm", np.zeros((1, 3), np.int64)), ["state 'arm'", "float32", "int64"]),
        (put("state", "arm", [[0.0, 0.0, 0.0]]), ["state 'arm'", "a float32 array"]),
        (put("state", "arm", NAN_ARM), ["state 'arm'", "finite", "nan at index [0, 1]"]),
        (put("state", "arm", np.full((1, 3), 1e300)), ["state 'arm'", "finite", "1e+300"]),
        (lambda given: given.update(instruction=""), ["instruction", "a text with words"]),
        (lambda given: given.update(action={}), ["action:", "missing eef_9d, arm, gripper"]),
        (
            lambda given: given.update(action=_hold(given["state"], steps=4)),
            ["action 'eef_9d'", "[5, 9]", "[4, 9]"],
        ),
        (
            lambda given: given.update(action={**_hold(given["state"]), "eef_9d": np.zeros((5, 9), np.float32)}),
            ["action:", "a rotation that cannot be decoded"],
        ),
    ],
)
def test_bad_observations_are_named(checkpoint: Path, change: Callable[[Any], Any], parts: list[str]) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    given = observation()
    change(given)
    with pytest.raises(ProcessorError) as caught:
        processor.encode(**given)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("chunk", "state", "parts"),
    [
        (np.zeros((8, 16), np.float32), {}, ["model output", "[any, any, any]", "[8, 16]"]),
        (np.zeros((1, 4, 16), np.float32), {}, ["model output", "at least 5 steps of 13", "4 steps of 16"]),
        (np.zeros((1, 8, 12), np.float32), {}, ["model output", "8 steps of 12", "do not belong together"]),
        (np.full((1, 8, 16), np.nan, np.float32), {}, ["model output", "nan at index [0, 0, 0]"]),
        (np.zeros((1, 8, 16), np.float32), {}, ["state", "'eef_9d'", "found none"]),
        (np.zeros((1, 8, 16), np.float32), None, ["state", "'eef_9d'", "None"]),
        (
            np.zeros((2, 8, 16), np.float32),
            {"eef_9d": np.zeros((1, 1, 9), np.float32)},
            ["state 'eef_9d'", "[2, any, 9]"],
        ),
    ],
)
def test_bad_model_outputs_are_named(checkpoint: Path, chunk: np.ndarray, state: Any, parts: list[str]) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    with pytest.raises(ProcessorError) as caught:
        processor.decode(chunk, state)
    for part in parts:
        assert part in str(caught.value)


def test_decode_refuses_a_state_without_a_rotation(checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    state = {key: np.zeros((1, 1, dim), np.float32) for key, dim in processor.state_dims.items()}
    with pytest.raises(ProcessorError, match="decoded action 'eef_9d': expected finite"):
        processor.decode(np.zeros((1, 8, 16), np.float32), state)


def test_a_blank_state_can_be_encoded_and_decoded(checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    state = processor.blank_state()
    assert state["eef_9d"].tolist() == [[0, 0, 0, 1, 0, 0, 0, 1, 0]]
    assert (state["arm"] == 0).all()
    sample = processor.encode(observation()["video"], state, "warm up")
    assert np.isfinite(sample["state"]).all()
    decoded = processor.decode(np.zeros((1, 8, 16), np.float32), {key: value[None] for key, value in state.items()})
    assert set(decoded) == set(processor.action_dims)


def test_decode_needs_only_the_reference_groups(checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(checkpoint, TAG)
    state = {key: value[None] for key, value in observation()["state"].items() if key != "gripper"}
    decoded = processor.decode(np.zeros((1, 8, 16), np.float32), state)
    assert {key: value.shape for key, value in decoded.items()} == {
        "eef_9d": (1, 5, 9),
        "arm": (1, 5, 3),
        "gripper": (1, 5, 1),
    }
