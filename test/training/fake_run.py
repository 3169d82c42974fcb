"""Small training runs on a golden network and invented samples, in this process or as a program of its own.

As a program: `python fake_run.py FLAGS.json`, with the flags of `FinetuneFlags` and `data_file`; see `write_base`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
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

    def write_processor(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "processor_config.json").write_text("{}", encoding="utf-8")


def run(base: Path, output: Path, *, data: FakeData | None = None, **flags: Any) -> FakeData:
    """`finetune` with invented samples; what it gives must be 0."""
    made = data or FakeData(base.parent / "data.pt", flags.get("noise_draws", 1))
    real = data_module.build_data
    data_module.build_data = lambda *_, **__: made  # type: ignore[assignment]
    chosen = {**COMMON, "base_model_path": str(base), "output_dir": str(output), **flags}
    try:
        code = finetune(FinetuneFlags(**chosen), Console(stderr=True, quiet=True))
    finally:
        data_module.build_data = real
    made.code = code
    return made


if __name__ == "__main__":
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    sys.exit(run(Path(content.pop("base")), Path(content.pop("output")), **content).code)
