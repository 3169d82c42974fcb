"""Find and read an embodiment YAML. Whatever is wrong with it is reported at once, with line numbers."""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from groot_ros.embodiment import generations, urdf
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.problems import Path as KeyPath
from groot_ros.embodiment.problems import Problem, RuleError, closest, one_of
from groot_ros.embodiment.rules import find_problems
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.yaml_lines import YamlFile, read_yaml
from groot_ros.share import share_directories

_SUFFIXES = (".yaml", ".yml")


def _folders() -> Iterator[Path]:
    """Where named embodiments are looked for: the source tree, then the installed shares."""
    seen = set()
    for share in share_directories():
        folder = share / "config" / "embodiments"
        if folder.resolve() not in seen:  # an installed share may be a link to the source tree, or named twice
            seen.add(folder.resolve())
            yield folder


def available_embodiments() -> dict[str, Path]:
    """Name -> YAML file of every embodiment that can be loaded by name, sorted; an earlier folder wins."""
    found: dict[str, Path] = {}
    for folder in _folders():
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.suffix in _SUFFIXES:
                    found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def embodiment_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The YAML file that ``name_or_path`` means: an existing file, else a named embodiment.

    Raises EmbodimentError that lists the names there are.
    """
    given = os.fspath(name_or_path)
    path = Path(given).expanduser()
    if path.is_file():
        return path
    available = available_embodiments()
    if given in available:
        return available[given]
    near = closest(path.stem, available)
    hint = f"did you mean {near!r}? " if near else ""
    what = "is a folder" if path.is_dir() else "no such file or name"
    folders = [str(folder) for folder in _folders() if folder.is_dir()]
    raise EmbodimentError(
        [
            f"embodiment: expected a YAML file or one of the names {one_of(available)}, "
            f"found {given!r} ({what}), {hint}named files are looked for in {one_of(folders)}"
        ]
    )


def embodiment_generations(name_or_path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The generations that a robot's YAML lists, oldest first; empty when it holds for every generation.

    Raises: EmbodimentError when the file cannot be read or its ``generations`` is malformed.
    """
    data, _ = _read(embodiment_path(name_or_path))
    return generations.listed(data)


def load_embodiment(name_or_path: str | os.PathLike[str], generation: str | None = None) -> Embodiment:
    """Read one robot's YAML, as it is for one generation of the model.

    Args:
        name_or_path: a YAML file, or a name of ``available_embodiments()``.
        generation: ``n1d5``, ``n1d6`` or ``n1d7``; None: the newest that the file lists.

    Raises: EmbodimentError with one ``file:line: path.to.key: expected ..., found ..., do`` per problem.
    A rule that spans sections is judged once the sections it reads are well formed by themselves.
    """
    path = embodiment_path(name_or_path)
    data, source = _read(path)
    located = [_bad_key(bad.path, bad.line, bad.first_line) for bad in source.bad_keys]
    listed = generations.listed(data)
    if isinstance(data, Mapping) and "generation" in data:
        do = "remove it, or list the generations under generations"
        located.append(_located(source, Problem(("generation",), "no such key", "it", do, on_key=True)))
    if listed:
        generation = generation if generation is not None else listed[-1]
        if generation not in listed:
            do = "use a checkpoint of one of these, or add the generation to the file"
            problem = Problem((generations.SECTION,), f"{generation!r}", one_of(listed), do, on_key=True)
            raise EmbodimentError([f"{path}:{source.line(problem.path, on_key=True)}: {problem}"])
        data, moved = generations.merged(data, generation)
        source = dataclasses.replace(source, moved=moved)
    if isinstance(data, Mapping):
        data, problems = urdf.filled({**data, "generation": generation}, path.parent)
        if problems:  # before the schema misses the same numbers
            located += [_located(source, problem) for problem in problems]
            raise _refusal(path, located)
    embodiment = None
    try:
        embodiment = Embodiment.model_validate(data)
    except ValidationError as error:
        located += [_located(source, problem) for problem in _problems(error, data)]
    if located or embodiment is None:
        raise _refusal(path, located)
    embodiment._source = source
    return embodiment


def _refusal(path: Path, located: list[tuple[int, Problem]]) -> EmbodimentError:
    return EmbodimentError([f"{path}:{line}: {problem}" for line, problem in sorted(located, key=lambda item: item[0])])


def _read(path: Path) -> tuple[Any, YamlFile]:
    """The file's data and lines. Raises: EmbodimentError, also for a malformed ``generations``."""
    try:
        data, source = read_yaml(path)
    except OSError as error:
        raise EmbodimentError(
            [f"{path}: expected a readable file, found {error.strerror}, correct the path"]
        ) from error
    except UnicodeDecodeError as error:
        raise EmbodimentError([f"{path}: expected UTF-8 text, found {error.reason}, save it as UTF-8"]) from error
    except yaml.YAMLError as error:
        raise EmbodimentError([_syntax_error(path, error)]) from error
    problems = list(generations.find_problems(data))
    if problems:
        raise EmbodimentError([f"{path}:{source.line(p.path, on_key=p.on_key)}: {p}" for p in problems])
    return data, source


def _located(source: YamlFile, problem: Problem) -> tuple[int, Problem]:
    """The line of a problem of the merged data, and the problem with its place in the file."""
    line = source.line(problem.path, on_key=problem.on_key)
    return line, dataclasses.replace(problem, path=source.place(problem.path))


