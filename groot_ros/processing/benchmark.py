"""What an observation costs before the network sees it: `python -m groot_ros.processing.benchmark`.

Needs torch, transformers, safetensors, NumPy, OpenCV and, for N1.6, Pillow, but no network: the processor is that of a
released checkpoint in its sizes and settings, with a tokenizer and statistics made here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from groot_ros.model.benchmark.robots import Scene
    from groot_ros.model.benchmark.tables import Table
    from groot_ros.model.benchmark.timing import Stopwatch
    from groot_ros.processing.processor import Processor

GENERATIONS = ("n1d5", "n1d6", "n1d7")
SIZES = ((480, 640), (256, 256))
STAGES = ("transform", "patches", "prompt", "state", "collate")
_DEVICE_STAGES = {"transform": "upload", "patches": "pixels"}  # what stands in their columns for the device path
_INSTRUCTION = "pick up the red cube and put it into the box"
# Observations that a run goes through, so that none is in a cache as it would not be on a robot.
_SCENES = 4
_EXAMPLE = (
    "python -m groot_ros.processing.benchmark --generation n1d7 --cameras 1,2 --threads 1,2 --output pictures.json"
)

Report = Callable[[str, float], None]


@dataclass(frozen=True)
class PreprocessRow:
    """The times of one setting.

    Attributes:
        generation, cameras, size: what is processed; size is (height, width) of every camera's frames.
        path: "cpu", what `Processor.encode` does, or "device", raw frames to the device and pixels made there.
        device: of the device path.
        threads: of torch, and with them of the views.
        patches: rows of pixel_values.
        stages_ms: stage -> runs, mean, p50, p95, p99, min, max of the wall time. cpu: transform, patches, prompt (as
            later ones: from the cache), state, collate; device: upload (raw frames into one piece, and over) and
            pixels in place of the first two. `total` is all of it as one call, measured by itself.
        cpu_ms: the same numbers for the processor time of `total`, of all threads.
    """

    generation: str
    cameras: int
    size: tuple[int, int]
    path: str
    device: str | None
    threads: int
    patches: int
    stages_ms: Mapping[str, Mapping[str, float]]
    cpu_ms: Mapping[str, float]


def measure_preprocess(
    generations: Sequence[str] = GENERATIONS,
    cameras: Sequence[int] = (1, 2, 3),
    sizes: Sequence[tuple[int, int]] = SIZES,
    repeats: int = 50,
    *,
    threads: Sequence[int] = (1, 2),
    devices: Sequence[str] = (),
    warmup: int = 5,
    seed: int = 0,
    tell: Report | None = None,
) -> list[PreprocessRow]:
    """Measures the CPU path with every number of threads, and the device path on every device named.

    Args:
        sizes: (height, width) of the cameras' frames.
        repeats: measured runs; the stages and the whole take turns.
        warmup: runs before, not measured.
        tell: called with what is next and the share that is done.

    Raises:
        ValueError: nothing to measure, a number below 1, an unknown generation, a device that is not there, or n1d6
            without Pillow, whose resizing is what is measured.
    """
    for name, numbers in (("cameras", cameras), ("threads", threads), ("repeats", [repeats])):
        if not numbers or min(numbers) < 1:
            raise ValueError(f"{name}: expected numbers from 1 on, found {list(numbers)}")
    for generation in generations:
        if generation not in GENERATIONS:
            raise ValueError(f"generation: expected one of {', '.join(GENERATIONS)}, found {generation!r}")
    from groot_ros.model.benchmark.options import find_device
    from groot_ros.model.benchmark.timing import threads as torch_threads
    from groot_ros.processing.patches import has_pillow

    if "n1d6" in generations and not has_pillow():
        raise ValueError(
            "n1d6: its pictures are measured with Pillow's resizing, which is not there: pip install pillow"
        )
    found = [find_device(name) for name in devices]
    settings = [(g, size, count) for g in generations for size in sizes for count in cameras]
    rows: list[PreprocessRow] = []
    for number, (generation, size, count) in enumerate(settings):
        if tell is not None:
            tell(f"{generation}, {count} x {size[1]}x{size[0]}", number / len(settings))
        processor, scenes = _subject(generation, size, count, seed)
        plans: list[tuple[torch.device | None, int]] = [(None, n) for n in threads]
        plans += [(device, min(threads)) for device in found]
        for device, used in plans:
            with torch_threads(used):
                rows.append(_row(generation, size, processor, scenes, device, used, repeats, warmup))
    if tell is not None:
        tell("done", 1.0)
    return rows


def preprocess_report(
    rows: Sequence[PreprocessRow], *, devices: Sequence[str], repeats: int, warmup: int
) -> dict[str, Any]:
    """What was measured, as it is written to a file: benchmark, format, host, settings, results.

    The host's `torch_threads` is null: each row has its own.
    """
    from groot_ros.model.benchmark.host import describe_host
    from groot_ros.model.benchmark.options import find_device

    host = describe_host(next(map(find_device, devices), find_device("cpu")))
    return {
        "benchmark": "preprocess",
        "format": 1,
        "host": host | {"torch_threads": None},
        "settings": {"repeats": repeats, "warmup": warmup},
        "results": [asdict(row) for row in rows],
    }


def preprocess_table(rows: Sequence[PreprocessRow]) -> Table:
    """Milliseconds of wall time, p50, of the total also p95, p99 and the processor time."""
    from groot_ros.model.benchmark.tables import Table

    columns = ("", "upload/transform", "pixels/patches", *STAGES[2:], "total", "p95", "p99", "CPU")
    table = Table("observation to model inputs, milliseconds, p50", columns)
    for row in rows:
        where = f"{row.threads} thread{'s' if row.threads > 1 else ''}" if row.device is None else row.device
        name = f"{row.generation}, {row.cameras} x {row.size[1]}x{row.size[0]}, {where}"
        total = row.stages_ms["total"]
        stages = [row.stages_ms.get(_DEVICE_STAGES.get(s, s) if row.device is not None else s) for s in STAGES]
        cells = ["-" if stage is None else f"{stage['p50']:.2f}" for stage in stages]
        table.rows.append(
            (name, *cells, *(f"{total[p]:.2f}" for p in ("p50", "p95", "p99")), f"{row.cpu_ms['p50']:.2f}")
        )
    return table


def _subject(generation: str, size: tuple[int, int], cameras: int, seed: int) -> tuple[Processor, Sequence[Scene]]:
    from groot_ros.model.benchmark.robots import plain_robot, random_processor, random_scenes

    robot = plain_robot(generation, cameras, size)
    processor, _ = random_processor(robot, generation, "full")
    return processor, random_scenes(processor, robot.views, _INSTRUCTION, _SCENES, seed)


def _row(
    generation: str,
    size: tuple[int, int],
    processor: Processor,
    scenes: Sequence[Scene],
    device: torch.device | None,
    threads: int,
    repeats: int,
    warmup: int,
) -> PreprocessRow:
    import torch

    from groot_ros.model.benchmark.timing import Stopwatch, spread

    watch = Stopwatch(torch.device("cpu") if device is None else device)
    observe = _CpuPath(processor) if device is None else _DevicePath(processor, size, device, watch)
    walls: dict[str, list[float]] = {}
    spent: list[float] = []
    for run in range(warmup + repeats):
        scene = scenes[run % len(scenes)]
        begin = time.process_time()
        _, whole = watch.wall(lambda scene=scene: observe.whole(scene))  # type: ignore[misc]
        used = time.process_time() - begin
        stages = observe.stages(scene, watch)
        if run >= warmup:
            spent.append(used)
            for name, seconds in {**stages, "total": whole}.items():
                walls.setdefault(name, []).append(seconds)
    grids = processor.images.grids(dict.fromkeys(scenes[0].video, size))
    return PreprocessRow(
        generation=generation,
        cameras=len(scenes[0].video),
        size=size,
        path="cpu" if device is None else "device",
        device=None if device is None else str(device),
        threads=threads,
        patches=sum(t * h * w for t, h, w in grids),
        stages_ms={name: spread(seconds) for name, seconds in walls.items()},
        cpu_ms=spread(spent),
    )


class _CpuPath:
    """`Processor.encode` and `collate`, and their parts."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def whole(self, scene: Scene) -> dict[str, torch.Tensor]:
        return self._processor.collate([self._processor.encode(scene.video, scene.state, scene.instruction)])

    def stages(self, scene: Scene, watch: Stopwatch) -> dict[str, float]:
        processor, images = self._processor, self._processor.images
        views, transformed = watch.wall(lambda: images.transformed(scene.video))
        (_, grids), cut = watch.wall(lambda: images.cut(views))
        sample = processor.encode(scene.video, scene.state, scene.instruction)
        return {
            "transform": transformed,
            "patches": cut,
            **_words_and_numbers(processor, scene, grids, watch),
            "collate": watch.wall(lambda: processor.collate([sample]))[1],
        }


