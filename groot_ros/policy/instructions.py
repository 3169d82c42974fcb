"""Which instruction is in force: the topic's outranks the parameter's, which outranks the YAML's default."""

from __future__ import annotations

import threading
import traceback
from collections import deque
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
        self._judging = threading.Lock()

    @property
    def text(self) -> str:
        """The instruction; empty when none has been given."""
        return self._text

    def begin(self, check: Check, parameter: str, default: str) -> str:
        """A model was loaded. Takes the topic's instruction if one came before, else ``parameter``, else ``default``.

        Returns: why the topic's instruction was dropped; empty when it was not.
        Raises: ValueError when the parameter's cannot be taken.
        """
        with self._judging:
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
        with self._judging:
            check = self._check
            refused = _refusal(check, text) if check is not None else ""
            if not refused:
                self._text, self._by_topic = text, True
            return refused


class InstructionDesk:
    """Judges instructions in a thread of its own, in order: a policy that hangs answers late, and an e-stop must
    not wait behind it.

    Args:
        judge: called with one text at a time.
        waiting: texts that may wait; of more the oldest are lost.
    """

    def __init__(self, judge: Callable[[str], None], waiting: int = 10) -> None:
        self._judge = judge
        self._texts: deque[str] = deque(maxlen=waiting)
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="instructions", daemon=True)
        self._thread.start()

    def put(self, text: str) -> bool:
        """Return at once; False when the oldest text was lost for it."""
        with self._changed:
            kept = len(self._texts) != self._texts.maxlen
            self._texts.append(text)
            self._changed.notify()
            return kept

    def close(self, timeout_s: float) -> None:
        """Judge no more; wait for the one that is being judged, ``timeout_s`` at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._texts))
                if self._closed:
                    return
                text = self._texts.popleft()
            try:
                self._judge(text)
            except Exception:  # the next one is judged all the same
                traceback.print_exc()


def _refusal(check: Check, text: str) -> str:
    try:
        if text.strip():
            check(text)
    except ValueError as error:
        return f"~/instruction refused: {error}"
    return ""