def where(embodiment: Embodiment, path: KeyPath, *, on_key: bool = False) -> str:
    """``file:line`` of a value of a loaded embodiment; its name for one that was built in Python."""
    source: YamlFile | None = embodiment.source
    return f"embodiment {embodiment.name}" if source is None else f"{source.path}:{source.line(path, on_key=on_key)}"


def dotted(embodiment: Embodiment, path: KeyPath) -> str:
    """``path`` as it stands in the file: with ``generations.NAME`` in front where a generation has the section."""
    source: YamlFile | None = embodiment.source
    return ".".join(map(str, path if source is None else source.place(path)))


def _syntax_error(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    context = getattr(error, "context", None)
    line = mark.line + 1 if mark is not None else 1
    if isinstance(error, yaml.reader.ReaderError):  # a character that YAML does not allow; it has a place but no line
        line = path.read_text(encoding="utf-8").count("\n", 0, error.position) + 1
    detail = f"{problem} {context}" if context else problem
    return f"{path}:{line}: expected valid YAML, found: {detail}, correct this line or the one before it"


def _bad_key(path: tuple[str | int, ...], line: int, first_line: int | None) -> tuple[int, Problem]:
    if first_line is None:
        name = path[-1]
        return line, Problem(path, "text as a key", f"{name} (which YAML does not read as text)", f'write "{name}"')
    return line, Problem(path, "each key once", f"it again after line {first_line}", "remove one of the two")


def _problems(error: ValidationError, data: Any) -> Iterator[Problem]:
    """What is wrong, field by field, and then what the rules find in the sections that are well formed."""
    broken = set()
    for item in error.errors(include_url=False):
        rule_error = item.get("ctx", {}).get("error")
        if isinstance(rule_error, RuleError):
            yield from rule_error.problems
            return
        loc = item["loc"]
        broken.add(loc[0] if loc else None)
        if loc and loc[-1] == "[key]" and item["type"] == "string_type":
            continue  # reported as a bad key already
        yield _field_problem(item["type"], loc, item["input"], item.get("ctx", {}), item["msg"])
    if isinstance(data, Mapping):
        yield from find_problems(_sound_sections(data, broken))


def _sound_sections(data: Mapping[Any, Any], broken: set[Any]) -> dict[str, Any]:
    """Top-level key -> parsed value of every section without a problem of its own."""
    sections: dict[str, Any] = {}
    for name, info in Embodiment.model_fields.items():
        if name in broken:
            continue
        if name in data:
            sections[name] = TypeAdapter[Any](cast(Any, info.annotation)).validate_python(data[name])
        elif not info.is_required():
            sections[name] = info.get_default(call_default_factory=True)
    return sections


def _annotation_at(loc: tuple[str | int, ...]) -> tuple[Any, str]:
    """The type at a place of the schema and the description of the last field on the way there."""
    here: Any = Embodiment
    description = ""
    for part in loc:
        model = _model_in(here)
        if model is not None and part in model.model_fields:
            info = model.model_fields[str(part)]
            here, description = info.annotation, (info.description or "").rstrip(".")
        elif model is None or not isinstance(here, type):
            here = get_args(here)[-1] if get_args(here) else None
    return here, description


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is, or that it allows beside None."""
    union = get_origin(annotation) in (Union, types.UnionType)
    for option in get_args(annotation) if union else (annotation,):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
}


def _field_problem(kind: str, loc: tuple[str | int, ...], found: Any, ctx: Mapping[str, Any], message: str) -> Problem:
    """One of pydantic's errors in this package's words."""
    if kind == "extra_forbidden":
        known = sorted(model.model_fields) if (model := _model_in(_annotation_at(loc[:-1])[0])) else []
        near = closest(str(loc[-1]), known)
        do = f"did you mean {near!r}?" if near else "remove it"
        return Problem(loc, f"one of {one_of(known)}", f"unknown key {str(loc[-1])!r}", do, on_key=True)
    description = _annotation_at(loc)[1]
    if kind == "missing":
        return Problem(
            loc,
            f"a value ({description})" if description else "a value",
            "no such key",
            "add it",
            on_key=True,
        )
    expected = _EXPECTED.get(kind, message)
    do = f"correct it ({description})" if description else "correct it"
    if kind == "literal_error":
        expected = f"one of {ctx['expected']}"
        near = closest(str(found), [part.strip("'") for part in str(ctx["expected"]).replace(" or ", ", ").split(", ")])
        do = f"did you mean {near!r}?" if near else do
    elif kind == "greater_than":
        expected = f"a number greater than {ctx['gt']:g}"
    elif kind == "greater_than_equal":
        expected = f"a number that is not below {ctx['ge']:g}"
    elif kind == "less_than_equal":
        expected = f"a number that is not above {ctx['le']:g}"
    elif kind == "too_short":
        expected = f"at least {ctx['min_length']} entry"
    elif kind == "string_pattern_mismatch" and loc[-1] == "topic":
        expected = "a ROS topic name such as /camera/image_raw"
    elif kind == "string_pattern_mismatch":
        expected = "text that is not empty"
    if isinstance(found, str) and kind in ("float_type", "int_type"):
        do = _number_hint(found, do)
    shown = "nothing" if found is None else repr(found)
    return Problem(
        tuple(part for part in loc if part != "[key]"),
        expected,
        shown if len(shown) <= 80 else f"{shown[:77]}...",
        do,
    )


def _number_hint(found: str, otherwise: str) -> str:
    try:
        number = float(found)
    except ValueError:
        return otherwise
    return f"write {number!r} without quotes (YAML reads an exponent as a number only in the form 1.0e-2)"
