"""The in-process policy: which robot fits which checkpoint, and what is refused before the first inference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import embodiment_path, load_embodiment
from groot_ros.embodiment.vocabulary import GENERATIONS
from groot_ros.model.config import ConfigError
from groot_ros.observation.types import Observation
from groot_ros.policy.agreement import DisagreementError
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.generation import checkpoint_generation, embodiment_for
from groot_ros.policy.local import LocalPolicy
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.processing.errors import ProcessorError

SIDE = 64
OWN_MODALITY = Path("experiment_cfg") / "modality_config.json"


@pytest.fixture(scope="module")
def robot_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated arm with small images."""
    text = embodiment_path("sim_arm").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("robot") / "small_arm.yaml"
    path.write_text(text.replace("width: 224", f"width: {SIDE}").replace("height: 224", f"height: {SIDE}"))
    return path


class Checkpoints:
    """Generation -> a tiny random checkpoint of a robot, made when asked for. N1.5's is as NVIDIA publishes it: it does
    not say which keys the model takes."""

    def __init__(self, folder: Path, robot_yaml: Path) -> None:
        self._folder, self._robot_yaml = folder, robot_yaml

    def __getitem__(self, generation: str) -> Path:
        path = self._folder / generation
        if not path.exists():
            make_random_checkpoint(path, generation, "tiny", str(self._robot_yaml), 0, Console(quiet=True))
            if generation == "n1d5":
                (path / OWN_MODALITY).unlink()
        return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, robot_yaml: Path) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"), robot_yaml)


def edited(robot_yaml: Path, folder: Path, *edits: tuple[str, str]) -> Path:
    text = robot_yaml.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / "edited.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def look(policy: LocalPolicy, robot_yaml: Path) -> Observation:
    embodiment = load_embodiment(robot_yaml)
    rng = np.random.default_rng(0)
    video = {key: rng.integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8) for key in embodiment.video}
    return Observation(0, video, policy.processor.blank_state(), "pick up the red cube", {}, {})


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_generation_is_read_and_the_same_seed_gives_the_same_chunk(
    checkpoints: Checkpoints, robot_yaml: Path, generation: str
) -> None:
    assert checkpoint_generation(checkpoints[generation]) == generation
    embodiment = embodiment_for(robot_yaml, checkpoints[generation])
    assert embodiment.generation == generation
    policy = LocalPolicy(checkpoints[generation], embodiment, device="cpu")
    first, again, other = (policy.act(look(policy, robot_yaml), seed=seed) for seed in (1, 1, 2))
    for key, values in first.actions.items():
        np.testing.assert_array_equal(values, again.actions[key])
    assert any((values != other.actions[key]).any() for key, values in first.actions.items())


def rest_of(chunk: Chunk, executed: int, frozen: int, *, native: bool = False) -> Prefix:
    """The prefix when ``executed`` rows of a chunk are behind the robot."""
    rows = {key: value[executed:].astype(np.float64) for key, value in chunk.actions.items()}
    length = len(next(iter(rows.values())))
    held = {key: np.concatenate([value, np.repeat(value[-1:], executed, axis=0)]) for key, value in rows.items()}
    return Prefix(held, length, frozen, native)


def moved(observation: Observation, by: float) -> Observation:
    """The robot has gone on since."""
    state = {key: (value + by).astype(np.float32) for key, value in observation.state.items()}
    return replace(observation, state=state)


@pytest.mark.parametrize(("generation", "native"), [*((name, False) for name in GENERATIONS), ("n1d7", True)])
def test_a_chunk_continues_the_one_before_seen_from_a_new_state(
    checkpoints: Checkpoints, robot_yaml: Path, generation: str, native: bool
) -> None:
    """Joints are absolute in N1.5's checkpoint and relative in the others."""
    policy = LocalPolicy(checkpoints[generation], embodiment_for(robot_yaml, checkpoints[generation]), device="cpu")
    assert bool(policy.processor.modality["action"].action_config("single_arm").rep.name == "RELATIVE") is (
        generation != "n1d5"
    )
    first = look(policy, robot_yaml)
    old = policy.act(first, seed=1)
    prefix = rest_of(old, executed=4, frozen=3, native=native)
    later = moved(first, 0.01)
    free, led, again = (policy.act(later, seed=2, prefix=p) for p in (None, prefix, prefix))
    assert (free.frozen, led.frozen) == (0, 3)
    distances = {}
    for name, chunk in (("free", free), ("led", led)):
        errors = [np.abs(chunk.actions[key] - prefix.actions[key])[3:12].mean(axis=0) for key in prefix.actions]
        distances[name] = np.concatenate(errors)
    assert (distances["led"] < distances["free"]).all()
    for key, values in led.actions.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values[:3], prefix.actions[key][:3].astype(np.float32))
        np.testing.assert_array_equal(values, again.actions[key])
        assert (values[3:] != free.actions[key][3:]).any()