class _DevicePath:
    """Raw frames to the device, pixels there; words and numbers as ever."""

    def __init__(self, processor: Processor, size: tuple[int, int], device: torch.device, watch: Stopwatch) -> None:
        import torch

        from groot_ros.processing.device_images import DeviceImages

        self._processor, self._watch = processor, watch
        self._module = DeviceImages(processor.images, size).to(device)
        video = processor.modality["video"]
        self._grids = processor.images.grids(dict.fromkeys(video.modality_keys, size))
        shape = (len(self._grids), *size, 3)
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._raw = self._host.numpy()
        self._frames = torch.empty(shape, dtype=torch.uint8, device=device)

    def whole(self, scene: Scene) -> dict[str, torch.Tensor]:
        sample = self._processor.encode(scene.video, scene.state, scene.instruction, raw=self._raw)
        self._frames.copy_(self._host, non_blocking=True)
        batch = {"pixel_values": self._module(self._frames), **self._processor.collate([sample])}
        self._watch.wait()
        return batch

    def stages(self, scene: Scene, watch: Stopwatch) -> dict[str, float]:
        images = self._processor.images

        def upload() -> None:
            images.stack(scene.video, self._raw)
            self._frames.copy_(self._host, non_blocking=True)

        _, uploaded = watch.wall(upload)
        _, made = watch.wall(lambda: self._module(self._frames))
        sample = self._processor.encode(scene.video, scene.state, scene.instruction, raw=self._raw)
        return {
            "upload": uploaded,
            "pixels": made,
            **_words_and_numbers(self._processor, scene, self._grids, watch),
            "collate": watch.wall(lambda: self._processor.collate([sample]))[1],
        }


