"""``/groot_evaluator``: plays seeded episodes with a policy node and whatever robot or simulator there is."""

from __future__ import annotations

import json
import re
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
from rclpy.client import Client
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import Trigger

from groot_ros.closed_loop.evaluation.episode import Plan, Played, ResetAnswer, play
from groot_ros.closed_loop.evaluation.facts import made_with
from groot_ros.closed_loop.evaluation.judge import EpisodeJudge, Interrupted, Phase, PolicyReport
from groot_ros.closed_loop.evaluation.record import (
    VIDEOS,
    Episode,
    EvaluationError,
    EvaluationFolder,
    checkpoint_identity,
)
from groot_ros.closed_loop.evaluation.report import PAGE, write_report
from groot_ros.closed_loop.evaluation.video import Reel
from groot_ros.dataset.durable import json_line
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import load_embodiment
from groot_ros.embodiment.schema import Camera
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.nodes import convert
from groot_ros.nodes.calls import answer, ask
from groot_ros.nodes.evaluator_inputs import RESETS, Reset, chunk_facts, policy_report
from groot_ros.nodes.evaluator_parameters import EvaluatorParameters
from groot_ros.nodes.parameters import declare, read
from groot_ros.nodes.runtime import EXIT_FAILED, EXIT_OK, StartError, request_stop, run
from groot_ros.observation.images import decode, read_frame
from groot_ros.observation.types import Rejected

SUCCESS_VIDEOS = 3
ANSWER_S = 10.0  # a service of the policy node
HALT_S = 0.6  # the same on the way out, twice: of the 1.8 s that a process has to end
END_S = 1.5
ALONE_S = 5.0  # what has just ended is still seen for a moment


class Cancelled(Exception):
    """The process is to end."""


