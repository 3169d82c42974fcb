"""What a policy has to say: each sentence once, from any thread, and nothing of other programs."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from groot_ros.policy.news import EngineFacts, News, Notices


def test_a_sentence_is_told_once_whatever_bytes_it_counts() -> None:
    notices = Notices()
    for free in ("11.56 MiB", "9.06 MiB", "7 MiB"):
        notices.add(f"out of memory on cuda:0: {free} free; trying once more")
    notices.add("out of memory on cuda:0: graphs are dropped")
    assert notices.take() == (
        "out of memory on cuda:0: 11.56 MiB free; trying once more",
        "out of memory on cuda:0: graphs are dropped",
    )
    notices.add("out of memory on cuda:0: 1 MiB free; trying once more")
    assert (notices.take(), notices.count) == ((), 5)


def test_other_numbers_are_other_news() -> None:
    """Another length of prompt, another device."""
    notices = Notices()
    said = [
        *(f"2 picture(s), prompts of up to {length} tokens: no graph, stream is capturing" for length in (48, 64)),
        *(f"out of memory on cuda:{index}: trying once more" for index in (0, 1)),
        *(f"largest difference {share} of the largest number" for share in (0.01, 0.02)),
    ]
    for text in said * 2:
        notices.add(text)
    assert notices.take() == tuple(said)
    for text in ("7 GiB wanted", "8.5 GiB wanted", "9 GB free", "10GB free", "1024 bytes", "1 bytes"):
        notices.add(text)
    assert notices.take() == ("7 GiB wanted", "9 GB free", "10GB free", "1024 bytes")


def test_none_is_lost_or_doubled_between_threads() -> None:
    notices = Notices()
    words = [f"{first}{second}" for first in "abcdefghij" for second in "abcdefghij"]
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(lambda word: (notices.add(word), notices.take())[1], words * 4))
    assert sorted(word for some in taken for word in some) == sorted(words)


def test_warnings_of_a_package_are_heard_as_long_as_they_are_listened_to() -> None:
    notices = Notices()
    with notices.of_warnings("groot_ros"):
        logging.getLogger("groot_ros.model").warning("slow: %s", "no flash-attn")
        logging.getLogger("transformers").warning("not ours")
    logging.getLogger("groot_ros.model").warning("later")
    assert notices.take() == ("slow: no flash-attn",)


def test_no_news_are_false() -> None:
    assert not News()
    assert News(("one",)) and News(engine=EngineFacts("plain"))