@pytest.mark.parametrize("native", [False, True])
def test_the_prefix_is_seen_from_the_new_state(
    checkpoints: Checkpoints, robot_yaml: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    robot = embodiment_for(robot_yaml, checkpoints["n1d7"])
    policy = LocalPolicy(checkpoints["n1d7"], robot, device="cpu", engine=False)
    first = look(policy, robot_yaml)
    prefix = rest_of(policy.act(first, seed=1), executed=4, frozen=3, native=native)
    later, sample, given = moved(first, 0.02), policy.model.sample, {}

    def watched(*arguments: Any, **named: Any) -> torch.Tensor:
        given.update(named)
        return sample(*arguments, **named)

    monkeypatch.setattr(policy.model, "sample", watched)
    policy.act(later, seed=2, prefix=prefix)
    previous = given["rtc"].prev_action[0].numpy() if native else given["guidance"].previous
    known = previous[:12, :6]  # five joints relative to the state, and the gripper
    np.testing.assert_array_equal(known, policy.processor.encode_action(prefix.actions, later.state)[:12])
    assert (known[:, :5] != policy.processor.encode_action(prefix.actions, first.state)[:12, :5]).all()


@pytest.mark.parametrize("generation", ["n1d5", "n1d6"])
def test_in_painting_is_refused_where_no_network_knows_it(
    checkpoints: Checkpoints, robot_yaml: Path, generation: str
) -> None:
    policy = LocalPolicy(checkpoints[generation], embodiment_for(robot_yaml, checkpoints[generation]), device="cpu")
    seen = look(policy, robot_yaml)
    prefix = rest_of(policy.act(seen, seed=1), executed=4, frozen=2, native=True)
    with pytest.raises(ValueError, match=rf"prefix.native: expected a checkpoint of n1d7, .* found {generation}"):
        policy.act(seen, seed=2, prefix=prefix)


def test_a_prefix_of_another_horizon_or_with_nan_is_refused(checkpoints: Checkpoints, robot_yaml: Path) -> None:
    policy = LocalPolicy(checkpoints["n1d7"], embodiment_for(robot_yaml, checkpoints["n1d7"]), device="cpu")
    seen = look(policy, robot_yaml)
    whole = rest_of(policy.act(seen, seed=1), executed=4, frozen=2)
    short = Prefix({key: value[:12] for key, value in whole.actions.items()}, 12, 2)
    with pytest.raises(ProcessorError, match=r"action 'single_arm': .*\[16, 5\].*\[12, 5\]"):
        policy.act(seen, prefix=short)
    whole.actions["gripper"][13] = np.nan  # behind the known rows, but it would spread
    with pytest.raises(ProcessorError, match=r"action 'gripper': .*nan at index \[13, 0\]"):
        policy.act(seen, prefix=whole)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_is_never_read_is_not_held(checkpoints: Checkpoints, robot_yaml: Path, generation: str) -> None:
    policy = LocalPolicy(checkpoints[generation], embodiment_for(robot_yaml, checkpoints[generation]), device="cpu")
    held = {name for name, _ in policy.model.named_parameters()}
    assert not held & {name for name in policy.model.unused_parameters() if name not in policy.model.tied_parameters()}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_references_rounding_can_be_had(checkpoints: Checkpoints, robot_yaml: Path, generation: str) -> None:
    embodiment = embodiment_for(robot_yaml, checkpoints[generation])
    chunks = {}
    for rounded in (False, True):
        policy = LocalPolicy(
            checkpoints[generation], embodiment, device="cpu", dtype="bfloat16", match_reference_bf16=rounded
        )
        assert policy.model.backbone.match_reference_bf16 is rounded
        rounds = rounded and generation != "n1d5"  # N1.5's policy does not round
        assert policy.model.backbone.rope_rounding is (torch.bfloat16 if rounds else None)
        chunks[rounded] = policy.act(look(policy, robot_yaml), seed=0).actions["single_arm"]
        assert np.isfinite(chunks[rounded]).all()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_instruction_longer_than_the_model_takes_is_refused_before_it_is_used(
    checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path, generation: str
) -> None:
    checkpoint = checkpoints[generation]
    policy = LocalPolicy(checkpoint, embodiment_for(robot_yaml, checkpoint), device="cpu")
    policy.check_instruction("pick up the red cube")
    text = "pick it up " * policy.model.max_prompt_tokens
    with pytest.raises(ValueError, match=rf"at most {policy.model.max_prompt_tokens} tokens"):
        policy.check_instruction(text)
    key = "  key: annotation.human.task_description\n"
    path = edited(robot_yaml, tmp_path, (key, f"{key}  default: {text}\n"))
    line = path.read_text().splitlines().index(f"  default: {text}") + 1
    with pytest.raises(EmbodimentError, match=rf"edited.yaml:{line}: language.default: .*tokens"):
        LocalPolicy(checkpoint, embodiment_for(path, checkpoint), device="cpu")


def test_the_robot_for_another_generation_is_refused(checkpoints: Checkpoints, robot_yaml: Path) -> None:
    with pytest.raises(EmbodimentError, match=r"expected the robot for n1d7, which .* is, found it for n1d6"):
        LocalPolicy(checkpoints["n1d7"], load_embodiment(robot_yaml, "n1d6"), device="cpu")


def test_cameras_whose_images_end_up_different_are_refused(
    checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path
) -> None:
    text = robot_yaml.read_text(encoding="utf-8")
    path = tmp_path / "wide.yaml"
    path.write_text(text.replace(f"width: {SIDE}", f"width: {2 * SIDE}", 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"views of one resolution.*64x128.*64x64"):
        LocalPolicy(checkpoints["n1d5"], embodiment_for(path, checkpoints["n1d5"]), device="cpu")
    with pytest.raises(ValueError, match=r"one size after resizing and cropping.*front \d+x\d+, wrist \d+x\d+"):
        LocalPolicy(checkpoints["n1d7"], embodiment_for(path, checkpoints["n1d7"]), device="cpu")
    LocalPolicy(checkpoints["n1d6"], embodiment_for(path, checkpoints["n1d6"]), device="cpu")


def test_the_yaml_decides_which_keys_a_published_n1d5_checkpoint_takes(
    checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path
) -> None:
    checkpoint = checkpoints["n1d5"]
    swapped = edited(
        robot_yaml, tmp_path, ("  front: {camera: front}\n  wrist: {camera: wrist}\n", "  wrist: {camera: wrist}\n")
    )
    swapped.write_text(_without(swapped.read_text(), "  front:\n", "  wrist:\n"), encoding="utf-8")
    policy = LocalPolicy(checkpoint, embodiment_for(swapped, checkpoint), device="cpu")
    assert policy.processor.modality["video"].modality_keys == ("wrist",)
    assert policy.warm_up(1) > 0


def _without(text: str, start: str, end: str) -> str:
    """Text without what stands from ``start`` up to ``end``."""
    begin = text.index(start)
    return text[:begin] + text[text.index(end, begin) :]


# edits of the YAML -> words of the refusal by a published N1.5 checkpoint
N1D5_REFUSALS = {
    "key that was not recorded": (("  gripper:\n", "  claw:\n"), ["state.claw", "metadata.json", "gripper"]),
    "view that was not recorded": (("  wrist: {camera", "  side: {camera"), ["video.side", "metadata.json", "wrist"]),
    "tag": (("embodiment_tag: new_embodiment", "embodiment_tag: gr1"), ["embodiment_tag", "metadata.json", "gr1"]),
}


@pytest.mark.parametrize(("edit", "words"), N1D5_REFUSALS.values(), ids=N1D5_REFUSALS.keys())
def test_what_a_published_n1d5_checkpoint_does_not_have_is_named_with_its_line(
    checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path, edit: tuple[str, str], words: list[str]
) -> None:
    path = edited(robot_yaml, tmp_path, edit, *([(", gripper]\n", ", claw]\n")] if "claw" in edit[1] else []))
    with pytest.raises(EmbodimentError) as caught:
        LocalPolicy(checkpoints["n1d5"], embodiment_for(path, checkpoints["n1d5"]), device="cpu")
    assert all(line.startswith(f"{path}:") for line in caught.value.lines)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_checkpoint_of_something_else_is_named(tmp_path: Path, robot_yaml: Path) -> None:
    with pytest.raises(ValueError, match=r"config.json is missing"):
        checkpoint_generation(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.json: not valid JSON"):
        checkpoint_generation(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.json: model_type is 'llama'"):
        checkpoint_generation(tmp_path)
    with pytest.raises(EmbodimentError, match="nobody"):
        embodiment_for("nobody", tmp_path)


def write_changed(source: Path, folder: Path, file: str, change: Callable[[Any], None]) -> Path:
    """A copy of a checkpoint with one of its JSON files changed."""
    copy = folder / "changed"
    shutil.copytree(source, copy)
    document = json.loads((copy / file).read_text())
    change(document)
    (copy / file).write_text(json.dumps(document))
    return copy


def set_kwarg(name: str, value: int) -> Callable[[Any], None]:
    return lambda document: document["processor_kwargs"].update({name: value})


DISAGREEMENTS = {
    "state size": ("processor_config.json", set_kwarg("max_state_dim", 70), "max_state_dim: expected 64", "found 70"),
    "action size": (
        "processor_config.json",
        set_kwarg("max_action_dim", 70),
        "max_action_dim: expected 64",
        "found 70",
    ),
    "embodiment id": (
        *("embodiment_id.json", lambda ids: ids.update(new_embodiment=32)),
        *("new_embodiment: expected at most 31", "found 32"),
    ),
    "image token": (
        *("config.json", lambda config: config["backbone_config"].update(image_token_id=3, image_token_index=3)),
        *("image token: expected 3", "found 5"),
    ),
    "chunk": (
        *("config.json", lambda config: config.update(action_horizon=12)),
        *("delta_indices (their number): expected at most 12", "found 16"),
    ),
}


@pytest.mark.parametrize("generation", ["n1d6", "n1d7"])
@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_a_processor_of_another_network_is_refused_on_loading(
    checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path, generation: str, case: str
) -> None:
    file, change, *parts = DISAGREEMENTS[case]
    checkpoint = write_changed(checkpoints[generation], tmp_path, file, change)
    with pytest.raises(DisagreementError) as caught:
        LocalPolicy(checkpoint, embodiment_for(robot_yaml, checkpoint), device="cpu")
    for part in (str(checkpoint), *parts):
        assert part in str(caught.value)


def test_a_processor_of_another_generation_is_named(checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(checkpoints["n1d7"], mixed)
    shutil.copy(checkpoints["n1d6"] / "processor_config.json", mixed)
    with pytest.raises(DisagreementError, match=r"processor_config\.json.* is of generation n1d6, .*of n1d7"):
        LocalPolicy(mixed, embodiment_for(robot_yaml, mixed), device="cpu")


def test_statistics_in_another_unit_are_refused(checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path) -> None:
    def degrees(document: Any) -> None:
        group = document["new_embodiment"]["state"]["single_arm"]
        group.update({name: np.degrees(values).tolist() for name, values in group.items()})

    checkpoint = write_changed(checkpoints["n1d7"], tmp_path, "statistics.json", degrees)
    with pytest.raises(EmbodimentError, match=r"state\.single_arm.*another robot or in another unit"):
        LocalPolicy(checkpoint, embodiment_for(robot_yaml, checkpoint), device="cpu")


@pytest.mark.parametrize("generation", ["n1d6", "n1d7"])
def test_a_lerobot_policy_without_processor_files_says_which(
    checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path, generation: str
) -> None:
    base, saved = checkpoints[generation], tmp_path / "pretrained_model"
    shutil.copytree(base, saved)
    (saved / "processor_config.json").unlink()
    (saved / "config.json").write_text(json.dumps({"type": "groot", "base_model_path": str(base)}))
    with pytest.raises(ProcessorError, match=r"processor_config\.json, statistics\.json and .*LeRobot saves no such"):
        LocalPolicy(saved, embodiment_for(robot_yaml, saved), device="cpu")


def test_a_policy_that_lerobot_saved_runs_with_the_base_models_sizes(
    checkpoints: Checkpoints, robot_yaml: Path, tmp_path: Path
) -> None:
    base, saved = checkpoints["n1d5"], tmp_path / "pretrained_model"
    shutil.copytree(base, saved)
    save_file(
        {f"_groot_model.{name}": tensor for name, tensor in load_file(base / "model.safetensors").items()},
        saved / "model.safetensors",
    )
    policy = {
        "type": "groot",
        "base_model_path": str(base),
        "max_state_dim": 64,
        "max_action_dim": 32,
        "chunk_size": 50,
    }
    (saved / "config.json").write_text(json.dumps(policy))
    assert checkpoint_generation(saved) == "n1d5"
    embodiment = embodiment_for(robot_yaml, saved)
    ours, theirs = (LocalPolicy(path, embodiment, device="cpu") for path in (base, saved))
    for key, values in ours.act(look(ours, robot_yaml), seed=3).actions.items():
        np.testing.assert_array_equal(values, theirs.act(look(theirs, robot_yaml), seed=3).actions[key])
    (saved / "experiment_cfg" / "metadata.json").unlink()
    with pytest.raises(ProcessorError, match=r"metadata\.json.*N1\.5.*LeRobot saves no such files"):
        LocalPolicy(saved, embodiment, device="cpu")
