"""Which instruction is in force: the topic's outranks the parameter's, which outranks the YAML's default."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[str], None]


class Instructions:
    """The text for the next inference. What the model cannot take never gets in.

    ``check`` raises ValueError for such a text; there is none while no model is loaded, and then all are kept until
    ``begin`` has one.
    """

    def __init__(self) -> None:
        self._text = ""
        self._by_topic = False
        self._check: Check | None = None

    @property
    def text(self) -> str:
        """The instruction; empty when none has been given."""
        return self._text

    def begin(self, check: Check, parameter: str, default: str) -> str:
        """A model was loaded. Takes the topic's instruction if one came before, else ``parameter``, else ``default``.

        Returns: why the topic's instruction was dropped; empty when it was not.
        Raises: ValueError when the parameter's cannot be taken.
        """
        self._check = check  # first: one that comes meanwhile is judged too
        dropped = ""
        if self._by_topic:
            dropped = _refusal(check, self._text)
            self._by_topic = not dropped
        if not self._by_topic:
            if parameter:
                try:
                    check(parameter)
                except ValueError as error:
                    raise ValueError(f"parameter 'instruction': {error}") from error
            self._text = parameter or default
        return dropped

    def end(self) -> None:
        """The model is gone; the topic's instruction stays."""
        self._check = None

    def offer(self, text: str) -> str:
        """The topic says ``text``; one without words clears the instruction.

        Returns: why it is refused, the old one staying; empty when it is in force.
        """
        refused = _refusal(self._check, text) if self._check is not None else ""
        if not refused:
            self._text, self._by_topic = text, True
        return refused


def _refusal(check: Check, text: str) -> str:
    try:
        if text.strip():
            check(text)
    except ValueError as error:
        return f"~/instruction refused: {error}"
    return ""
