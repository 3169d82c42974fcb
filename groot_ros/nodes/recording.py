"""Everything of the recorder node that exists between configure and cleanup, made from the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import cv2
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from groot_ros.dataset.background import Committer
from groot_ros.dataset.encoder import choose_codec
from groot_ros.dataset.episode_report import EpisodeReport
from groot_ros.dataset.session import Session
from groot_ros.dataset.session_types import DropPolicy
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.dataset.writer import DatasetWriter
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Embodiment
from groot_ros.msg import PolicyStatus
from groot_ros.nodes import convert
from groot_ros.nodes.recorder_parameters import RecorderParameters
from groot_ros.observation.types import Refusal

CALLBACK_WINDOW_S = 1.0  # how long the callback thread may be held up, by a disk, before a queue overflows
# As controllers subscribe to commands. Deep, for the same window at the highest rate that a command comes at.
COMMAND_QOS = QoSProfile(depth=1000, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
REFUSED_EVERY_S = 5.0  # how often a topic's refused messages are told of


class Intervention:
    """Whether a person moves the robot and not the policy, from what both say."""

    def __init__(self) -> None:
        self.by_person = False  # a person says so
        self.by_policy: bool | None = None  # the policy's status says that it does not move the robot; None: not heard

    @property
    def on(self) -> bool:
        """Rows are marked."""
        return self.by_person or bool(self.by_policy)


def moves_robot(policy_state: int) -> bool:
    """Whether a policy in this state of ``PolicyStatus`` commands the robot; one that refuses a tick still holds it."""
    return policy_state in (PolicyStatus.RUNNING, PolicyStatus.REFUSING)


@dataclass
class Recording:
    """The parts."""

    embodiment: Embodiment
    spec: DatasetSpec
    dataset: DatasetWriter
    session: Session
    committer: Committer[EpisodeReport]
    intervention: Intervention
    subscriptions: list[Subscription]

    def close(self, node: Node, timeout_s: float) -> str | None:
        """Take everything down, waiting at most ``timeout_s`` for episodes that are being written.

        The running episode is to be ended before. Returns: what could not be done in that time, in words.
        """
        for subscription in self.subscriptions:
            node.destroy_subscription(subscription)
        if self.committer.close(timeout_s):
            return None
        left, root = self.committer.episodes, self.dataset.root
        if left:
            return (
                f"{root}: {left} saved episodes were not yet written after {timeout_s:g} s: what the next start does "
                f"not end is listed by `groot-ros dataset salvage {root}`"
            )
        return f"{root}: all episodes are saved; its statistics are refreshed by the next start"


def make_recording(node: Node, parameters: RecorderParameters, now_ns: Callable[[], int]) -> Recording:
    """Open the dataset, which ends what a crash interrupted, and subscribe to the robot.

    Raises:
        EmbodimentError, DatasetError, ValueError: robot, dataset or parameters refuse.
    """
    if not parameters.dataset:
        raise ValueError(
            "parameter 'dataset' is empty: name the directory to record into (dataset:=DIR), a new one or a dataset of "
            "this robot"
        )
    embodiment = load_embodiment(parameters.embodiment, parameters.generation or None)
    spec = DatasetSpec.of(embodiment)
    for camera in spec.cameras.values():
        choose_codec(parameters.codec, camera.height, camera.width)  # tried now, not at the first episode
    cv2.setNumThreads(1)  # small images: OpenCV's thread pool costs more than it saves
    logger = node.get_logger()
    dataset = DatasetWriter(
        parameters.dataset,
        spec,
        embodiment.cameras,
        codec=parameters.codec,
        min_free_bytes=round(parameters.min_free_gb * 1e9),
        on_event=logger.warning,
    )
    try:
        session = Session(spec, embodiment, dataset.begin, drop=cast(DropPolicy, parameters.drop_policy))
        subscriptions = _subscribe(node, session, embodiment, now_ns)
    except BaseException:
        dataset.close()
        raise
    return Recording(
        embodiment, spec, dataset, session, Committer(dataset, logger.error), Intervention(), subscriptions
    )


def _subscribe(node: Node, session: Session, embodiment: Embodiment, now_ns: Callable[[], int]) -> list[Subscription]:
    """One subscription per topic, which may be several sources of the session."""
    topics: dict[tuple[str, str], list[str]] = {}
    for source, topic_and_type in session.sources.items():
        topics.setdefault(topic_and_type, []).append(source)
    subscriptions = []
    for (topic, kind), sources in topics.items():
        stream = embodiment.streams.get(sources[0])
        qos = COMMAND_QOS if stream is None else convert.stream_qos(stream.qos, stream.rate_hz, CALLBACK_WINDOW_S)
        receive = partial(_receive, node, session, sources, now_ns)
        subscriptions.append(node.create_subscription(convert.message_class(kind), topic, receive, qos))
    return subscriptions


def _receive(node: Node, session: Session, sources: list[str], now_ns: Callable[[], int], message: Any) -> None:
    received_ns = now_ns()
    for source in sources:
        refusal = session.take(source, message, received_ns)
        if isinstance(refusal, Refusal):
            node.get_logger().warning(
                f"message refused ({refusal.reason.value}): {refusal.message}", throttle_duration_sec=REFUSED_EVERY_S
            )
