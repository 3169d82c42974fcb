"""Which instruction is in force, and which never gets in."""

from __future__ import annotations

import threading
import time

import pytest

from groot_ros.policy.instructions import InstructionDesk, Instructions


def at_most_ten(text: str) -> None:
    if len(text) > 10:
        raise ValueError(f"expected at most 10 tokens, found {len(text)}")


def test_the_topic_outranks_the_parameter_which_outranks_the_default() -> None:
    instructions = Instructions()
    assert instructions.text == ""
    assert instructions.begin(at_most_ten, "", "default") == ""
    assert instructions.text == "default"
    assert instructions.begin(at_most_ten, "parameter", "default") == ""
    assert instructions.text == "parameter"
    assert instructions.offer("topic") == ""
    assert instructions.text == "topic"
    assert instructions.begin(at_most_ten, "parameter", "default") == ""
    assert instructions.text == "topic"


def test_one_that_is_refused_leaves_the_old_one() -> None:
    instructions = Instructions()
    instructions.begin(at_most_ten, "old", "")
    assert instructions.offer("much too long") == "~/instruction refused: expected at most 10 tokens, found 13"
    assert instructions.text == "old"
    assert instructions.begin(at_most_ten, "new", "") == "", "a refused text is no text of the topic"
    assert instructions.text == "new"


def test_one_that_came_before_the_model_is_judged_when_there_is_one() -> None:
    instructions = Instructions()
    assert instructions.offer("much too long") == ""
    assert "found 13" in instructions.begin(at_most_ten, "", "default")
    assert instructions.text == "default"
    instructions.end()
    assert instructions.offer("fits") == ""
    assert instructions.begin(at_most_ten, "parameter", "") == ""
    assert instructions.text == "fits"


def test_a_parameter_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"parameter 'instruction': expected at most 10 tokens, found 13"):
        Instructions().begin(at_most_ten, "much too long", "")


@pytest.mark.parametrize("blank", ["", "   ", "\n" * 20])
def test_no_words_clear_the_instruction(blank: str) -> None:
    instructions = Instructions()
    instructions.begin(at_most_ten, "old", "")
    assert instructions.offer(blank) == ""
    assert instructions.text == blank


def test_a_judge_that_hangs_holds_up_nobody_and_the_newest_texts_wait_in_order() -> None:
    go, judged, done = threading.Event(), [], threading.Event()

    def judge(text: str) -> None:
        assert go.wait(10.0)
        judged.append(text)
        if text == "raises":
            raise RuntimeError(text)
        if text == "5":
            done.set()

    desk = InstructionDesk(judge, waiting=3)
    assert desk.put("raises")
    deadline_s = time.monotonic() + 10.0
    while desk._texts and time.monotonic() < deadline_s:
        time.sleep(0.001)
    assert [desk.put(str(i)) for i in range(1, 6)] == [True, True, True, False, False]
    go.set()
    assert done.wait(10.0) and judged == ["raises", "3", "4", "5"]
    desk.close(10.0)
    desk.put("too late")
    assert not desk._thread.is_alive() and judged[-1] == "5"
