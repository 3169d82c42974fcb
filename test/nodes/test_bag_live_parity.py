"""Bag and live are one path: the same messages, received over DDS and read from the bag, give identical arrays.

A simulator process publishes and records. This process subscribes, as the policy node does, and feeds an assembler in
its callbacks. Afterwards a second assembler gets the bag. Both assemble for the same times, each as soon as every
stream has a message beyond that time, so both know everything up to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from rclpy.qos import QoSProfile
from sim_process import Listener, NodeProcess, stamp_ns
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from groot_ros.bags.read import read_bag
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.nodes.convert import message_class
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation, Refusal
from groot_ros.simulation.arm import JOINTS

MS = 1_000_000
TICK_NS = 37 * MS  # in step with neither camera nor joints
TICKS = 60
INSTRUCTION = "pick up the red cube"
Result = Observation | Refusal


class Ticker:
    """Feeds an assembler and assembles for tick times as soon as all streams are past them."""

    def __init__(self, embodiment: Embodiment) -> None:
        self.assembler = Assembler(embodiment)
        self.results: dict[int, Result] = {}
        self.newest_ns = dict.fromkeys(self.assembler.streams, 0)
        self.pending: list[int] = []

    def add(self, stream: str, message: Any, now_ns: int) -> None:
        assert self.assembler.add(stream, message, now_ns) is None
        self.newest_ns[stream] = stamp_ns(message)
        while self.pending and self.pending[0] < min(self.newest_ns.values()):
            tick_ns = self.pending.pop(0)
            self.results[tick_ns] = self.assembler.assemble(tick_ns, INSTRUCTION)


class Live(Ticker):
    """Plans its ticks from the first moment on at which every stream has sent something."""

    def __init__(self, embodiment: Embodiment) -> None:
        super().__init__(embodiment)
        self.tick_times: list[int] = []

    def add(self, stream: str, message: Any, now_ns: int) -> None:
        super().add(stream, message, now_ns)
        if not self.tick_times and all(self.newest_ns.values()):
            first_ns = max(self.newest_ns.values()) + 5 * MS
            self.tick_times = [first_ns + i * TICK_NS for i in range(TICKS)]
            self.pending = list(self.tick_times)


def wave() -> JointTrajectory:
    """Three seconds of motion, so that no two observations are alike."""
    points = [
        JointTrajectoryPoint(
            positions=[0.4 * np.sin(0.9 * k + joint) for joint in range(6)],
            time_from_start=Duration(sec=k * 3 // 10, nanosec=k * 300 * MS % (1000 * MS)),
        )
        for k in range(1, 11)
    ]
    return JointTrajectory(joint_names=list(JOINTS), points=points)


def record_live(embodiment_path: Path, bag: Path, storage: str) -> Live:
    embodiment = load_embodiment(embodiment_path)
    live = Live(embodiment)
    done = threading.Event()
    with Listener() as listener:

        def feed(stream: str) -> Callable[[Any], None]:
            def receive(message: Any) -> None:
                live.add(stream, message, listener.node.get_clock().now().nanoseconds)
                if len(live.results) == TICKS:
                    done.set()

            return receive

        for name, stream in embodiment.streams.items():
            listener.listen(message_class(stream.type), stream.topic, QoSProfile(depth=100), feed(name))
        with NodeProcess(
            ["-m", "groot_ros.nodes.simulator"], embodiment=str(embodiment_path), bag=str(bag), storage=storage
        ) as node:
            listener.publisher(JointTrajectory, embodiment.outputs["arm"].topic).publish(wave())
            listener.wait(done.is_set, "ticks")
            node.process.terminate()
            assert node.process.wait(30) == 0
    return live


def replayed(bag: Path, embodiment: Embodiment, tick_times: list[int]) -> dict[int, Result]:
    ticker = Ticker(embodiment)
    ticker.pending = list(tick_times)
    for item in read_bag(bag, embodiment):
        if item.source in ticker.newest_ns:
            ticker.add(item.source, item.message, item.log_ns)
    return ticker.results


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bag_and_live_give_identical_observations(storage: str, robot_yaml: Path, tmp_path: Path) -> None:
    live = record_live(robot_yaml, tmp_path / "bag", storage)
    from_bag = replayed(tmp_path / "bag", load_embodiment(robot_yaml), live.tick_times)
    assert list(from_bag) == live.tick_times
    observed = 0
    for tick_ns, want in live.results.items():
        got = from_bag[tick_ns]
        if isinstance(want, Refusal) or isinstance(got, Refusal):
            assert got == want
            continue
        observed += 1
        assert (got.stamp_ns, got.sample_stamps_ns, got.ages_s) == (want.stamp_ns, want.sample_stamps_ns, want.ages_s)
        assert got.instruction == want.instruction
        for part in ("video", "state"):
            arrays, expected = getattr(got, part), getattr(want, part)
            assert list(arrays) == list(expected)
            for key, array in arrays.items():
                assert array.dtype == expected[key].dtype and array.shape == expected[key].shape
                np.testing.assert_array_equal(array, expected[key], err_msg=f"{part}.{key} at {tick_ns}")
    # A busy machine may leave out frames and so refuse ticks; both sides did so alike. Most are observations.
    assert observed > TICKS // 2
    images = [result.video["front"] for result in live.results.values() if isinstance(result, Observation)]
    states = [result.state["single_arm"] for result in live.results.values() if isinstance(result, Observation)]
    assert any(not np.array_equal(images[0], image) for image in images[1:])
    assert np.ptp(np.concatenate(states), axis=0).max() > 0.2
