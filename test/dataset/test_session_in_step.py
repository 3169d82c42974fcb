"""Rows, pictures and actions stay in step whatever happens: gaps, encoders that are behind, pauses, saves."""

from __future__ import annotations

import random

import barcode
import pytest
from demonstration import (
    CAMERAS,
    FPS,
    MS,
    Desk,
    FakeWriter,
    S,
    Sent,
    at,
    demonstration,
    newest,
    number_of,
    robot,
    without,
)

from groot_ros.dataset.spec import FLAG_REPEATED

STREAMS = (*CAMERAS, "joints")


@pytest.mark.parametrize("next_state", [False, True])
@pytest.mark.parametrize("drop", ["fail", "split", "flag"])
def test_whatever_happens(drop: str, next_state: bool) -> None:
    for seed in range(4):
        chance = random.Random(seed)
        sent = demonstration(3.0, jitter_ns=15 * MS, seed=seed)
        if next_state:
            sent = [item for item in sent if item.source != "command:arm"]
        for _ in range(2):
            begin_s = chance.uniform(1.5, 2.8)
            sent = without(sent, chance.choice(STREAMS), begin_s, begin_s + chance.choice([0.04, 0.1, 0.2]))
        desk = Desk(robot(recording__next_state=["arm"] if next_state else []), drop=drop, min_rows=3)
        desk.play([item for item in sent if item.arrived_ns < at(1.2)])
        for item in sent:
            if item.arrived_ns >= at(1.2):
                disturb(desk, chance, item.arrived_ns)
                desk.give([item])
        written = [writer for writer in desk.writers if writer.rows]
        assert written
        for writer in written:
            check(writer, sent, next_state)


def disturb(desk: Desk, chance: random.Random, now_ns: int) -> None:
    """Something that a robot's operator or computer may do, now and then."""
    what = chance.random()
    if what < 0.01:
        desk.writers[-1].behind = not desk.writers[-1].behind
    elif what < 0.015:
        desk.session.pause(True, now_ns)
    elif what < 0.04:
        desk.session.pause(False, now_ns)
    elif what < 0.045:
        desk.session.save(now_ns)
    desk.session.start("another one", now_ns)  # refused while one runs


def check(writer: FakeWriter, sent: list[Sent], next_state: bool) -> None:
    stamps, ages = writer.column("stamp_ns").tolist(), writer.column("age_ns").tolist()
    states, actions = writer.column("state").tolist(), writer.column("action").tolist()
    repeated = (writer.column("flags") & FLAG_REPEATED).astype(bool).tolist()
    shown = {camera: writer.numbers(camera) for camera in CAMERAS}
    assert stamps == [stamps[0] + k * S // FPS for k in range(len(stamps))]
    for k, stamp_ns in enumerate(stamps):
        if repeated[k]:
            assert (states[k], actions[k]) == (states[k - 1], actions[k - 1])
            assert all(numbers[k] == numbers[k - 1] for numbers in shown.values())
            continue
        used = [newest(sent, stream, stamp_ns) for stream in STREAMS]
        assert ages[k] == [stamp_ns - item.stamp_ns for item in used]
        assert [shown[camera][k] for camera in CAMERAS] == [item.number % barcode.LIMIT for item in used[:2]]
        assert number_of(states[k][0]) == used[2].number
        if not next_state:
            assert number_of(actions[k][0]) == newest(sent, "command:arm", stamp_ns).number
        elif k + 1 < len(stamps) and not repeated[k + 1]:
            assert actions[k] == states[k + 1]
