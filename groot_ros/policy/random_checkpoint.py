"""A random checkpoint that fits a robot's YAML."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.modality import modality_configs
from groot_ros.embodiment.untrained import metadata_modalities, statistics


def make_random_checkpoint(
    directory: Path, generation: str, size: str, embodiment_name: str, seed: int, console: Console
) -> None:
    """Write it, with a progress bar.

    Raises:
        FileExistsError: ``directory`` has files in it.
        EmbodimentError: the robot's YAML is refused, or has not this generation.
        ValueError: a network of this size is too small for the robot.
    """
    embodiment = load_embodiment(embodiment_name, generation)
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; name a new directory or remove it")
    from groot_ros.model.make_checkpoint import make_checkpoint
    from groot_ros.model.random_networks import default_processor_kwargs

    tag = embodiment.embodiment_tag
    entries = {tag: statistics(embodiment, generation)}
    kwargs = default_processor_kwargs(modality_configs(embodiment, generation), size, generation, entries)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"writing a random {size} {generation} checkpoint", total=1.0)
        make_checkpoint(
            directory,
            generation=generation,
            size=size,
            processor_kwargs=kwargs,
            statistics=entries,
            modalities={tag: metadata_modalities(embodiment)},
            seed=seed,
            progress=lambda done: progress.update(task, completed=done),
        )
