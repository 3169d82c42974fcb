"""``groot-ros dataset SUBCOMMAND``. Every heavy import is inside the command that needs it.

What people read goes to stderr, what programs read (paths, ``--json``) to stdout.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groot_ros.cli_dataset_output import (
    bag_progress,
    note,
    progress,
    show_statistics,
    tell_built,
    tell_conversion,
    tell_json,
)
from groot_ros.cli_options import Codec, DropPolicy, EmbodimentOption, Generation, console, refusals

if TYPE_CHECKING:
    from groot_ros.embodiment.schema import Embodiment

_STYLES = {"error": "red", "warning": "yellow"}
dataset_app = typer.Typer(
    help="LeRobot datasets: from bags, check, repair, merge, split, statistics, look at, export.", no_args_is_help=True
)

DirectoryArgument = Annotated[Path, typer.Argument(help="Dataset (LeRobot v2.1).", show_default=False)]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="New folder for the result.")]
InPlaceOption = Annotated[
    bool, typer.Option("--in-place", help="Put the result in its place; the old one is kept as DIR.before-TIME.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Result as JSON on stdout.")]
RobotOption = Annotated[
    str | None, typer.Option("--embodiment", "-e", help="Robot of the dataset: a name, or a YAML file.")
]
GenerationOption = Annotated[
    Generation | None, typer.Option("--generation", "-g", help="Model generation; default: the YAML's newest.")
]
EpisodesText = "Numbers and ranges: 3,7:9 (without its end) and 3,7-8 are 3, 7 and 8."


@dataset_app.command("from-bag")
def from_bag(
    bags: Annotated[list[Path], typer.Argument(help="rosbag2 directories (mcap or sqlite3).")],
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="New directory, or a dataset to append to.")],
    embodiment: EmbodimentOption = "sim_arm",
    task: Annotated[
        str,
        typer.Option(help="What is done in all episodes; default: what events, the instruction topic or the YAML say."),
    ] = "",
    generation: GenerationOption = None,
    event_topic: Annotated[
        str,
        typer.Option(
            help="Where episodes begin and end: String as /groot_recorder/episode_events, which is the default, or "
            "Bool; none: ignore them. Without events a bag is one episode per instruction."
        ),
    ] = "",
    drop: Annotated[
        DropPolicy | None,
        typer.Option(
            help="A tick without good samples: fail (abort the episode), split, or flag the row. Default: split; fail "
            "where there are events."
        ),
    ] = None,
    min_rows: Annotated[int, typer.Option(min=0, help="Drop shorter segments; 0: those under 1 s.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Bags at once; 0: one per processor.")] = 0,
    codec: Annotated[Codec, typer.Option(help="H.264 encoder; auto: NVENC where it works, else libx264.")] = Codec.auto,
    as_json: JsonOption = False,
) -> None:
    """Append what bags hold to a dataset, through the recorder's own grid and checks.

    Exit code 1 when a bag gave no episode, or was not converted to its end.

    Example: [bold]groot-ros dataset from-bag /tmp/run1 /tmp/run2 -d /tmp/pick -e so101 --task "pick up the cube"[/bold]
    """
    from groot_ros.dataset.from_bag import convert

    with refusals(), bag_progress(bags) as report_progress:
        result = convert(
            bags,
            dataset,
            _robot(embodiment, generation),
            task or None,
            event_topic=event_topic or None,
            drop=drop.value if drop else None,
            min_rows=min_rows or None,
            jobs=jobs or os.cpu_count() or 1,
            codec=codec.value,
            progress=report_progress,
        )
    tell_conversion(result)
    if as_json:
        tell_json(result.to_json())
    if not result.ok:
        raise typer.Exit(1)


@dataset_app.command()
def check(
    directory: DirectoryArgument,
    full: Annotated[bool, typer.Option("--full", help="Decode every picture, not a sample.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings too.")] = False,
    horizon: Annotated[int, typer.Option(min=1, help="Rows of an action chunk; shorter episodes are no use.")] = 16,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Videos at once; 0: one per processor.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Whether a dataset is fit for training: what loaders refuse, and what they do not notice. Changes nothing.

    Exit code 1 when there is an error.

    Example: [bold]groot-ros dataset check /tmp/pick --full[/bold]
    """
    from groot_ros.dataset.check import check as check_dataset

    with refusals(), progress("checking") as report_progress:
        report = check_dataset(directory, full=full, horizon=horizon, jobs=jobs or None, progress=report_progress)
    for line in report.lines():
        console.print(line, style=_STYLES.get(line.partition(":")[0]), markup=False, soft_wrap=True)
    if as_json:
        tell_json(report.to_dict())
    if report.exit_code(strict):
        raise typer.Exit(1)


