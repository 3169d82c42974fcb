"""A YAML file with the line of every key and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class BadKey:
    """A key that is no text, or that its mapping has already (YAML itself would let the last one win)."""

    path: KeyPath
    line: int
    first_line: int | None


@dataclass(frozen=True)
class YamlFile:
    """Where each value of a YAML file stands. Lines count from 1.

    Attributes:
        moved: top-level section -> where it really stands, for one that was merged in from another place.
    """

    path: Path
    value_lines: dict[KeyPath, int] = field(default_factory=dict)
    key_lines: dict[KeyPath, int] = field(default_factory=dict)
    bad_keys: list[BadKey] = field(default_factory=list)
    moved: Mapping[str, KeyPath] = field(default_factory=dict)

    def place(self, path: KeyPath) -> KeyPath:
        """Where the value at ``path`` of the merged data stands in the file."""
        return (*self.moved[str(path[0])], *path[1:]) if path and path[0] in self.moved else path

    def line(self, path: KeyPath, *, on_key: bool = False) -> int:
        """Line of the value at ``path`` (``on_key``: of its key), or of the nearest parent that exists.

        ``path`` is one of the merged data; one of the file itself is its own place.
        """
        path = self.place(path)
        for end in range(len(path), -1, -1):
            part = path[:end]
            lines = (
                self.key_lines if part and (on_key or end < len(path)) and part in self.key_lines else self.value_lines
            )
            if part in lines:
                return lines[part]
        return 1


def read_yaml(path: Path) -> tuple[Any, YamlFile]:
    """Parse ``path`` with YAML's safe types.

    Returns: the data and the lines. Raises OSError, UnicodeDecodeError or yaml.YAMLError.
    """
    text = path.read_text(encoding="utf-8")
    source = YamlFile(path)
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, source
        _walk(root, (), source, ())
        return loader.construct_document(root), source
    finally:
        loader.dispose()


def _walk(node: yaml.Node, path: KeyPath, source: YamlFile, parents: tuple[yaml.Node, ...]) -> None:
    """Record the lines of ``node`` and of what it contains; a merged mapping (``<<``) where it is merged."""
    source.value_lines.setdefault(path, node.start_mark.line + 1)
    if any(node is parent for parent in parents):  # an alias of its own parent: the schema will refuse it
        return
    parents = (*parents, node)
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _walk(item, (*path, i), source, parents)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            name = str(key.value)
            here = (*path, name)
            if name in seen or key.tag != "tag:yaml.org,2002:str":
                source.bad_keys.append(BadKey(here, line, seen.get(name)))
            if name not in seen:
                seen[name] = line
                source.key_lines.setdefault(here, line)
                _walk(value, here, source, parents)
        for value in merged:
            _walk(value, path, source, parents)
