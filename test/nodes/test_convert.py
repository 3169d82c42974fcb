"""Times, message classes and quality of service."""

from __future__ import annotations

from typing import get_args

import pytest
from rclpy.qos import ReliabilityPolicy

from groot_ros.embodiment.schema import CAMERA_TYPES, STATE_TYPES, Output
from groot_ros.nodes.convert import message_class, stream_qos, to_duration, to_time

T0 = 1_700_000_000_999_999_999


OUTPUT_TYPES = get_args(Output.model_fields["type"].annotation)


@pytest.mark.parametrize("name", [*CAMERA_TYPES, *STATE_TYPES, *OUTPUT_TYPES])
def test_every_type_of_the_schema_is_there(name: str) -> None:
    assert message_class(name).__name__ == name.rsplit("/", 1)[1]


def test_times_keep_their_nanoseconds() -> None:
    time, duration = to_time(T0), to_duration(1_500_000_001)
    assert (time.sec, time.nanosec) == (1_700_000_000, 999_999_999)
    assert (duration.sec, duration.nanosec) == (1, 500_000_001)


@pytest.mark.parametrize(("rate_hz", "depth"), [(10.0, 5), (30.0, 6), (500.0, 100)])
def test_a_queue_holds_what_comes_while_the_callbacks_are_busy(rate_hz: float, depth: int) -> None:
    qos = stream_qos("sensor_data", rate_hz, 0.2)
    assert (qos.depth, qos.reliability) == (depth, ReliabilityPolicy.BEST_EFFORT)
    assert stream_qos("reliable", rate_hz, 0.2).reliability is ReliabilityPolicy.RELIABLE