def _words_and_numbers(processor: Processor, scene: Scene, grids: Any, watch: Stopwatch) -> dict[str, float]:
    return {
        "prompt": watch.wall(lambda: processor.prompts.encode(scene.instruction, grids))[1],
        "state": watch.wall(lambda: processor.encode_state(scene.state))[1],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print the table, write JSON. 2: cannot be measured."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    from groot_ros.model.benchmark.host import host_line
    from groot_ros.model.benchmark.options import check_output

    check_output(options.output)
    rows = measure_preprocess(
        options.generations or GENERATIONS,
        options.cameras,
        options.sizes or SIZES,
        options.repeats,
        threads=options.threads,
        devices=options.devices or (),
        warmup=options.warmup,
        tell=lambda text, share: print(f"{100 * share:3.0f} % {text}", file=sys.stderr, flush=True),
    )
    numbers = {"repeats": options.repeats, "warmup": options.warmup}
    report = preprocess_report(rows, devices=options.devices or (), **numbers)
    print(preprocess_table(rows).text(), host_line(report["host"]), sep="\n\n")
    if options.output is not None:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"report: {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    from groot_ros.model.benchmark.options import camera_size, counts

    parser = argparse.ArgumentParser(
        prog="python -m groot_ros.processing.benchmark", description=__doc__, epilog=f"example: {_EXAMPLE}"
    )

    def typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
        def parsed(text: str) -> Any:
            try:
                return parse(text)
            except ValueError as error:  # argparse shows the message of its own error only
                raise argparse.ArgumentTypeError(str(error)) from error

        return parsed

    parser.add_argument("--generation", dest="generations", action="append", choices=GENERATIONS, help="default: all")
    parser.add_argument("--cameras", type=typed(counts), default=(1, 2, 3), metavar="N,N", help="default: 1,2,3")
    parser.add_argument(
        *("--camera-size",),
        dest="sizes",
        action="append",
        type=typed(camera_size),
        metavar="WIDTHxHEIGHT",
        help="may be given again; default: 640x480 and 256x256",
    )
    parser.add_argument("--threads", type=typed(counts), default=(1, 2), metavar="N,N", help="default: 1,2")
    parser.add_argument(
        "--device",
        dest="devices",
        action="append",
        help="also the device path, on cpu, cuda or cuda:N; may be given again",
    )
    parser.add_argument("--repeats", type=int, default=50, help="measured runs (default: 50)")
    parser.add_argument("--warmup", type=int, default=5, help="runs before, not measured (default: 5)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="the report as JSON goes there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
