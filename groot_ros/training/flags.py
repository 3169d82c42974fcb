"""Flags of `groot-ros finetune`: NVIDIA's names and defaults of each generation, and ours on top. Imports no torch.

The dataclass is the one place: the command line, its help, the table in docs/ and what a run writes down are made of
it. A field that is None takes the default of the base checkpoint's generation, from `REFERENCE`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from typing import Any

from groot_ros.embodiment.vocabulary import GENERATIONS
from groot_ros.training.errors import TrainingError

# NVIDIA's defaults by flag, in the order of GENERATIONS (N1.5, N1.6, N1.7); "-": that generation has no such flag.
# Sources: spec groot_n15_n16.md, 6.2 and 6.3, groot_n17.md, 7.
REFERENCE: dict[str, tuple[Any, Any, Any]] = {
    "base_model_path": ("nvidia/GR00T-N1.5-3B", "required", "required"),
    "dataset_path": ("required", "required", "required"),
    "embodiment_tag": ("new_embodiment", "required", "required"),
    "output_dir": ("a temporary folder", "./outputs", "./outputs"),
    "tune_llm": (False, False, False),
    "tune_visual": (False, False, False),
    "tune_projector": (True, True, True),
    "tune_diffusion_model": (True, True, True),
    "state_dropout_prob": ("-", 0.0, 0.2),
    "random_rotation_angle": ("-", None, None),
    "color_jitter_params": ("-", None, None),
    "global_batch_size": ("-", 64, 64),
    "batch_size": (32, "-", "-"),
    "gradient_accumulation_steps": (1, 1, 1),
    "dataloader_num_workers": (12, 2, 2),
    "learning_rate": (1e-4, 1e-4, 1e-4),
    "weight_decay": (1e-5, 1e-5, 1e-5),
    "warmup_ratio": (0.05, 0.05, 0.05),
    "adam_beta1": (0.95, 0.9, 0.9),
    "adam_beta2": (0.999, 0.999, 0.999),
    "max_steps": (10000, 10000, 10000),
    "save_steps": (1000, 1000, 1000),
    "save_total_limit": (5, 5, 5),
    "save_only_model": ("-", "-", False),
    "resume_from_checkpoint": (False, "always", False),
    "num_gpus": (1, 1, 1),
    "lora_rank": (0, "-", "-"),
    "lora_alpha": (16, "-", "-"),
    "lora_dropout": (0.1, "-", "-"),
    "lora_full_model": (False, "-", "-"),
    "shard_size": ("-", 1024, 1024),
    "episode_sampling_rate": ("-", 0.1, 0.1),
    "tune_vlln": ("-", True, True),
    "tune_top_llm_layers": ("-", 4, 0),
    "gradient_checkpointing": (False, False, False),
    "override_pretraining_statistics": ("-", False, True),
    "allow_padding": ("-", False, False),
    "optim": ("adamw_torch", "adamw_torch", "adamw_torch"),
    "lr_scheduler_type": ("cosine", "cosine", "cosine"),
    "max_grad_norm": (1.0, 1.0, 1.0),
    "seed": (42, 42, 42),
    "bf16": (True, True, True),
    "deepspeed": ("-", "zero2 on several GPUs", "zero2 on several GPUs"),
    "use_wandb": (True, False, False),
    "wandb_project": ("-", "-", "finetune-gr00t-n1d7"),
}
# Ours, for a field that is None, in the same order.
_DEFAULTS: dict[str, tuple[Any, Any, Any]] = {
    "global_batch_size": (None, 64, 64),
    "batch_size": (32, None, None),
    "state_dropout_prob": (0.0, 0.0, 0.2),
    "dataloader_num_workers": (2, 2, 2),
    "adam_beta1": REFERENCE["adam_beta1"],
}
# The first flag of each part of the help, and the part's name.
PANELS = {
    "base_model_path": "Input and output",
    "tune_llm": "What is trained",
    "state_dropout_prob": "Objective and samples",
    "global_batch_size": "Run",
    "dataloader_num_workers": "Data loading",
    "save_steps": "Checkpoints and logs",
    "num_gpus": "Machine",
}
# What a resumed run must have as it was, or it would be another run.
_SAME_ON_RESUME = (
    *("base_model_path", "dataset_path", "embodiment", "embodiment_tag", "tune_llm", "tune_visual", "tune_projector"),
    *("tune_diffusion_model", "tune_vlln", "tune_top_llm_layers", "lora_rank", "lora_alpha", "lora_dropout"),
    *("lora_full_model", "state_dropout_prob", "random_rotation_angle", "color_jitter_params", "global_batch_size"),
    *(
        "gradient_accumulation_steps",
        "learning_rate",
        "weight_decay",
        "warmup_ratio",
        "adam_beta1",
        "adam_beta2",
        "optim",
    ),
    *(
        "lr_scheduler_type",
        "max_grad_norm",
        "max_steps",
        "seed",
        "noise_draws",
        "augment",
        "shard_size",
        "allow_padding",
    ),
    *("episode_sampling_rate", "dataset_weights", "override_pretraining_statistics", "embodiment_id"),
)


def _flag(default: Any, text: str, *names: str) -> Any:
    """A field with its help; `names` are further spellings on the command line."""
    return field(default=default, metadata={"help": text, "names": names})


@dataclass(frozen=True)
class FinetuneFlags:
    """What `groot-ros finetune` was asked for. None: the default of the checkpoint's generation."""

    base_model_path: str = _flag("", "Checkpoint to start from: a directory, or a hub id.")
    dataset_path: tuple[str, ...] = _flag((), "LeRobot v2.x or v3.0 dataset; several: repeat, or join with ':'.")
    embodiment: str = _flag("", "Robot: a name in config/embodiments, or a YAML file. It gives tag and keys.", "-e")
    embodiment_tag: str = _flag("", "Tag to train; default: the YAML's.")
    embodiment_id: int | None = _flag(None, "Projector of a tag that is new to the checkpoint; default: a free one.")
    output_dir: str = _flag("./outputs", "New folder for the run.")
    # What is trained.
    tune_llm: bool = _flag(False, "Train the language model.")
    tune_visual: bool = _flag(False, "Train the vision tower and its connector.")
    tune_projector: bool = _flag(True, "Train state and action encoders, action decoder, positions.")
    tune_diffusion_model: bool = _flag(True, "Train the diffusion transformer.")
    tune_vlln: bool | None = _flag(
        None, "Train norm and self-attention over the features (N1.6, N1.7); default: yes, always in N1.5."
    )
    tune_top_llm_layers: int | None = _flag(
        None, "Train the last N language layers in any case; default: config.json's, else 4 (N1.6) or 0."
    )
    lora_rank: int = _flag(0, "Rank of low-rank adapters in place of training whole layers; 0: none.")
    lora_alpha: int = _flag(16, "Scale of the adapters: alpha / rank.")
    lora_dropout: float = _flag(0.1, "Dropout before the adapters.")
    lora_full_model: bool = _flag(False, "Adapters in the backbone too, not only in the action head.")
    gradient_checkpointing: bool = _flag(False, "Compute activations again in the backward pass: less memory.")
    # The objective and its samples.
    state_dropout_prob: float | None = _flag(
        None,
        "Chance that a sample's state is hidden from the model. N1.7 draws twice, as NVIDIA's: in its processor and in "
        "the network (0.2: 36 % of the samples).",
    )
    noise_draws: int = _flag(1, "Noise draws per observation; the backbone runs once for all of them.")
    random_rotation_angle: int | None = _flag(None, "Largest random turn of the images (degrees).")
    color_jitter_params: tuple[str, ...] = _flag(
        (), "Jitter of colours as name=value: brightness, contrast, saturation, hue; repeat. Default: the checkpoint's."
    )
    augment: bool = _flag(True, "Random crops and colours of the images, as the checkpoint's processor says.")
    allow_padding: bool = _flag(False, "Use windows that reach beyond an episode's end, too (N1.6, N1.7).")
    override_pretraining_statistics: bool | None = _flag(
        None, "Replace statistics that the checkpoint has for the tag; default: N1.5 and N1.7 yes, N1.6 no."
    )
    dataset_weights: tuple[float, ...] = _flag((), "Share of each dataset in the mixture; repeat, one per dataset.")
    shard_size: int = _flag(1024, "Windows per shard; a shard's frames are decoded together.")
    episode_sampling_rate: float = _flag(0.1, "Share of an episode's windows that goes into one shard.")
    # The run.
    global_batch_size: int | None = _flag(
        None, "Samples per forward pass over all GPUs, before accumulation (N1.6, N1.7)."
    )
    batch_size: int | None = _flag(None, "Samples per forward pass of one GPU (N1.5), in place of --global-batch-size.")
    gradient_accumulation_steps: int = _flag(1, "Forward passes per optimizer step.")
    max_steps: int = _flag(10000, "Optimizer steps.")
    learning_rate: float = _flag(1e-4, "Peak learning rate.")
    lr_scheduler_type: str = _flag("cosine", "Learning rate over time, as transformers names it.")
    warmup_ratio: float = _flag(0.05, "Share of the steps in which the learning rate rises.")
    weight_decay: float = _flag(1e-5, "Weight decay; none on biases and norms.")
    optim: str = _flag("adamw_torch", "Optimizer, as transformers names it.")
    adam_beta1: float | None = _flag(None, "First beta of AdamW.")
    adam_beta2: float = _flag(0.999, "Second beta of AdamW.")
    max_grad_norm: float = _flag(1.0, "Gradients are clipped to this norm.")
    seed: int = _flag(42, "Seed of samples, noise and dropout.")
    bf16: bool | None = _flag(None, "Autocast to bfloat16; weights that are trained stay float32. Default: on a GPU.")
    # Data loading.
    dataloader_num_workers: int | None = _flag(None, "Processes per GPU that decode; 0: the training process itself.")
    frame_cache_gb: float = _flag(2.0, "Memory for decoded frames, over all workers of one process (GB).")
    # Output.
    save_steps: int = _flag(1000, "A checkpoint every so many steps, and one at the end.")
    save_total_limit: int = _flag(5, "Checkpoints kept.")
    save_only_model: bool = _flag(False, "Leave out the optimizer: smaller checkpoints, which cannot be resumed.")
    resume_from_checkpoint: bool = _flag(False, "Continue the run in --output-dir at its last checkpoint.", "--resume")
    logging_steps: int = _flag(10, "Loss, gradient norm and learning rate are logged every so many steps.")
    use_wandb: bool = _flag(False, "Log to Weights & Biases too (needs the package wandb).")
    wandb_project: str = _flag("finetune-groot", "Project of --use-wandb.")
    # Machine.
    num_gpus: int = _flag(1, "Processes on this machine: as many, through torchrun. On a CPU: gloo.")
    deepspeed: str = _flag("", "DeepSpeed: zero2, zero3 (config/training), or a JSON file.")
    device: str = _flag("auto", "auto, cuda or cpu.")
    torch_threads: int = _flag(0, "Threads of torch on a CPU; 0: torch's own choice.")
    tokenizer: str = _flag("", "Folder or hub id of the backbone's tokenizer; default: the checkpoint's own.")

    def resolved(self, generation: str) -> FinetuneFlags:
        """The same with every default of `generation` filled in and checked.

        Raises:
            TrainingError: a value out of range; it names the flag.
        """
        index = GENERATIONS.index(generation)
        batches = (self.global_batch_size, self.batch_size)
        if None not in batches:
            raise TrainingError(
                f"--batch-size is {self.batch_size}, per GPU, and --global-batch-size {self.global_batch_size}, over "
                "all of them: give one"
            )
        filled = {name: values[index] for name, values in _DEFAULTS.items() if getattr(self, name) is None}
        if any(batches):  # the one that was given, without the default of the other
            filled = {name: value for name, value in filled.items() if name not in ("global_batch_size", "batch_size")}
        paths = tuple(part for path in self.dataset_path for part in path.split(os.pathsep) if part)
        flags = dataclasses.replace(self, **{**filled, "dataset_path": paths})
        flags._check()
        return flags

    def _check(self) -> None:
        if not self.dataset_path:
            raise TrainingError("--dataset-path: expected at least one dataset, found none")
        ranges: dict[str, tuple[float, float]] = {
            **dict.fromkeys(("max_steps", "save_steps", "save_total_limit", "gradient_accumulation_steps"), (1, 1e12)),
            **dict.fromkeys(("noise_draws", "shard_size", "logging_steps", "num_gpus"), (1, 1e9)),
            **dict.fromkeys(("lora_rank", "dataloader_num_workers", "torch_threads", "tune_top_llm_layers"), (0, 1e6)),
            **dict.fromkeys(("global_batch_size", "batch_size", "lora_alpha"), (1, 1e9)),
            **dict.fromkeys(
                ("state_dropout_prob", "lora_dropout", "warmup_ratio", "adam_beta1", "adam_beta2"), (0.0, 1.0)
            ),
            **dict.fromkeys(("weight_decay", "frame_cache_gb", "max_grad_norm"), (0.0, 1e9)),
            **{"learning_rate": (1e-12, 100.0), "episode_sampling_rate": (1e-6, 1.0), "seed": (0, 2**32 - 1)},
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise TrainingError(f"{option(name)} is {value}, expected {low:g} to {high:g}")
        if self.save_only_model and self.resume_from_checkpoint:
            raise TrainingError(
                "--resume-from-checkpoint with --save-only-model: such checkpoints hold no optimizer; leave one out"
            )
        if self.dataset_weights and len(self.dataset_weights) != len(self.dataset_path):
            raise TrainingError(
                f"--dataset-weights: expected {len(self.dataset_path)}, one per dataset, found "
                f"{len(self.dataset_weights)}"
            )
        self.color_jitter()

    def color_jitter(self) -> dict[str, float] | None:
        """`color_jitter_params` as a mapping; None: not given.

        Raises:
            TrainingError: not name=value, or an unknown name.
        """
        found: dict[str, float] = {}
        for text in self.color_jitter_params:
            name, _, number = text.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if name not in ("brightness", "contrast", "saturation", "hue") or not 0 <= value <= 1:
                raise TrainingError(
                    f"--color-jitter-params: {text!r}, expected brightness, contrast, saturation or hue, '=' and a "
                    "number from 0 to 1"
                )
            found[name] = value
        return found or None

    def micro_batch(self, processes: int) -> int:
        """Samples per forward pass of one process.

        Raises:
            TrainingError: the processes do not divide the global batch.
        """
        if self.batch_size is not None:
            return self.batch_size
        if self.global_batch_size is None or self.global_batch_size % processes:
            raise TrainingError(
                f"--global-batch-size is {self.global_batch_size}, expected a multiple of the {processes} processes"
            )
        return self.global_batch_size // processes

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON and YAML."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def changed_since(self, before: dict[str, Any]) -> list[str]:
        """Flags that make another run than the one that wrote `before` (`to_dict` of its flags), with both values."""
        now = self.to_dict()
        return [
            f"{option(name)} was {before[name]!r}, is {now[name]!r}"
            for name in _SAME_ON_RESUME
            if name in before and before[name] != now[name]
        ]


def option(name: str) -> str:
    """A field's spelling on the command line."""
    return f"--{name.replace('_', '-')}"


def reference_text(name: str) -> str:
    """NVIDIA's default of a flag in words: `64`, or per generation where they differ; empty where none has the flag."""
    values = REFERENCE.get(name)
    if values is None:
        return ""
    known = {generation: value for generation, value in zip(("N1.5", "N1.6", "N1.7"), values) if value != "-"}
    shown = {generation: _word(value) for generation, value in known.items()}
    if len(set(shown.values())) == 1:
        only = "" if len(known) == 3 else f" ({', '.join(known)})"
        return next(iter(shown.values())) + only
    return ", ".join(f"{generation} {text}" for generation, text in shown.items())


def own_text(name: str) -> str:
    """Our default of a flag in words, per generation where they differ."""
    default = {f.name: f.default for f in dataclasses.fields(FinetuneFlags)}[name]
    if name in _DEFAULTS:
        shown = [_word(value) for value in _DEFAULTS[name]]
        if len(set(shown)) == 1:
            return shown[0]
        return ", ".join(f"{generation} {text}" for generation, text in zip(("N1.5", "N1.6", "N1.7"), shown))
    return _word(default)


def markdown_table() -> str:
    """Every flag with our default and NVIDIA's, for docs/finetuning.md."""
    lines = []
    for flag in dataclasses.fields(FinetuneFlags):
        if flag.name in PANELS:
            lines += [f"| **{PANELS[flag.name]}** | | | |"]
        names = ", ".join(f"`{name}`" for name in (option(flag.name), *flag.metadata["names"]))
        lines.append(
            f"| {names} | {own_text(flag.name)} | {reference_text(flag.name) or '-'} | {flag.metadata['help']} |"
        )
    return "\n".join(["| flag | here | NVIDIA | meaning |", "|---|---|---|---|", *lines])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ((), ""):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
