"""Small training runs on a golden network and invented samples, in this process or as a program of its own.

As a program: `python fake_run.py RUNS.json`, a list of runs, one after the other: the flags of each, `base`, `output`,
and `lethal`, which draw makes which signal, and whether the whole process `group` gets it, twice.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from rich.console import Console

import groot_ros.training.data as data_module
from groot_ros.training.flags import FinetuneFlags
from groot_ros.training.run import finetune

TEST_DIR = Path(__file__).resolve().parent.parent
COMMON = {"dataset_path": ("nowhere",), "device": "cpu", "dataloader_num_workers": 0, "logging_steps": 1}


def model_conftest() -> Any:
    """The golden sets as the tests of the networks read them."""
    name = "model_tests_conftest"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TEST_DIR / "model" / "conftest.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def write_base(golden: Any, directory: Path, **changes: Any) -> Path:
    """A base checkpoint on a golden network, and beside it `data.pt`: its first sample without padding."""
    base = directory / "base"
    base.mkdir(parents=True)
    model_conftest().as_checkpoint(golden.path, base, **changes)
    inputs = golden.alone(golden.inputs, 0)
    mask = golden.inputs["action_mask"][:1]
    torch.save({**inputs, "action": golden.inputs["action"][:1], "action_mask": mask}, directory / "data.pt")
    return base


def without_dropout(base: Path, directory: Path) -> Path:
    """The same base checkpoint, whose network drops nothing."""
    copy = directory / "base"
    copy.mkdir(parents=True)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for section in ("diffusion_model_cfg", "vl_self_attention_cfg"):
        config[section]["dropout"] = 0.0
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (copy / "model.safetensors").symlink_to((base / "model.safetensors").resolve())
    (directory / "data.pt").symlink_to(base.parent / "data.pt")
    return copy


def assert_same_curve(left: Path, right: Path) -> None:
    """Losses and gradient norms of two runs, which AdamW and clipping do not hide the scale of, agree to 1e-4."""
    curves = []
    for output in (left, right):
        history = json.loads((output / "training.json").read_text(encoding="utf-8"))["history"]
        curves.append([[entry["loss"], entry["grad_norm"]] for entry in history if "loss" in entry])
    assert len(curves[0]) == len(curves[1]) > 0
    torch.testing.assert_close(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=1e-4, atol=1e-6)


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Weights of two runs agree to 1e-5.

    Biases of keys move a softmax's arguments together, so their gradients are rounding, which Adam makes large.
    """
    assert left.keys() == right.keys()
    for name, value in left.items():
        if not name.endswith("to_k.bias"):
            difference = (right[name] - value).abs().max().item()
            assert difference <= 1e-5, f"{name}: {difference}"


class FakeData:
    """What `build_data` gives, with images and words that never change, and state, action and noise by the draw."""

    def __init__(self, file: Path, draws: int = 1) -> None:
        self.inputs = torch.load(file)
        self.draws = draws
        self.seen: list[int] = []
        self.dataset = self
        self.summary = {"windows": 40, "embodiment_tag": "new_embodiment"}
        self.statistics = {"new_embodiment": {}}
        self.notices = ["samples are invented"]

    def __len__(self) -> int:
        return 40

    def __getitem__(self, draw: int) -> dict[str, torch.Tensor]:
        self.seen.append(draw)
        generator = torch.Generator().manual_seed(draw)
        shape = self.inputs["action"].shape[1:]
        noise = torch.randn((self.draws, *shape), generator=generator)
        t = torch.rand(self.draws, generator=generator) * 0.999
        return {
            "state": torch.randn(self.inputs["state"].shape[1:], generator=generator),
            "action": torch.randn(shape, generator=generator),
            "noise": noise if self.draws > 1 else noise[0],
            "t": t if self.draws > 1 else t[0],
        }

    def collate(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        for name, value in self.inputs.items():
            if name not in batch:
                batch[name] = value.repeat(len(samples), *[1] * (value.ndim - 1))
        return batch

    def check_prompts(self, max_tokens: int) -> None:
        assert max_tokens > self.inputs["input_ids"].shape[1]

    def write_processor(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "processor_config.json").write_text("{}", encoding="utf-8")


def run(base: Path, output: Path, *, data: FakeData | None = None, **flags: Any) -> FakeData:
    """`finetune` with invented samples; what it gives must be 0."""
    made = data or FakeData(base.parent / "data.pt", flags.get("noise_draws", 1))
    # accelerate keeps the precision of the run before, for the whole process.
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    AcceleratorState._reset_state(reset_partial_state=True)
    real = data_module.build_data
    data_module.build_data = lambda *_, **__: made  # type: ignore[assignment]
    chosen = {**COMMON, "base_model_path": str(base), "output_dir": str(output), **flags}
    try:
        code = finetune(FinetuneFlags(**chosen), Console(stderr=True, quiet=True))
    finally:
        data_module.build_data = real
    made.code = code
    return made


class Lethal(FakeData):
    """A process that gets a signal when it makes a draw."""

    def __init__(self, file: Path, draw: int, number: int, *, group: bool = False) -> None:
        super().__init__(file)
        self._draw, self._number, self._group = draw, number, group

    def __getitem__(self, draw: int) -> dict[str, torch.Tensor]:
        if draw == self._draw:
            if self._group:
                for _ in range(2):  # Slurm's and torchrun's
                    os.killpg(os.getpgid(0), self._number)
            else:
                os.kill(os.getpid(), self._number)
        return super().__getitem__(draw)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for content in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        start, end, lethal = Path(content.pop("base")), Path(content.pop("output")), content.pop("lethal", None)
        given = Lethal(start.parent / "data.pt", lethal.pop("draw"), lethal.pop("signal"), **lethal) if lethal else None
        print("code", run(start, end, data=given, **content).code, flush=True)
