"""``/groot_recorder``: cameras, joints and commands into a LeRobot dataset, episode by episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, cast

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from groot_ros.dataset.background import Committed
from groot_ros.dataset.bag_events import EpisodeEvent
from groot_ros.dataset.episode_report import EpisodeReport
from groot_ros.dataset.session_types import Answer, SessionEvent, SessionState
from groot_ros.dataset.staging import EpisodeWriter
from groot_ros.msg import PolicyStatus, RecorderStatus
from groot_ros.nodes import convert, recorder_reports
from groot_ros.nodes.parameters import declare, read
from groot_ros.nodes.recorder_parameters import RecorderParameters
from groot_ros.nodes.recorder_reports import Counts, Problem, result_text
from groot_ros.nodes.recording import Recording, make_recording, moves_robot
from groot_ros.nodes.runtime import EXIT_USAGE, leave, request_stop, run
from groot_ros.observation.types import Reason

STATUS_HZ = 5.0
TICK_HZ = 50.0  # how often ticks of the grid are settled when no message comes, and a change of state is looked for
CLOCK_SILENT_S = 1.0  # a simulated clock that stands still for so long is told of
POLICY_SILENT_S = 1.0  # a policy publishes its status at 5 Hz; one that does not is gone
CLOSE_S = 1.2  # for saved episodes that are being written: of the 2 s that a stop may take
CLEANUP_S = 60.0  # the same, when the process goes on
CLOCK_STOPPED = Problem(
    Reason.CLOCK_STOPPED.value,
    "/clock: expected ROS time to go on, found it standing still, check its publisher or unset use_sim_time",
)
EVENTS_QOS = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)


class RecorderNode(LifecycleNode):
    """Wires topics and services to a ``Session``, and what it finishes to the dataset.

    Args:
        give_up: end the process with exit code 2 when ``autostart`` cannot configure; else the node waits, as a
            lifecycle node does, to be configured again.
    """

    def __init__(self, *, give_up: bool = False) -> None:
        super().__init__("groot_recorder")
        self._give_up = give_up
        declare(self, RecorderParameters)
        self._settings = RecorderParameters()
        self._recording: Recording | None = None
        self._active = False
        self._problem = Problem()
        self._counts = Counts()
        self._told: tuple[object, ...] = ()
        self._policy_heard_s = 0.0
        self._ros_time = (-1, 0.0)  # ROS time (ns) and the steady time (s) since which it is that
        self._statuses = self.create_publisher(RecorderStatus, "~/status", convert.RELIABLE_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", convert.RELIABLE_QOS)
        self._events = self.create_publisher(String, "~/episode_events", EVENTS_QOS)
        self.create_subscription(String, "~/task", self._on_task, convert.RELIABLE_QOS)
        for kind, name, action in (
            (Trigger, "start_episode", lambda recording, _: self._start(recording)),
            (Trigger, "discard_episode", lambda recording, _: self._discard(recording)),
            (SetBool, "pause", lambda recording, request: self._pause(recording, request.data)),
            (SetBool, "intervention", lambda recording, request: self._by_person(recording, request.data)),
        ):
            self.create_service(kind, f"~/{name}", partial(self._serve, action))
        # In a group of its own: while it waits for the disk, the others have to be served.
        own = ReentrantCallbackGroup()
        self.create_service(Trigger, "~/save_episode", self._serve_save, callback_group=own)
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)
        # Reports go on when a simulated clock does not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / TICK_HZ, self._on_tick, clock=steady)
        self.create_timer(1.0 / STATUS_HZ, self._publish_status, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        if self.get_parameter("autostart").value:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady)

    # --- lifecycle ---------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the dataset and subscribe to the robot."""
        try:
            self._configure(read(self, RecorderParameters))
        except Exception as error:
            # Whatever the cause, the node stays up, says it once in full and can be configured again.
            self._problem = Problem(type(error).__name__, str(error))
            self.get_logger().error(f"not configured: {error}")
            return TransitionCallbackReturn.FAILURE
        self._problem = Problem()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allow episodes."""
        self._active = True
        self._counts = Counts()
        self.get_logger().info("ready; call ~/start_episode, or run `ros2 run groot_ros record_keys`")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Abort a running episode."""
        self._leave_episode("the recorder was deactivated")
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish what was saved, and let others write to the dataset."""
        self._forget(CLEANUP_S)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Abort a running episode and finish what was saved; called on SIGINT and SIGTERM too."""
        self._leave_episode("the recorder was stopped")
        self._active = False
        self._forget(CLOSE_S)

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        if self.trigger_configure() is TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()
        elif self._give_up:
            request_stop(EXIT_USAGE)

    def _configure(self, parameters: RecorderParameters) -> None:
        self._settings = parameters
        recording = make_recording(self, parameters, self._now_ns)
        if parameters.policy:
            topic = f"{parameters.policy}/status"
            status = self.create_subscription(PolicyStatus, topic, self._on_policy, convert.RELIABLE_QOS)
            recording.subscriptions.append(status)
        self._recording = recording
        dataset = recording.dataset
        self.get_logger().info(
            f"{dataset.root}: {dataset.episodes} episodes, {dataset.frames} rows of {recording.embodiment.name} at "
            f"{recording.spec.fps} Hz"
        )

    def _leave_episode(self, why: str) -> None:
        if self._recording is not None and self._recording.session.state is not SessionState.IDLE:
            self._recording.session.abandon(why, self._now_ns())
            self._tell_events(self._recording)

    def _forget(self, timeout_s: float) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            late = recording.close(self, timeout_s)
            if late is not None:
                self.get_logger().error(late)

    # --- services and topics -----------------------------------------------------------------------------------------

    def _start(self, recording: Recording) -> Answer:
        if recording.committer.full:
            return Answer(False, "the disk is behind: saved episodes wait to be written; start when they are")
        now_ns = self._now_ns()
        task = str(self.get_parameter("task").value)
        answer = recording.session.start(task, now_ns)
        if answer.ok:
            self._counts.last_result = ""
            self._event(EpisodeEvent("start", now_ns, task=task.strip()))
            if recording.intervention.on:  # said again for a bag that began after it was said
                self._event(EpisodeEvent("intervention", now_ns))
            if self._settings.policy and recording.intervention.by_policy is None:
                self.get_logger().warning(
                    f"nothing heard on {self._settings.policy}/status: rows are not marked as interventions until it is"
                )
        return answer

    def _discard(self, recording: Recording) -> Answer:
        now_ns = self._now_ns()
        answer = recording.session.discard(now_ns)
        if answer.ok:
            self._counts.discarded += 1
            self._counts.last_result = answer.message
            self.get_logger().info(answer.message)
            self._event(EpisodeEvent("discard", now_ns))
        return answer

    def _pause(self, recording: Recording, on: bool) -> Answer:
        now_ns = self._now_ns()
        answer = recording.session.pause(on, now_ns)
        if answer.ok:
            self._event(EpisodeEvent("pause" if on else "resume", now_ns))
        return answer

    def _by_person(self, recording: Recording, on: bool) -> Answer:
        self._mark(recording, by_person=on)
        if on == recording.intervention.on:
            return Answer(True, "rows are marked as an intervention" if on else "rows are not marked any more")
        return Answer(True, f"rows stay marked as an intervention: {self._settings.policy} does not move the robot")

    def _mark(self, recording: Recording, by_person: bool | None = None, by_policy: bool | None = None) -> None:
        intervention = recording.intervention
        before = intervention.on
        intervention.by_person = intervention.by_person if by_person is None else by_person
        intervention.by_policy = intervention.by_policy if by_policy is None else by_policy
        if intervention.on != before:
            now_ns = self._now_ns()
            recording.session.intervention(intervention.on, now_ns)
            self._event(EpisodeEvent("intervention", now_ns, on=intervention.on))

    def _on_policy(self, message: PolicyStatus) -> None:
        self._policy_heard_s = time.monotonic()
        if self._recording is not None:
            self._mark(self._recording, by_policy=not moves_robot(message.state))

    def _on_task(self, message: String) -> None:
        self.set_parameters([Parameter("task", value=message.data)])
        self._publish_status()

    def _on_time_jump(self, jump: TimeJump) -> None:
        if self._recording is not None:
            self._recording.session.time_jump(self._now_ns())

    def _serve(self, action: Callable[[Recording, Any], Answer], request: Any, response: Any) -> Any:
        """A callback for std_srvs; what it came to is on ``~/status`` at once."""
        answer = self._unready()
        if answer is None and self._recording is not None:
            answer = action(self._recording, request)
        return self._answer(response, answer)

    async def _serve_save(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answers when the episode is durable; messages of the robot go on being taken meanwhile."""
        answer = self._unready()
        if answer is None and self._recording is not None:
            saving = self._save(self._recording)
            self._publish_status()
            answer = saving if isinstance(saving, Answer) else await saving
        return self._answer(response, answer)

    def _save(self, recording: Recording) -> Answer | Future[Answer]:
        if recording.committer.full:
            return Answer(False, "the disk is behind: saved episodes wait to be written; save again when they are")
        now_ns = self._now_ns()
        answer, finished = recording.session.save(now_ns)
        if not answer.ok:
            return answer
        self._event(EpisodeEvent("save", now_ns))
        done: Future[Answer] = Future()
        source = {"source": self.get_fully_qualified_name()}
        episodes = [(cast(EpisodeWriter, segment.writer), {**segment.report, **source}) for segment in finished]
        recording.committer.put(episodes, partial(self._saved, done))
        return done

    def _saved(self, done: Future[Answer], outcome: Committed[EpisodeReport]) -> None:
        """In the thread that commits."""
        text = result_text(outcome)
        self._counts.saved += len(outcome.reports)
        self._counts.last_result = text
        if outcome.problems:
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)
        done.set_result(Answer(not outcome.problems, text))

    def _unready(self) -> Answer | None:
        if self._recording is None:
            because = f": {self._problem.message}" if self._problem.message else ""
            return Answer(False, f"not configured{because}")
        return None if self._active else Answer(False, "not active: activate the node first")

    def _answer(self, response: Any, answer: Answer | None) -> Any:
        if answer is not None:
            response.success, response.message = answer.ok, answer.message
            if not answer.ok:
                self.get_logger().warning(f"refused: {answer.message}")
        self._publish_status()
        return response

    # --- time and reports --------------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _on_tick(self) -> None:
        recording, now_ns = self._recording, self._now_ns()
        if recording is not None:
            recording.session.advance(now_ns)
            self._watch_clock(now_ns)
            if recording.intervention.by_policy is False and self._policy_silent():
                self._mark(recording, by_policy=True)
                self.get_logger().warning(f"{self._settings.policy}/status: nothing for {POLICY_SILENT_S:g} s")
            self._tell_events(recording)
        if self._look() != self._told:
            self._publish_status()

    def _watch_clock(self, now_ns: int) -> None:
        """A simulated clock that stands still stops everything, and no tick would tell."""
        now_s = time.monotonic()
        if now_ns != self._ros_time[0]:
            self._ros_time, self._problem = (now_ns, now_s), Problem()
        elif self._problem != CLOCK_STOPPED and now_s - self._ros_time[1] > CLOCK_SILENT_S:
            self._problem = CLOCK_STOPPED
            self.get_logger().warning(CLOCK_STOPPED.message)

    def _policy_silent(self) -> bool:
        return time.monotonic() - self._policy_heard_s > POLICY_SILENT_S

    def _tell_events(self, recording: Recording) -> None:
        for event in recording.session.events():
            self._tell_event(event)

    def _tell_event(self, event: SessionEvent) -> None:
        logger = self.get_logger()
        if event.kind == "aborted":
            logger.error(event.message)
            self._counts.aborted += 1
            self._counts.last_result = event.message
            # In a bag the next start must not find it running. Its own time: the next start may have come already.
            self._event(EpisodeEvent("discard", min(event.time_ns, self._now_ns())))
        elif event.kind in ("dropped", "paused"):
            logger.warning(event.message)
        else:
            logger.info(event.message)

    def _event(self, event: EpisodeEvent) -> None:
        """Tell what was asked: a bag of it and of the robot's topics gives the same episodes."""
        self._events.publish(String(data=event.to_text()))

    def _look(self) -> tuple[object, ...]:
        """What a change of is told at once."""
        recording = self._recording
        if recording is None or self._problem.reason:
            return (None, self._problem)
        session, counts = recording.session, self._counts
        return (self._active, session.state, session.reason, counts.last_result, recording.intervention.on)

    def status(self) -> RecorderStatus:
        """What ``~/status`` says now."""
        return recorder_reports.status_message(
            self._recording,
            now_ns=self._now_ns(),
            active=self._active,
            settings=self._settings,
            task=str(self.get_parameter("task").value),
            problem=self._problem,
            counts=self._counts,
        )

    def _publish_status(self) -> None:
        self._told = self._look()
        self._statuses.publish(self.status())

    def _publish_diagnostics(self) -> None:
        self._diagnostics.publish(recorder_reports.diagnostics_message(self.status(), self.get_name()))


def main(args: Sequence[str] | None = None, *, give_up: bool = False) -> NoReturn:
    """Executable ``recorder_node``; with ``give_up``, for a person at a terminal, see ``RecorderNode``."""
    leave(run(lambda: RecorderNode(give_up=give_up), args))


if __name__ == "__main__":
    main()