class EvaluatorNode(Node):
    """The ``World`` of ``play``: topics and services. A thread of its own plays; callbacks feed the judge.

    Raises:
        StartError: parameters, embodiment or folder refuse.
    """

    def __init__(self) -> None:
        super().__init__("groot_evaluator")
        try:
            declare(self, EvaluatorParameters)
            self._options = options = read(self, EvaluatorParameters)
            self._reset_kind = _check(options)
            self._about = _read_about(options.about)
            reset_class = convert.message_class(options.reset_type)
            camera = None if options.videos == "none" else _camera(options)
        except (ParameterException, EmbodimentError, ValueError, OSError, ImportError) as error:
            raise StartError(str(error)) from error
        self._folder = EvaluationFolder(Path(options.output).expanduser())
        self._changed = threading.Condition()
        self._judge = EpisodeJudge(options.time_limit_s)
        self._status: PolicyReport | None = None
        self._statuses = 0
        self._reel = Reel()
        self._cancelled = False
        policy = options.policy
        self._policy_calls = {
            name: self.create_client(Trigger, f"{policy}/{name}") for name in ("start", "stop", "reset", "reset_stop")
        }
        self._reset_call: Client = self.create_client(reset_class, options.reset_service)
        self._instruction = self.create_publisher(String, f"{policy}/instruction", convert.RELIABLE_QOS)
        self._told = self.create_publisher(String, "~/episode", convert.LATCHED_QOS)
        self._subscribe(camera)
        self._thread = threading.Thread(target=self._evaluate, name="episodes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give up what is under way; the thread stops the policy before it ends, for which this goes on spinning."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        deadline = time.monotonic() + END_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.02)
        executor.shutdown(timeout_sec=0.1)

    # --- World -------------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """ROS time."""
        return int(self.get_clock().now().nanoseconds)

    def steady_s(self) -> float:
        """Steady time."""
        return time.monotonic()

    def policy(self, service: str) -> tuple[bool, str]:
        """Call a service of the policy node. Raises TimeoutError, Cancelled."""
        return ask(self._policy_calls[service], None, ANSWER_S, self._alive)

    def reset(self, seed: int, task: str) -> ResetAnswer:
        """Change the scene. Raises TimeoutError, Cancelled, and Interrupted when more than one robot is heard."""
        if not self.wait(lambda: not self._crowded(), ALONE_S):
            raise Interrupted(f"{self._crowded()}: is there another simulator or policy in this ROS_DOMAIN_ID?")
        request = self._reset_call.srv_type.Request()
        self._reset_kind.fill(request, seed, task)
        return self._reset_kind.read(answer(self._reset_call, request, self._options.reset_timeout_s, self._alive))

    def instruct(self, text: str) -> None:
        """Give the policy an instruction."""
        self._instruction.publish(String(data=text))

    def attend(self, judge: EpisodeJudge) -> None:
        """From now on ``judge`` hears all events, and the reel is empty."""
        with self._changed:
            self._judge = judge
            self._reel.clear()

    def report(self) -> tuple[int, PolicyReport | None]:
        """How many statuses have come, and the last one."""
        with self._changed:
            return self._statuses, self._status

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds, looked at on every event. Raises Cancelled."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                self._alive()
                left_s = deadline - time.monotonic()
                if left_s <= 0.0:
                    return False
                self._changed.wait(min(left_s, 0.2))
        return True

    def halt(self) -> None:
        """Stop the policy, also when the process is to end."""
        if self._statuses == 0:
            return  # there is no policy that could move anything for us
        try:
            ask(self._policy_calls["stop"], None, HALT_S if self._cancelled else ANSWER_S)
        except Exception as error:  # nothing may hide why this is called
            self.get_logger().error(f"the policy could not be told to stop: {error}")

    def _crowded(self) -> str:
        """A topic that several publish, and nobody can tell whose verdict it is then; empty: there is none."""
        for topic in (self._options.success_topic, f"{self._options.policy}/status"):
            count = self.count_publishers(topic)
            if count > 1:
                return f"{topic}: expected one publisher, found {count}"
        return ""

    def _alive(self) -> None:
        if self._cancelled:
            raise Cancelled

    # --- episodes ----------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """The thread: all episodes, the report, and the end of the process."""
        options, code, note = self._options, EXIT_FAILED, ""
        plan = Plan(options.time_limit_s, options.task, options.instruction, options.start_timeout_s)
        try:
            play(self, plan, self._seeds(), self._keep)
            code = EXIT_OK
        except Cancelled:
            code, note = EXIT_OK, "stopped by a signal"
        except (Interrupted, EvaluationError, OSError) as error:
            note = str(error)
            self.get_logger().fatal(note)
        except Exception as error:  # a bug: it has to be seen, and the process has to end
            note = f"{type(error).__name__}: {error}"
            self.get_logger().error(traceback.format_exc())
            self.get_logger().fatal(note)
        try:
            self._finish(note)
        finally:
            request_stop(code)

    def _seeds(self) -> Iterator[int]:
        """Those that are missing; the folder is opened when the first is asked for: the policy is known then."""
        options, status = self._options, self._status
        assert status is not None
        identity = checkpoint_identity(status.checkpoint)
        setting = {
            "task": options.task,
            "instruction": options.instruction,
            "time_limit_s": options.time_limit_s,
            "embodiment": status.embodiment,
            "checkpoint": status.checkpoint,
            "checkpoint_identity": identity,
            "reset_service": f"{options.reset_service} ({options.reset_type})",
            **self._about.get("setting", {}),
        }
        facts = {"command": shlex.join(sys.argv), **made_with(), **self._about.get("facts", {})}
        self._folder.begin(setting, facts, options.resume)
        wanted = range(options.seed, options.seed + options.episodes)
        seeds = self._folder.missing(wanted)
        self._folder.episodes = [episode for episode in self._folder.episodes if episode.seed in wanted]
        self.get_logger().info(f"{len(seeds)} of {options.episodes} episodes to play, into {self._folder.path}")
        yield from seeds

    def _keep(self, played: Played) -> None:
        episode = Episode.of(played, self._options.task, self._film(played))
        self._folder.append(episode)
        write_report(self._folder, self._options.episodes)
        self._told.publish(String(data=json_line({"seed": episode.seed, "outcome": episode.outcome}).strip()))
        successes = sum(other.success for other in self._folder.episodes)
        self.get_logger().info(
            f"seed {episode.seed}: {episode.outcome} after {episode.time_s:.1f} s; "
            f"{successes} of {len(self._folder.episodes)} so far"
        )

    def _film(self, played: Played) -> str | None:
        """Write the video that an episode is to have; its path in the folder."""
        verdict, videos = played.verdict, self._options.videos
        filmed = sum(1 for other in self._folder.episodes if other.success and other.video)
        if videos == "none" or (videos == "failures" and verdict.success and filmed >= SUCCESS_VIDEOS):
            return None
        outcome = "success" if verdict.success else verdict.reason
        name = f"{VIDEOS}/{played.seed:06d}_{re.sub(r'[^A-Za-z0-9_-]', '_', outcome)}.mp4"
        begin_ns = played.judge.began_ns
        lines = (f"seed {played.seed}: {played.instruction}", f"{outcome} after {verdict.time_s:.1f} s")
        try:
            done = self._reel.write(
                self._folder.path / name, begin_ns, begin_ns + round(1e9 * verdict.time_s), lines, verdict.success
            )
        except (OSError, ValueError, av.FFmpegError) as error:
            self.get_logger().error(f"no video of seed {played.seed}: {error}")
            return None
        if not done:
            self.get_logger().warning(f"no video of seed {played.seed}: no picture came while it ran")
        return name if done else None

    def _finish(self, note: str) -> None:
        """The last report, and where it is."""
        if not self._folder.episodes:
            return
        try:
            summary = write_report(self._folder, self._options.episodes, note)
        except (OSError, EvaluationError) as error:
            self.get_logger().error(f"no report: {error}")
            return
        self.get_logger().info(
            f"{summary.successes} of {summary.episodes} episodes succeeded: {self._folder.path / PAGE}"
        )

    # --- topics ------------------------------------------------------------------------------------------------------

    def _subscribe(self, camera: tuple[str, Camera] | None) -> None:
        options = self._options
        # Best effort hears both kinds of publisher; what is said once is asked for reliably.
        often = convert.stream_qos("sensor_data", 10.0, 1.0)
        judged: list[tuple[Any, str, Callable[[Any], None], Any]] = [
            (Bool, options.success_topic, lambda m: self._judge.succeeded(m.data, self.now_ns()), often),
            (String, options.failure_topic, lambda m: self._judge.failed(m.data, self.now_ns()), convert.RELIABLE_QOS),
            (Float64, options.distance_topic, lambda m: self._judge.distance(m.data), often),
            (ActionChunk, f"{options.policy}/action_chunk", self._on_chunk, convert.RELIABLE_QOS),
            (PolicyStatus, f"{options.policy}/status", self._on_status, convert.RELIABLE_QOS),
        ]
        for kind, topic, call, qos in judged:
            if topic:
                self.create_subscription(kind, topic, self._heard(call), qos)
        if camera is not None:
            name, spec = camera
            qos = convert.stream_qos("sensor_data", spec.rate_hz, 0.2)
            self.create_subscription(convert.message_class(spec.type), spec.topic, self._on_frame(name, spec), qos)

    def _heard(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            with self._changed:
                call(message)
                self._changed.notify_all()

        return receive

    def _on_chunk(self, message: ActionChunk) -> None:
        self._judge.chunk(chunk_facts(message))

    def _on_status(self, message: PolicyStatus) -> None:
        self._status = policy_report(message)
        self._statuses += 1
        self._judge.policy(self._status, self.now_ns())

    def _on_frame(self, name: str, camera: Camera) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            # By the time of arrival: the stamps of a camera may be of another clock.
            now_ns = self.now_ns()
            if self._judge.phase is not Phase.RUNNING or not self._reel.wants(now_ns):
                return
            try:
                self._reel.add(now_ns, decode(read_frame(message, name, camera), name, camera))
            except Rejected as error:
                self.get_logger().warning(f"not filmed: {error}", throttle_duration_sec=10.0)

        return receive


def _check(options: EvaluatorParameters) -> Reset:
    """How to ask the reset service. Raises: ValueError naming a parameter."""
    for name in ("output", "success_topic", "reset_service", "policy"):
        if not getattr(options, name):
            raise ValueError(f"parameter '{name}' is empty: give a {'folder' if name == 'output' else 'name'}")
    reset = RESETS[options.reset_type]
    if options.task and not reset.seeded:
        raise ValueError(
            f"parameter 'task': expected none, for {options.reset_type} takes none, found '{options.task}': leave it "
            "out, and set 'instruction'"
        )
    return reset


def _camera(options: EvaluatorParameters) -> tuple[str, Camera]:
    """Name and specification of the camera that is filmed. Raises: EmbodimentError, ValueError."""
    cameras = load_embodiment(options.embodiment).all_cameras
    names = list(cameras)
    name = options.camera or names[-1]  # one that is there to be looked at, where there is one
    if name not in names:
        raise ValueError(f"parameter 'camera': expected one of {', '.join(names)}, found '{name}'")
    return name, cameras[name]


def _read_about(path: str) -> dict[str, Any]:
    """More of what the report tells: an object with ``setting`` and ``facts``. Raises: ValueError, OSError."""
    if not path:
        return {}
    about = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(about, dict) or not all(isinstance(part, dict) for part in about.values()):
        raise ValueError(f"{path}: expected an object of objects, setting and facts")
    return about


def main(args: Sequence[str] | None = None) -> int:
    """Run ``/groot_evaluator``; ``args`` is a command line with the program's name first (None: ``sys.argv``)."""
    return run(EvaluatorNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
