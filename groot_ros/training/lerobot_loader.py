"""Samples per second of LeRobot's own loader, for `groot-ros benchmark loader`.

A program of its own, run by a Python that has lerobot, which this project does not need: it imports nothing of
groot_ros. Usage: ``python lerobot_loader.py '{"root": ..., "horizon": 16, "batch": 32, "samples": 512, "workers":
2}'``; prints one JSON object: ``loader``, ``rate`` (samples per second) and ``cpu_ms`` (of this process, per sample).
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Any


def measure(setting: dict[str, Any]) -> dict[str, Any]:
    """Samples per second, drawn evenly from all rows, with a chunk of actions each."""
    import torch

    for name in ("nms", "qnms"):  # a torchvision with CUDA beside a torch without it asks for these, and uses neither
        with suppress(RuntimeError):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LeRobotDataset = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset

    first = LeRobotDataset("local/benchmark", root=setting["root"])
    chunk = {"action": [step / first.meta.fps for step in range(setting["horizon"])]}
    dataset = LeRobotDataset("local/benchmark", root=setting["root"], delta_timestamps=chunk)
    torch.set_num_threads(1)
    order = torch.randint(len(dataset), (setting["samples"] + setting["batch"],)).tolist()
    batches = iter(
        torch.utils.data.DataLoader(
            dataset, batch_size=setting["batch"], sampler=order, num_workers=setting["workers"], drop_last=True
        )
    )
    next(batches)
    begin, cpu, count = time.perf_counter(), time.process_time(), 0
    for batch in batches:
        count += len(batch["index"])
    rate = count / (time.perf_counter() - begin)
    return {
        "loader": f"lerobot {version('lerobot')}",
        "rate": rate,
        "cpu_ms": 1e3 * (time.process_time() - cpu) / count,
    }


if __name__ == "__main__":
    if importlib.util.find_spec("lerobot") is None:
        sys.exit("it has no lerobot")
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    with tempfile.TemporaryDirectory() as folder:  # a cache of another dataset at the same place would be taken for it
        os.environ["HF_DATASETS_CACHE"] = folder
        print(json.dumps(measure(json.loads(sys.argv[1]))))
