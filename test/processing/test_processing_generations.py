"""The processors of N1.5 and N1.6: what they take and give, what they keep, what they check early."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processing_helpers import held, observation

from groot_ros.processing.errors import ProcessorError
from groot_ros.processing.images import ImageTransform
from groot_ros.processing.patches import EagleLayout
from groot_ros.processing.processor import Processor

TAG = {"n1d5": "new_embodiment", "n1d6": "libero_panda"}
METADATA = "experiment_cfg/metadata.json"
MODALITY = "experiment_cfg/modality_config.json"


def test_each_generation_is_recognised_by_its_files(folders: dict[str, Path]) -> None:
    for generation, folder in folders.items():
        processor = Processor.from_checkpoint(folder, "NEW_EMBODIMENT" if generation != "n1d6" else "LIBERO_PANDA")
        assert processor.generation == generation
        expected = {"n1d5": 31, "n1d6": 2, "n1d7": 10}[generation]
        assert processor.embodiment_id == expected


def test_shapes_of_n1d5(n1d5_checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    given = observation(processor)
    sample = processor.encode(**given, action=held(processor, given["state"]))
    assert sample["pixel_values"].shape == (2 * 16, 588)
    assert sample["image_grid_thw"].tolist() == [[1, 4, 4]] * 2
    assert sample["state"].shape == sample["state_mask"].shape == (1, 12)
    # arm 2, the quaternion as 6 numbers, gripper 1
    assert sample["state_mask"].sum() == 9
    assert sample["action"].shape == sample["action_mask"].shape == (4, 10)
    assert sample["action_mask"].dtype == np.bool_
    assert sample["action_mask"].sum() == 3 * 9
    assert (sample["input_ids"] == processor.prompts.image_token_id).sum() == 2 * 16
    assert processor.state_dims == {"arm": 2, "turn": 4, "gripper": 1}
    batch = processor.collate([sample, sample])
    assert batch["state_mask"].shape == (2, 1, 12)
    low, high = processor.state_limits("arm")
    assert [low.tolist(), high.tolist()] == [[-2, 0], [2, 4]]


def test_shapes_of_n1d6(n1d6_checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(n1d6_checkpoint, TAG["n1d6"])
    sample = processor.encode(**observation(processor))
    # 64 x 64 pixels come to 56 x 56: 4 x 4 patches, 2 x 2 tokens.
    assert sample["pixel_values"].shape == (2 * 16, 588)
    assert sample["image_grid_thw"].tolist() == [[1, 4, 4]] * 2
    assert (sample["input_ids"] == processor.prompts.image_token_id).sum() == 2 * 4
    assert sample["state"].shape == (1, 128)
    assert "state_mask" not in sample
    assert processor.action_horizon == 16


def test_n1d5_decodes_what_it_encodes(n1d5_checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    given = observation(processor)
    action = held(processor, given["state"])
    action["turn"] /= np.linalg.norm(action["turn"], axis=-1, keepdims=True)
    action["gripper"] = np.array([[0.0], [1.0], [1.0]], dtype=np.float32)
    sample = processor.encode(**given, action=action)
    decoded = processor.decode(sample["action"][None], {})
    for key, value in decoded.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value[0], action[key], atol=1e-6, err_msg=key)


def test_n1d5_does_not_limit_what_the_model_says(n1d5_checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    chunk = np.zeros((1, 4, 10), dtype=np.float32)
    chunk[..., :2] = 2
    chunk[..., 2:8] = [1, 0, 0, 0, 1, 0]
    decoded = processor.decode(chunk, {})
    assert decoded["arm"][0].tolist() == [[4, 6]] * 3
    np.testing.assert_allclose(decoded["turn"][0], [[1, 0, 0, 0]] * 3, atol=1e-6)


def test_n1d5_cuts_a_state_that_is_wider_than_the_network(n1d5_checkpoint: Path, edit_json: Any) -> None:
    full = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    edit_json(n1d5_checkpoint / "config.json", lambda config: config["action_head_cfg"].update(max_state_dim=5))
    processor = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    given = observation(processor)
    sample = processor.encode(**given)
    np.testing.assert_array_equal(sample["state"], full.encode(**given)["state"][:, :5])
    assert sample["state_mask"].all()


def test_without_descriptions_n1d5_has_the_released_sizes(n1d5_checkpoint: Path) -> None:
    (n1d5_checkpoint / "config.json").write_text("{}")
    processor = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    sizes = processor.max_state_dim, processor.max_action_dim, processor.max_action_horizon
    assert sizes == (64, 32, 16)
    assert processor.encode(**observation(processor))["image_grid_thw"].tolist() == [[1, 16, 16]] * 2


def test_metadata_may_lie_in_the_root(n1d5_checkpoint: Path) -> None:
    (n1d5_checkpoint / METADATA).rename(n1d5_checkpoint / "metadata.json")
    assert Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"]).embodiment_id == 31


def test_the_policy_says_the_instruction_as_a_list_and_training_plainly(n1d5_checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    plain = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"], reference_prompt=False)
    given = observation(processor)
    action = held(processor, given["state"])
    given["instruction"] = "Don't drop it!"

    def text(sample: dict[str, Any]) -> str:
        return processor.prompts.tokenizer.decode(sample["input_ids"]).split("</img>")[-1]

    end = "<|im_end|>\n<|im_start|>assistant\n"
    assert text(processor.encode(**given)) == '["Don\'t drop it!"]' + end
    assert text(processor.encode(**given, action=action)) == "Don't drop it!" + end
    assert text(plain.encode(**given)) == "Don't drop it!" + end


def test_n1d6_pads_to_a_square_unless_the_file_says_otherwise(n1d6_checkpoint: Path, edit_json: Any) -> None:
    settings = {"use_albumentations": True, "shortest_image_edge": 64, "crop_fraction": 0.95}
    results = []
    for letter_box in (None, True, False):
        if letter_box is not None:
            kwargs = {"letter_box_transform": letter_box}
            edit_json(
                n1d6_checkpoint / "processor_config.json",
                lambda document, kwargs=kwargs: document["processor_kwargs"].update(kwargs),
            )
        processor = Processor.from_checkpoint(n1d6_checkpoint, TAG["n1d6"])
        given = observation(processor, size=(48, 96))
        transform = ImageTransform.from_kwargs({**settings, "letter_box_transform": letter_box is not False}, "")
        patches, grid = EagleLayout().patches(transform(given["video"]["image"]))
        sample = processor.encode(**given)
        assert sample["image_grid_thw"][0].tolist() == list(grid)
        np.testing.assert_array_equal(sample["pixel_values"][: grid[1] * grid[2]], patches[0])
        results.append(grid)
    assert results[0] == results[1] == (1, 4, 4)
    assert results[2][2] > results[2][1]


def test_a_given_modality_takes_the_place_of_the_files(folders: dict[str, Path]) -> None:
    for generation, tag in TAG.items():
        first = Processor.from_checkpoint(folders[generation], tag)
        modality = {name: config.to_dict() for name, config in first.modality.items()}
        modality["action"]["delta_indices"] = [0, 1]
        second = Processor.from_checkpoint(folders[generation], tag.upper(), modality=modality)
        assert (first.action_horizon, second.action_horizon) != (2, 2)
        assert second.action_horizon == 2


def test_a_saved_processor_keeps_the_given_modality(folders: dict[str, Path], tmp_path: Path) -> None:
    for generation, tag in TAG.items():
        first = Processor.from_checkpoint(folders[generation], tag)
        modality = {name: config.to_dict() for name, config in first.modality.items()}
        modality["action"]["delta_indices"] = [0, 1]
        target = tmp_path / f"{generation}_again"
        Processor.from_checkpoint(folders[generation], tag, modality=modality).save(target)
        if generation == "n1d5":  # the network's own file, which the model writes
            (target / "config.json").write_text((folders[generation] / "config.json").read_text())
        again = Processor.from_checkpoint(target, tag)
        assert again.action_horizon == 2
        given = observation(first)
        one, two = first.encode(**given), again.encode(**given)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_ids_may_be_given_to_n1d5_and_are_kept(n1d5_checkpoint: Path, edit_json: Any, tmp_path: Path) -> None:
    (n1d5_checkpoint / "embodiment_id.json").write_text(json.dumps({"my_robot": 7}))
    for name in (METADATA, MODALITY):
        edit_json(n1d5_checkpoint / name, lambda content: content.update(my_robot=content.pop("new_embodiment")))
    processor = Processor.from_checkpoint(n1d5_checkpoint, "my_robot")
    assert processor.embodiment_id == 7
    processor.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "embodiment_id.json").read_text()) == {"my_robot": 7}


@pytest.mark.parametrize("size", [(64, 64), (96, 96)])
def test_views_are_checked_before_the_first_observation(folders: dict[str, Path], size: tuple[int, int]) -> None:
    for generation, folder in folders.items():
        processor = Processor.from_checkpoint(folder, TAG.get(generation, "new_embodiment"))
        front, wrist = processor.modality["video"].modality_keys
        processor.check_views({front: (48, 64), wrist: (48, 64)})
        sizes = {front: (48, 64), wrist: size}
        given = observation(processor)
        steps = {key: len(frames) for key, frames in given["video"].items()}
        given["video"] = {key: np.zeros((steps[key], *sizes[key], 3), np.uint8) for key in sizes}
        if generation == "n1d6":  # black bars make any size a square
            processor.check_views(sizes)
            assert len(processor.encode(**given)["pixel_values"]) > 0
            continue
        for check in (lambda: processor.check_views(sizes), lambda: processor.encode(**given)):  # noqa: B023
            with pytest.raises(
                ProcessorError, match=r"views .*one (resolution|size).*found front \d+x\d+, wrist \d+x\d+"
            ):
                check()


@pytest.mark.parametrize(
    ("size", "resolution", "refused"),
    [
        ((96, 128), [64, 48], False),
        ((480, 640), [64, 48], False),
        ((480, 639), [64, 48], False),
        ((64, 64), [64, 48], True),
        ((48, 64), [48, 64], True),  # width first, as NVIDIA writes it
        ((48, 64), "64x48", True),
    ],
)
def test_n1d5_takes_the_aspect_ratio_of_its_training(
    folders: dict[str, Path], tmp_path: Path, size: tuple[int, int], resolution: Any, refused: bool
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders["n1d5"], folder)
    path = folder / METADATA
    document = json.loads(path.read_text())
    (entry,) = document.values()
    for about in entry["modalities"]["video"].values():
        about["resolution"] = resolution
    path.write_text(json.dumps(document))
    processor = Processor.from_checkpoint(folder, TAG["n1d5"])
    sizes = dict.fromkeys(processor.modality["video"].modality_keys, size)
    if not refused:
        processor.check_views(sizes)
        return
    with pytest.raises(ProcessorError, match=r"metadata\.json: .*\.modalities\.video\.front\.resolution"):
        processor.check_views(sizes)


def test_views_of_one_shape_may_have_different_sizes(folders: dict[str, Path]) -> None:
    processor = Processor.from_checkpoint(folders["n1d7"], "new_embodiment")
    front, wrist = processor.modality["video"].modality_keys
    processor.check_views({front: (48, 64), wrist: (96, 128)})


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ({"image": (48, 64)}, ["video", "missing wrist_image"]),
        ({"image": (48, 64), "wrist_image": (48, 64), "top": (1, 1)}, ["video", "unknown top"]),
        ({"image": (48, 64), "wrist_image": (48, 0)}, ["video 'wrist_image'", "(height, width)", "(48, 0)"]),
        ({"image": (48, 64), "wrist_image": (48, 64, 3)}, ["video 'wrist_image'", "(48, 64, 3)"]),
        ({"image": (48, 64), "wrist_image": (48.0, 64)}, ["video 'wrist_image'", "(48.0, 64)"]),
        ([(48, 64)], ["video", "a mapping"]),
    ],
)
def test_refused_views_are_named(n1d6_checkpoint: Path, sizes: Any, parts: list[str]) -> None:
    with pytest.raises(ProcessorError) as caught:
        Processor.from_checkpoint(n1d6_checkpoint, TAG["n1d6"]).check_views(sizes)
    for part in parts:
        assert part in str(caught.value)


def test_an_instruction_is_counted_with_its_images(folders: dict[str, Path]) -> None:
    for generation, folder in folders.items():
        processor = Processor.from_checkpoint(folder, TAG.get(generation, "new_embodiment"))
        size = (48, 64) if generation == "n1d5" else (40, 100)
        processor.check_views(dict.fromkeys(processor.modality["video"].modality_keys, size))
        sample = processor.encode(**observation(processor, size=size))
        count = processor.check_instruction("Pick up the cube.", 10_000)
        assert count == len(sample["input_ids"]) == processor.check_instruction("Pick up the cube.", count)
        with pytest.raises(ProcessorError) as caught:
            processor.check_instruction("Pick up the cube.", count - 1)
        for part in ("instruction", f"at most {count - 1} tokens", f"{count} tokens", "Pick up the cube."):
            assert part in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", "!?", None])
def test_an_instruction_without_words_is_refused_early(folders: dict[str, Path], text: Any) -> None:
    for generation, tag in TAG.items():
        processor = Processor.from_checkpoint(folders[generation], tag)
        with pytest.raises(ProcessorError, match="instruction: expected"):
            processor.check_instruction(text, 10_000)


def test_settings_that_an_n1d6_file_lacks_are_those_of_nvidias_constructor(
    n1d6_checkpoint: Path, edit_json: Any
) -> None:
    def strip(document: Any) -> None:
        kept = ("modality_configs", "shortest_image_edge", "use_albumentations")
        document["processor_kwargs"] = {name: document["processor_kwargs"][name] for name in kept}

    edit_json(n1d6_checkpoint / "processor_config.json", strip)
    processor = Processor.from_checkpoint(n1d6_checkpoint, TAG["n1d6"])
    assert (processor.max_state_dim, processor.max_action_dim, processor.max_action_horizon) == (29, 29, 40)


def test_a_state_without_a_rotation_is_refused(n1d5_checkpoint: Path) -> None:
    processor = Processor.from_checkpoint(n1d5_checkpoint, TAG["n1d5"])
    given = observation(processor)
    given["state"]["turn"] = np.zeros((1, 4), np.float32)
    with pytest.raises(ProcessorError, match="state: expected numbers with a valid rotation"):
        processor.encode(**given)
    chunk = np.zeros((1, 4, 10), np.float32)  # two rows of zeros are no rotation either
    with pytest.raises(ProcessorError, match="decoded action 'turn': expected finite"):
        processor.decode(chunk, {})
    with pytest.raises(ProcessorError, match="at least 3 steps of 9 numbers"):
        processor.decode(chunk[..., :8], {})


def test_a_blank_state_can_be_encoded_by_every_generation(folders: dict[str, Path]) -> None:
    for generation, folder in folders.items():
        processor = Processor.from_checkpoint(folder, TAG.get(generation, "new_embodiment"))
        sample = processor.encode(observation(processor)["video"], processor.blank_state(), "warm up")
        assert np.isfinite(sample["state"]).all()


def test_without_a_tokenizer_qwens_is_asked_for(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def offline(source: str, **kwargs: object) -> None:
        raise OSError(f"no connection for {source}")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    for generation, tag in TAG.items():
        for path in folders[generation].glob("*token*"):
            path.unlink()
        with pytest.raises(ProcessorError, match=r"no connection for Qwen/Qwen3-1\.7B"):
            Processor.from_checkpoint(folders[generation], tag)
