"""``/numbered_robot``: cameras, joints and a leader arm that publish on time, for the benchmark of the recorder.

    python -m groot_ros.nodes.numbered_robot --ros-args -p embodiment:=robot.yaml -p log:=published.npz

Stamps are the times at which messages are due; all cameras are triggered together. The first are sent when every topic
has a subscriber, so that what was sent can be compared with what was received.
"""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState

from groot_ros.closed_loop.barcode import Scene
from groot_ros.closed_loop.numbered_robot import JOINTS, KEY, STATE_STREAM, Published, picture_number, positions
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.nodes.convert import RELIABLE_QOS, message_class, to_time
from groot_ros.nodes.parameters import declare, parameter, read
from groot_ros.nodes.runtime import EXIT_FAILED, StartError, request_stop, run

CAMERA_QOS = QoSProfile(depth=5, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
JPEG_QUALITY = 90
BEGIN_S = 0.5  # from the last subscriber that was found, who may not yet have found the publisher
LOOK_S = 0.05


@dataclass(frozen=True)
class NumberedRobotParameters:
    """Parameters of ``/numbered_robot``; read once at the start."""

    embodiment: str = parameter("", "Path of the YAML file that numbered_robot.write_embodiment wrote")
    log: str = parameter("", "npz file for the stamps of all messages, written at the end")
    seed: int = parameter(0, "Seed of the pictures", minimum=0, maximum=2**31 - 1)


class NumberedRobot(Node):
    """Publishes from two threads, one for all pictures and one for joints and leader.

    Raises:
        StartError: the embodiment cannot be read.
    """

    def __init__(self) -> None:
        super().__init__("numbered_robot")
        try:
            declare(self, NumberedRobotParameters)
            options = read(self, NumberedRobotParameters)
            self._embodiment = load_embodiment(options.embodiment)
        except (ParameterException, EmbodimentError, ValueError) as error:
            raise StartError(str(error)) from error
        self._log = Path(options.log)
        cameras = self._embodiment.cameras
        self._cameras = {
            name: self.create_publisher(message_class(camera.type), camera.topic, CAMERA_QOS)
            for name, camera in cameras.items()
        }
        joints = self._embodiment.state_streams[STATE_STREAM]
        self._joints = self.create_publisher(JointState, joints.topic, RELIABLE_QOS)
        leader = self._embodiment.recording.commands[KEY]
        self._leader = self.create_publisher(JointState, leader.topic, RELIABLE_QOS)
        self._scenes = [
            Scene(camera.height, camera.width, options.seed + i) for i, camera in enumerate(cameras.values())
        ]
        self._late_ns: list[list[int]] = [[] for _ in cameras]
        self._counts = {"cameras": 0, "joints": 0}
        self._end, self._ready = threading.Event(), threading.Event()
        self._begin_s, self._begin_ns = 0.0, 0
        (self._camera_hz,) = {camera.rate_hz for camera in cameras.values()}
        self._joint_hz = joints.rate_hz
        self._threads = [
            threading.Thread(target=self._wait_for_subscribers, name="start"),
            threading.Thread(target=self._publish, args=("cameras", self._camera_hz, self._send_pictures)),
            threading.Thread(target=self._publish, args=("joints", self._joint_hz, self._send_joints)),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop, and write what was sent."""
        self._end.set()
        self._ready.set()
        for thread in self._threads:
            thread.join()
        frames, joints = self._counts["cameras"], self._counts["joints"]
        stamps = self._stamps(frames, self._camera_hz)
        Published(
            cameras=dict.fromkeys(self._cameras, stamps),
            joints=self._stamps(joints, self._joint_hz),
            leader=self._stamps(joints, self._joint_hz),
            late_ns={name: np.array(late[:frames], dtype=np.int64) for name, late in zip(self._cameras, self._late_ns)},
        ).write(self._log)

    def _stamps(self, count: int, rate_hz: float) -> NDArray[np.int64]:
        return np.array([self._stamp_ns(number, rate_hz) for number in range(count)], dtype=np.int64)

    def _stamp_ns(self, number: int, rate_hz: float) -> int:
        return self._begin_ns + number * 1_000_000_000 // round(rate_hz)

    def _wait_for_subscribers(self) -> None:
        publishers = [*self._cameras.values(), self._joints, self._leader]
        while not all(publisher.get_subscription_count() for publisher in publishers):
            if self._end.wait(LOOK_S):
                return
        clock = Clock(clock_type=ClockType.SYSTEM_TIME)
        self._begin_s = time.monotonic() + BEGIN_S
        self._begin_ns = int(clock.now().nanoseconds) + round((self._begin_s - time.monotonic()) * 1e9)
        self._ready.set()

    def _publish(self, what: str, rate_hz: float, send: Callable[[int, int], None]) -> None:
        """Call ``send(number, stamp)`` when it is due, and as soon as possible when that is past."""
        number = 0
        self._ready.wait()
        try:
            while not self._end.wait(self._begin_s + number / rate_hz - time.monotonic()):
                send(number, self._stamp_ns(number, rate_hz))
                number += 1
                self._counts[what] = number
        except Exception as error:  # a thread's end would look like a recorder that loses everything
            self.get_logger().fatal(f"{what}: {type(error).__name__}: {error}")
            request_stop(EXIT_FAILED)

    def _send_pictures(self, number: int, stamp_ns: int) -> None:
        for index, (name, publisher) in enumerate(self._cameras.items()):
            camera = self._embodiment.cameras[name]
            barcode = picture_number(number, index, len(self._cameras))
            message = _picture(self._scenes[index].draw(barcode), camera.encodings[0])
            message.header.stamp = to_time(stamp_ns)
            publisher.publish(message)
            self._late_ns[index].append(round((time.monotonic() - self._begin_s - number / self._camera_hz) * 1e9))

    def _send_joints(self, number: int, stamp_ns: int) -> None:
        for publisher, leader in ((self._joints, False), (self._leader, True)):
            message = JointState(name=list(JOINTS), position=positions(number, leader).tolist())
            message.header.stamp = to_time(stamp_ns)
            publisher.publish(message)


def _picture(rgb: NDArray[np.uint8], encoding: str) -> Any:
    data = array.array("B")
    if encoding == "jpeg":
        done, jpeg = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise RuntimeError("OpenCV could not encode a JPEG")
        data.frombytes(memoryview(jpeg.data).cast("B"))
        return CompressedImage(format="jpeg", data=data)
    data.frombytes(memoryview(rgb.data).cast("B"))
    height, width, _ = rgb.shape
    return Image(height=height, width=width, encoding=encoding, step=3 * width, data=data)


if __name__ == "__main__":
    raise SystemExit(run(NumberedRobot))
