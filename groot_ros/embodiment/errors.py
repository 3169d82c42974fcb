"""The error of an embodiment: every problem at once, each with its line."""

from __future__ import annotations

from collections.abc import Sequence


class EmbodimentError(ValueError):
    """An embodiment that cannot be used.

    Attributes:
        lines: one ``file:line: path.to.key: expected ..., found ..., do`` per problem; ``str()`` joins them.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)
