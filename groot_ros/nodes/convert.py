"""Times, message classes and quality of service, for all nodes."""

from __future__ import annotations

import importlib
import math
from typing import Any

from builtin_interfaces.msg import Duration, Time
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

LATCHED_QOS = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RELIABLE_QOS = QoSProfile(depth=10, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)


def stream_qos(kind: str, rate_hz: float, window_s: float) -> QoSProfile:
    """QoS of a stream: best effort for ``sensor_data``, deep enough for a callback thread that is busy ``window_s``."""
    reliable = kind == "reliable"
    return QoSProfile(
        depth=max(5, math.ceil(rate_hz * window_s)),
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def message_class(name: str) -> Any:
    """``sensor_msgs/msg/Image`` to the class.

    Raises:
        ImportError: the package is not installed; the message names it.
    """
    package, kind, cls = name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), cls)


def to_time(stamp_ns: int) -> Time:
    """Nanoseconds to ``builtin_interfaces/Time``."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def to_duration(ns: int) -> Duration:
    """Nanoseconds to ``builtin_interfaces/Duration``."""
    return Duration(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)
