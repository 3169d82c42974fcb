"""A random checkpoint that fits a robot's YAML."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.untrained import statistics


def make_random_checkpoint(
    directory: Path, generation: str, size: str, embodiment_name: str, seed: int, console: Console
) -> None:
    """Write it, with a progress bar.

    Raises:
        FileExistsError: ``directory`` has files in it.
        EmbodimentError: the robot's YAML is refused.
    """
    embodiment = load_embodiment(embodiment_name, generation)
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; name a new directory or remove it")
    from groot_ros.model.make_checkpoint import default_processor_kwargs, make_checkpoint

    tag = embodiment.embodiment_tag
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"writing a random {size} {generation} checkpoint", total=1.0)
        make_checkpoint(
            directory,
            generation=generation,
            size=size,
            processor_kwargs=default_processor_kwargs(modality_configs(embodiment, generation), size),
            statistics={tag: statistics(embodiment, generation)},
            seed=seed,
            progress=lambda done: progress.update(task, completed=done),
        )
