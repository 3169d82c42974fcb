"""``groot-ros benchmark loader``: samples per second of the training loader, what of it is decoding, and LeRobot's."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from groot_ros.closed_loop.summary import machine_name
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.untrained import statistics
from groot_ros.model.checkpoint import CONFIG_NAME, load_config, write_json
from groot_ros.model.random_networks import default_processor_kwargs, network_config
from groot_ros.policy.random_checkpoint import make_random_checkpoint
from groot_ros.processing.config import PROCESSOR_FILE
from groot_ros.processing.patches import PREPROCESSOR_FILE, PatchLayout
from groot_ros.training.data import TrainingData, build_data
from groot_ros.training.errors import TrainingError
from groot_ros.training.flags import FinetuneFlags
from groot_ros.training.schedule import rank_draws

LEROBOT = Path(__file__).with_name("lerobot_loader.py")


@dataclass(frozen=True)
class Setting:
    """What is measured: DataLoader's workers, samples per batch, samples per figure, and memory for pictures (GB)."""

    workers: Sequence[int]
    batch: int
    samples: int
    cache_gb: float


class RawSamples(Dataset[Any]):
    """Pictures and numbers of a draw without the processor: what LeRobot's loader gives, too."""

    def __init__(self, data: TrainingData) -> None:
        self._samples = data.dataset

    def __getitems__(self, draws: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        return [self[draw] for draw in draws]

    def __getitem__(self, draw: int) -> dict[str, torch.Tensor]:
        raw = self._samples.windows.raw(self._samples.schedule.window(draw))
        found = {f"video.{key}": torch.from_numpy(value) for key, value in raw.video.items()}
        for name, groups in (("state", raw.state), ("action", raw.action)):
            found |= {f"{name}.{key}": torch.from_numpy(value) for key, value in groups.items()}
        return found


def run_loader_benchmark(
    dataset: Path,
    *,
    checkpoint: Path | None,
    generation: str,
    embodiment: str,
    setting: Setting,
    lerobot: Path | None,
    output: Path | None,
    console: Console,
) -> None:
    """Measure, print a table, and write ``output``.

    Args:
        checkpoint: whose processor encodes; None: one with the sizes of the released ones, without weights.
        lerobot: a Python that has lerobot; None: this one, if it has.

    Raises:
        TrainingError, DatasetError, ProcessorError, EmbodimentError: the dataset cannot be trained on.
        OSError: ``output`` cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="groot_ros_") as folder:
        base = checkpoint
        if base is None:
            base = Path(folder) / "checkpoint"
            _write_processor(base, generation, embodiment)
        config = load_config(base)
        flags = FinetuneFlags(
            base_model_path=str(base),
            dataset_path=(str(dataset),),
            embodiment=embodiment,
            frame_cache_gb=setting.cache_gb,
        ).resolved(config.generation)
        with console.status("looking through the dataset"):
            begin = time.perf_counter()
            data = build_data(flags, base, config)
            opened_s = time.perf_counter() - begin
        with console.status("measuring"):
            rows = measure(data, setting)
            horizon = len(data.processor.modality["action"].delta_indices)
            found, why = _lerobot(dataset, horizon, setting, lerobot)
    document = {
        "dataset": str(dataset),
        "generation": config.generation,
        "views": {key: list(size) for key, size in data.dataset.windows.datasets[0].view_sizes.items()},
        "batch": setting.batch,
        "samples": setting.samples,
        "cached": data.summary["cached_frames"],
        "open_s": opened_s,
        "machine": machine_name(),
        **rows,
        "lerobot": found,
    }
    out = Console(highlight=False)
    out.print(_table(document))
    out.print(document["machine"], markup=False)
    if why:
        out.print(f"LeRobot's loader: not measured, {why}", markup=False)
    if output is not None:
        output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        out.print(f"report: {output}", markup=False)


def measure(data: TrainingData, setting: Setting) -> dict[str, Any]:
    """``stages_ms`` of a sample in this process, ``samples`` and ``raw``: workers -> samples per second."""
    raw, threads = RawSamples(data), torch.get_num_threads()
    torch.set_num_threads(1)  # as DataLoader's workers have; without workers, too, so that figures are per core
    try:
        stages = _stages(data, min(setting.samples, 200))
        return {
            "stages_ms": stages,
            "decode_share": stages["decode"] / stages["sample"],
            "rates": {str(n): _rate(data.dataset, data.collate, n, setting) for n in setting.workers},
            "raw_rates": {str(n): _rate(raw, _stacked, n, setting) for n in setting.workers},
        }
    finally:
        torch.set_num_threads(threads)


def _stages(data: TrainingData, count: int) -> dict[str, float]:
    """Processor time per sample without a cache (ms): the whole, of it pictures and numbers, of these decoding."""
    samples = data.dataset
    windows, keys = samples.windows, data.processor.modality["video"].modality_keys
    spent = {"sample": 0.0, "raw": 0.0, "decode": 0.0}
    cache, windows.cache = windows.cache, None
    samples[0]
    for draw in range(1, count + 1):
        number, place, row = samples.schedule.window(draw)
        dataset = windows.datasets[number]
        last = dataset.episodes[place].length - 1
        deltas = data.processor.modality["video"].delta_indices
        rows = [min(max(row + delta, 0), last) for delta in deltas]
        times = [time.process_time()]
        for key in keys:
            dataset.frames(dataset.episodes[place].index, key, rows)
        times.append(time.process_time())
        windows.raw((number, place, row))
        times.append(time.process_time())
        samples[draw]
        times.append(time.process_time())
        for name, first, last_time in zip(("decode", "raw", "sample"), times, times[1:]):
            spent[name] += last_time - first
    windows.cache = cache
    return {name: 1e3 * seconds / count for name, seconds in spent.items()}


def _rate(dataset: Any, collate: Callable[[Any], Any], workers: int, setting: Setting) -> float:
    """Samples per second of a DataLoader, its first batch left out."""
    batches = -(-setting.samples // setting.batch)
    draws = list(islice(rank_draws(0, 0, 1, setting.batch), batches + 1))
    loader = DataLoader(dataset, batch_sampler=draws, collate_fn=collate, num_workers=workers)
    iterator = iter(loader)
    next(iterator)
    begin = time.perf_counter()
    for _ in iterator:
        pass
    return batches * setting.batch / (time.perf_counter() - begin)


def _stacked(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _write_processor(directory: Path, generation: str, embodiment: str) -> None:
    """A random checkpoint whose processor has the released sizes; its weights are of another, and not read."""
    make_random_checkpoint(directory, generation, "tiny", embodiment, 0, Console(quiet=True))
    robot = load_embodiment(embodiment, generation)
    entries = {robot.embodiment_tag: statistics(robot, generation)}
    kwargs = default_processor_kwargs(modality_configs(robot, generation), "full", generation, entries)
    write_json(directory / CONFIG_NAME, network_config(generation, "full", kwargs).to_dict())
    if generation != "n1d5":
        document = json.loads((directory / PROCESSOR_FILE).read_text(encoding="utf-8"))
        write_json(directory / PROCESSOR_FILE, {**document, "processor_kwargs": kwargs})
    if generation == "n1d7":
        write_json(directory / PREPROCESSOR_FILE, PatchLayout().to_dict())


def _lerobot(
    dataset: Path, horizon: int, setting: Setting, python: Path | None
) -> tuple[dict[str, Any] | None, str | None]:
    """What LeRobot's loader gives on the same dataset, or why there is nothing."""
    asked = {
        "root": str(dataset.expanduser().resolve()),
        "horizon": horizon,
        "batch": setting.batch,
        "samples": setting.samples,
    }
    found: dict[str, Any] = {"rates": {}}
    for workers in setting.workers:  # a process each: its open videos do not survive a fork
        # -I: the folder of the script has modules with the names of Python's own.
        command = [str(python or sys.executable), "-I", str(LEROBOT), json.dumps({**asked, "workers": workers})]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            if python is not None:
                raise TrainingError(f"--lerobot: expected a Python with lerobot, found {python}: {error}") from error
            return None, str(error)
        lines = run.stdout.strip().splitlines()
        if run.returncode or not lines:
            last = (run.stderr.strip().splitlines() or ["no message"])[-1]
            return None, f"{command[0]}: {last}. --lerobot PYTHON names a Python that has it"
        answer = json.loads(lines[-1])
        found["loader"], found["rates"][str(workers)] = answer["loader"], answer["rate"]
        if not workers:
            found["cpu_ms"] = answer["cpu_ms"]
    return found, None


def _table(document: dict[str, Any]) -> Table:
    stages = document["stages_ms"]
    title = (
        f"{document['dataset']}, {document['generation']}\n{stages['sample']:.1f} ms of a processor per sample, "
        f"{stages['decode']:.1f} of it decoding ({document['decode_share']:.0%})"
    )
    table = Table(title=title, title_justify="left")
    for name in ("loader", "workers", "samples/s", "per worker", "processor ms"):
        table.add_column(name, justify="left" if name == "loader" else "right")
    found = document["lerobot"]
    for name, rates, cpu_ms in (
        ("groot_ros, samples", document["rates"], stages["sample"]),
        ("groot_ros, raw", document["raw_rates"], stages["raw"]),
        *([(f"{found['loader']}, raw", found["rates"], found.get("cpu_ms"))] if found else []),
    ):
        for workers, rate in rates.items():
            own = f"{cpu_ms:.1f}" if workers == "0" and cpu_ms is not None else ""
            table.add_row(name, workers, f"{rate:.0f}", f"{rate / max(1, int(workers)):.0f}", own)
    return table
