"""`python -m groot_ros.model.benchmark policy|sampler`: what `groot-ros benchmark` measures, on a bare machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from groot_ros.model.benchmark.options import (
    DTYPES,
    GENERATIONS,
    RUNG_NAMES,
    SIZES,
    camera_size,
    check_output,
    counts,
    policy_settings,
    sampler_settings,
)

_PROGRAM = "python -m groot_ros.model.benchmark"
_EXAMPLES = {
    "policy": "policy --generation n1d7 --cameras 1,2 --device cuda --output policy.json",
    "sampler": "sampler --generation n1d6 --min-ratio 1.25 --output sampler.json",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print tables, write JSON. 1: slower than `--min-ratio`; 2: cannot be measured."""
    options = _parser().parse_args(arguments)
    try:
        check_output(options.output)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 2


def _run_policy(options: argparse.Namespace) -> int:
    from groot_ros.model.benchmark.host import host_line
    from groot_ros.model.benchmark.policy import measure_policy
    from groot_ros.model.benchmark.tables import policy_tables

    report = measure_policy(policy_settings(**_named(options)), _tell)
    _hand_out(report, policy_tables(report), host_line(report["host"]), options.output)
    return 0


def _run_sampler(options: argparse.Namespace) -> int:
    from groot_ros.model.benchmark.host import host_line
    from groot_ros.model.benchmark.sampler import measure_sampler, too_slow
    from groot_ros.model.benchmark.tables import sampler_tables

    least = options.min_ratio
    report = measure_sampler(sampler_settings(**_named(options)), _tell)
    _hand_out(report, sampler_tables(report), host_line(report["host"]), options.output)
    slow = [] if least is None else too_slow(report, least)
    for line in slow:
        print(line, file=sys.stderr)
    return 1 if slow else 0


def _named(options: argparse.Namespace) -> dict[str, Any]:
    """The options that say what to measure."""
    others = ("run", "command", "output", "min_ratio")
    return {name: value for name, value in vars(options).items() if name not in others}


def _hand_out(report: dict[str, Any], tables: Sequence[Any], host: str, output: Path | None) -> None:
    for table in tables:
        print(table.text(), end="\n\n")
    print(host)
    if output is not None:
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"report: {output}")


def _tell(text: str, share: float) -> None:
    """Progress: one line of a terminal, written over; elsewhere a line each."""
    line = f"{100 * share:3.0f} % {text}"
    if sys.stderr.isatty():
        print(f"\r{line[:99]:<99}", end="\n" if share >= 1 else "", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    examples = "\n".join(f"  {_PROGRAM} {words}" for words in _EXAMPLES.values())
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description=__doc__,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _policy_options(
        _command(commands, "policy", "camera pictures to physical actions, plain and with each optimisation")
    )
    _sampler_options(_command(commands, "sampler", "the action head alone, plain against the engine's, in pairs"))
    return parser


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    found: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"example:\n  {_PROGRAM} {_EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return found


def _policy_options(policy: argparse.ArgumentParser) -> None:
    policy.set_defaults(run=_run_policy)
    _common(policy, cameras="1,2,3", dtype="auto", device="auto")
    policy.add_argument("--checkpoint", help="directory or hub id, in place of random weights")
    policy.add_argument("--tag", help="the checkpoint's embodiment; may be left out where it has one")
    policy.add_argument("--tokenizer", help="folder or hub id of the checkpoint's tokenizer")
    policy.add_argument(
        "--rung", dest="rungs", action="append", choices=RUNG_NAMES, help="may be given again; default: all"
    )
    policy.add_argument("--repeats", type=int, default=50, help="measured runs of each rung (default: %(default)s)")
    policy.add_argument(
        "--warmup", type=int, default=5, help="runs of each rung before, not measured (default: %(default)s)"
    )
    policy.add_argument(
        "--camera-size",
        type=_typed(camera_size),
        default="640x480",
        metavar="WIDTHxHEIGHT",
        help="of the cameras' pictures in pixels (default: %(default)s)",
    )
    policy.add_argument("--no-stages", dest="stages", action="store_false", help="end to end only; compiles once less")
    policy.add_argument(
        "--text-tokens",
        type=int,
        help="wanted of the prompt; default: 20 (n1d5) or 25, and 3 per camera; more where the template is longer",
    )


def _sampler_options(sampler: argparse.ArgumentParser) -> None:
    sampler.set_defaults(run=_run_sampler)
    _common(sampler, cameras="2", dtype="float32", device="cpu")
    sampler.add_argument("--layers", type=int, help="of the DiT; default: the network's")
    sampler.add_argument("--pairs", type=int, default=5, help="measured pairs (default: %(default)s)")
    sampler.add_argument("--warmup", type=int, default=1, help="pairs before, not measured (default: %(default)s)")
    sampler.add_argument("--min-ratio", type=float, help="exit code 1 when a median ratio is lower")


def _typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse, which passes on the message of this error only."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def _common(parser: argparse.ArgumentParser, *, cameras: str, dtype: str, device: str) -> None:
    parser.add_argument(
        "--generation",
        dest="generations",
        action="append",
        choices=GENERATIONS,
        help="may be given again; default: all",
    )
    parser.add_argument(
        "--cameras", type=_typed(counts), default=cameras, metavar="N,N", help="how many (default: %(default)s)"
    )
    parser.add_argument("--size", choices=SIZES, default="full", help="of the random network (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="Euler steps; default: the network's, 4")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=dtype,
        help="auto: bfloat16 on a GPU, float32 on a CPU (default: %(default)s)",
    )
    parser.add_argument("--device", default=device, help="auto, cpu, cuda, cuda:N (default: %(default)s)")
    one = 1 if device == "cpu" else None
    parser.add_argument(
        "--threads", type=int, default=one, help=f"of torch on the CPU; default: {one or 'its own choice'}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, pictures and noise (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="the report as JSON goes there, too")


if __name__ == "__main__":
    sys.exit(main())
