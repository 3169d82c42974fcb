"""``groot-ros benchmark load``: what loading a checkpoint costs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from groot_ros.closed_loop.summary import machine_name
from groot_ros.policy.random_checkpoint import make_random_checkpoint

GIB = 2**30
NEEDED_BYTES = {"tiny": 200_000_000, "demo": 200_000_000, "full": 8_000_000_000}


class LoadFailed(RuntimeError):
    """A load did not come to its end; the message holds the reason."""


def run_load_benchmark(
    checkpoint: Path | None,
    *,
    generation: str,
    size: str,
    dtypes: Sequence[str],
    device: str,
    cold: bool,
    chunk: bool,
    embodiment: str,
    output: Path | None,
    console: Console,
) -> None:
    """Load ``checkpoint``, or a random one that is deleted afterwards, once per dtype; print, write to ``output``.

    With ``chunk``, also compute one action chunk per dtype, for the robot ``embodiment``.

    Raises:
        LoadFailed: a load was refused or killed.
        OSError: no room for a random checkpoint, or ``output`` cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="groot_ros_") as folder:
        if checkpoint is None:
            check_space(Path(folder), size)
            source = f"random {size} {generation}"
            checkpoint = Path(folder) / "checkpoint"
            make_random_checkpoint(checkpoint, generation, size, embodiment, 0, console)
        else:
            source = str(checkpoint)
        loads = []
        for dtype in dtypes:
            with console.status(f"loading {source} in {dtype}"):
                loads.append(load_once(checkpoint, dtype, device, cold))
            if chunk:
                with console.status(f"one chunk in {dtype}; a full network takes a minute or two on a CPU"):
                    loads[-1]["chunk"] = first_chunk(checkpoint, dtype, device, embodiment)
    machine = machine_name()
    out = Console(highlight=False)
    out.print(load_table(loads, source))
    out.print(machine, markup=False)
    if output is not None:
        document = {"checkpoint": source, "cold": cold, "machine": machine, "loads": loads}
        output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        out.print(f"report: {output}", markup=False)


def check_space(folder: Path, size: str) -> None:
    """Raise OSError when the disk of ``folder`` has no room for a random checkpoint."""
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES[size]:
        raise OSError(
            f"{folder.parent}: a random checkpoint of size {size} needs {NEEDED_BYTES[size] / 1e9:.1f} GB, found "
            f"{free / 1e9:.1f} GB free; set TMPDIR to a folder with room, or give --checkpoint"
        )


def load_once(checkpoint: Path, dtype: str, device: str, cold: bool) -> dict[str, Any]:
    """The fields of ``LoadCost`` for one load in a new process, with the rate and the memory ratio.

    Raises:
        LoadFailed: it was refused or killed.
    """
    more = ["--cold"] if cold else []
    cost = _in_a_process("groot_ros.model.load_measure", checkpoint, dtype, device, more)
    cost["read_bytes_per_s"] = cost["bytes_read"] / cost["seconds"]
    on_cuda = cost["cuda_peak_bytes"] is not None
    cost["peak_ratio"] = cost["cuda_peak_bytes" if on_cuda else "peak_bytes"] / cost["weight_bytes"]
    return cost


def first_chunk(checkpoint: Path, dtype: str, device: str, embodiment: str) -> dict[str, Any]:
    """What ``groot_ros.policy.first_chunk`` prints: the time of one action chunk, and its shapes.

    Raises:
        LoadFailed: it was refused or killed.
    """
    return _in_a_process("groot_ros.policy.first_chunk", checkpoint, dtype, device, ["--embodiment", embodiment])


def _in_a_process(module: str, checkpoint: Path, dtype: str, device: str, more: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", module, str(checkpoint), "--dtype", dtype, "--device", device, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise LoadFailed(
            f"{module} with {checkpoint} in {dtype} was killed by signal {-done.returncode}; signal 9 is what Linux "
            "sends when memory runs out"
        )
    if done.returncode:
        raise LoadFailed(done.stderr.strip())
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def load_table(loads: Sequence[dict[str, Any]], source: str) -> Table:
    """One row per load. The ratio is of the memory that the weights are in: the CUDA device's, else the process's."""
    first = loads[0]
    network = f"{first['generation']}, {first['parameters'] / 1e6:.2f} M parameters, on {first['device']}"
    table = Table(title=f"loading {source}: {network}", title_justify="left")
    on_cuda = first["cuda_peak_bytes"] is not None
    table.add_column("dtype")
    for name in ("load s", "GB/s", "weights GiB", "peak GiB", *(["CUDA GiB"] if on_cuda else []), "peak/weights"):
        table.add_column(name, justify="right")
    with_chunk = "chunk" in first
    if with_chunk:
        table.add_column("chunk s", justify="right")
    for cost in loads:
        memory = [cost["weight_bytes"], cost["peak_bytes"], *([cost["cuda_peak_bytes"]] if on_cuda else [])]
        table.add_row(
            *(cost["dtype"], f"{cost['seconds']:.2f}", f"{cost['read_bytes_per_s'] / 1e9:.2f}"),
            *(f"{size / GIB:.3f}" for size in memory),
            f"{cost['peak_ratio']:.3f}",
            *([f"{cost['chunk']['seconds']:.2f}"] if with_chunk else []),
        )
    return table