@dataset_app.command()
def repair(
    directory: DirectoryArgument,
    embodiment: RobotOption = None,
    generation: GenerationOption = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut episodes whose rows and pictures differ to the shortest.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without, it is only told.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Mend what follows from the rest of a damaged dataset: torn lines, totals, statistics, stray files.

    The old metadata are kept, and the old dataset where episodes change. Exit code 1 when something is left to do.

    Examples:

    [bold]groot-ros dataset repair /tmp/pick[/bold]

    [bold]groot-ros dataset repair /tmp/pick -e so101 --truncate --apply[/bold]
    """
    from groot_ros.dataset.repair import repair as repair_dataset

    with refusals(), progress("looking") as report_progress:
        robot = None if embodiment is None else _robot(embodiment, generation)
        result = repair_dataset(directory, embodiment=robot, truncate=truncate, apply=apply, progress=report_progress)
    for style, word, lines in (
        ("green" if apply else "yellow", "mended" if apply else "to mend", result.mends),
        ("red", "cannot be mended", result.refused),
        (None, "note", result.notes),
    ):
        for line in lines:
            console.print(f"{word}: {line}", style=style, markup=False, soft_wrap=True)
    if not result.mends and not result.refused:
        note(f"{result.root}: nothing to mend")
    elif result.mends and not apply:
        note("nothing was changed: --apply does it")
    if as_json:
        tell_json(result.to_json())
    if result.refused or (result.mends and not apply):
        raise typer.Exit(1)


@dataset_app.command()
def merge(
    directories: Annotated[list[Path], typer.Argument(help="Datasets of one robot, in this order.")],
    output: OutputOption = None,
    in_place: InPlaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make one dataset of several; tasks with the same text become one.

    Example: [bold]groot-ros dataset merge /tmp/monday /tmp/tuesday -o /tmp/both[/bold]
    """
    from groot_ros.dataset.edit import merge as merge_datasets

    with refusals(), progress("episodes") as report_progress:
        built = merge_datasets(directories, output, in_place=in_place, progress=report_progress)
    tell_built([built], as_json)


@dataset_app.command()
def split(
    directory: DirectoryArgument,
    part: Annotated[
        list[str],
        typer.Option("--part", "-p", help="NAME=FRACTION, such as train=0.8, or NAME=EPISODES, such as val=40:50."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder in which NAME becomes a dataset.")],
    seed: Annotated[int | None, typer.Option(help="Fractions draw at random; default: in order.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make several datasets of one.

    Examples:

    [bold]groot-ros dataset split /tmp/pick -p train=0.9 -p val=0.1 --seed 0 -o /tmp/parts[/bold]

    [bold]groot-ros dataset split /tmp/pick -p train=0:40 -p val=40:45,47 -o /tmp/parts[/bold]
    """
    from groot_ros.dataset.edit import parse_parts
    from groot_ros.dataset.edit import split as split_dataset
    from groot_ros.dataset.read import Dataset

    with refusals(), progress("episodes") as report_progress:
        parts = parse_parts(part, len(Dataset(directory).episodes), seed)
        built = split_dataset(directory, parts, output, progress=report_progress)
    tell_built(built, as_json)


@dataset_app.command("delete-episodes")
def delete_episodes(
    directory: DirectoryArgument,
    episodes: Annotated[str, typer.Option("--episodes", help=EpisodesText)],
    output: OutputOption = None,
    in_place: InPlaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a dataset without some episodes; those that follow move up.

    Example: [bold]groot-ros dataset delete-episodes /tmp/pick --episodes 3,7:9 --in-place[/bold]
    """
    from groot_ros.dataset.edit import delete_episodes as delete
    from groot_ros.dataset.edit import parse_episodes

    with refusals(), progress("episodes") as report_progress:
        built = delete(directory, parse_episodes(episodes), output, in_place=in_place, progress=report_progress)
    tell_built([built], as_json)


@dataset_app.command()
def stats(
    directory: DirectoryArgument,
    relative: Annotated[
        bool, typer.Option("--relative", help="Also relative_stats.json, for --embodiment and --generation.")
    ] = False,
    embodiment: EmbodimentOption = "sim_arm",
    generation: GenerationOption = None,
    horizon: Annotated[int, typer.Option(min=0, help="Steps of a chunk for --relative; 0: the robot's.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute stats.json from all rows, quantiles exact, and write it.

    Examples:

    [bold]groot-ros dataset stats /tmp/pick[/bold]

    [bold]groot-ros dataset stats /tmp/pick --relative -e so101 -g n1d7[/bold]
    """
    from groot_ros.dataset.edit import locked
    from groot_ros.dataset.relative_statistics import relative_statistics, write_relative_statistics
    from groot_ros.dataset.statistics import dataset_statistics, refresh

    steps = None
    with refusals(), locked([directory]) as (dataset,):
        found = dataset_statistics(dataset.root) if dry_run else refresh(dataset.root)
        if relative:
            robot = _robot(embodiment, generation)
            steps = relative_statistics(dataset, robot, robot.generation or Generation.n1d7.value, horizon or None)
            if not dry_run and steps:
                write_relative_statistics(dataset.root, steps)
        show_statistics(dataset, found, steps)
    if as_json:
        tell_json({"stats": found, "relative_stats": steps})


@dataset_app.command()
def show(
    directory: DirectoryArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures and the page.")],
    episodes: Annotated[str, typer.Option("--episodes", help=f"{EpisodesText} Default: the first few.")] = "",
    pictures: Annotated[int, typer.Option(min=1, help="Per camera and episode, evenly over time.")] = 8,
) -> None:
    """Draw a contact sheet of every camera and the joints' curves, as PNG and as one HTML page.

    Example: [bold]groot-ros dataset show /tmp/pick --episodes 0:3 -o /tmp/look[/bold]
    """
    from groot_ros.dataset.edit import parse_episodes
    from groot_ros.dataset.show import show as show_dataset

    with refusals(), progress("episodes") as report_progress:
        chosen = parse_episodes(episodes) if episodes else None
        page = show_dataset(directory, output, episodes=chosen, pictures=pictures, progress=report_progress)
    typer.echo(f"{page}")


@dataset_app.command()
def salvage(
    directory: DirectoryArgument,
    name: Annotated[str | None, typer.Option(help="Only this one of the list; default: all.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Append them; without, they are only listed.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove them for good instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List episodes that were aborted, and append what is whole of them to the dataset, flagged as salvaged.

    Exit code 1 when some could not be appended.

    Examples:

    [bold]groot-ros dataset salvage /tmp/pick[/bold]

    [bold]groot-ros dataset salvage /tmp/pick --apply[/bold]
    """
    from groot_ros.dataset.salvage import aborted_episodes, remove_aborted
    from groot_ros.dataset.salvage import salvage as salvage_dataset

    with refusals():
        if apply and remove:
            raise ValueError("salvage: expected either --apply or --remove, found both")
        reports = salvage_dataset(directory, name, on_event=note) if apply else []
        listed = remove_aborted(directory, name) if remove else aborted_episodes(directory)
    for report in reports:
        note(f"episode {report.index}: {report.rows} rows of {report.task!r}")
    for episode in listed:
        note(f"{episode.path.name}: {episode.rows} rows of {episode.task!r}{' removed' * remove}: {episode.reason}")
    if not listed and not reports:
        note(f"{directory}: no aborted episodes")
    if listed and not apply and not remove:
        note("--apply appends what is whole of them to the dataset, --remove deletes them")
    if as_json:
        aborted = [{**vars(episode), "path": str(episode.path)} for episode in listed]
        tell_json({"aborted": aborted, "salvaged": [report.to_json() for report in reports]})
    if apply and name is None and listed:
        raise typer.Exit(1)


@dataset_app.command()
def export(
    directory: DirectoryArgument,
    output: Annotated[Path, typer.Argument(help="New folder for LeRobot v3.0.")],
    data_mb: Annotated[int, typer.Option(min=1, help="Size of a file of rows (MiB).")] = 100,
    video_mb: Annotated[int, typer.Option(min=1, help="Size of a video file (MiB).")] = 200,
    image_frames: Annotated[
        int, typer.Option(min=1, help="Pictures per video that are decoded for the statistics of images.")
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """Write LeRobot v3.0 of a v2.1 dataset; no video is encoded again.

    Example: [bold]groot-ros dataset export /tmp/pick /tmp/pick_v30[/bold]
    """
    from groot_ros.dataset.edit import locked
    from groot_ros.dataset.export_v30 import export as export_dataset

    with refusals(), locked([directory]) as (dataset,), progress("files") as report_progress:
        sizes = {"data_mb": data_mb, "video_mb": video_mb}
        built = export_dataset(dataset.root, output, **sizes, image_frames=image_frames, progress=report_progress)
    tell_built([built], as_json)


def _robot(embodiment: str, generation: Generation | None) -> Embodiment:
    from groot_ros.embodiment.load import load_embodiment

    return load_embodiment(embodiment, generation.value if generation else None)
