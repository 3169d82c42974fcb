"""``/groot_policy``: cameras, joints and an instruction in, commands out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.nodes import convert, reports
from groot_ros.nodes.parameters import declare, read
from groot_ros.nodes.policy_parameters import PolicyParameters
from groot_ros.nodes.robot import LOCAL_POLICY, Hooks, Robot, load_embodiment_for, make_policy, make_robot
from groot_ros.nodes.runtime import EXIT_USAGE, leave, on_stop, request_stop, run
from groot_ros.observation.types import Reason, Refusal
from groot_ros.policy.cycle import DISOWNED, Planned
from groot_ros.policy.instructions import InstructionDesk, Instructions
from groot_ros.policy.process import ProcessPolicy
from groot_ros.policy.supervisor import Answer, Supervisor

T = TypeVar("T")
STATUS_HZ = 5.0
CHANGE_HZ = 50.0  # how often a change of state is looked for
DESK_S = 0.1  # for an instruction that is being judged
CLOSE_S = 0.4  # each, for the way to rest, the control thread, the inference: of the 2 s that a stop may take


class PolicyNode(LifecycleNode):
    """Wires topics to the assembler, chunks to topics, and services to the supervisor.

    Args:
        give_up: end the process with exit code 2 when ``autostart`` cannot configure; else the node waits, as a
            lifecycle node does, to be configured again.
        policy: ``package.module:callable`` that makes the policy in its own process.
    """

    def __init__(self, *, give_up: bool = False, policy: str = LOCAL_POLICY) -> None:
        super().__init__("groot_policy")
        self._give_up = give_up
        self._factory = policy
        declare(self, PolicyParameters)
        # Told later: a terminal that is paused blocks who writes to it, and whoever latches holds the lock.
        self._stops: SimpleQueue[str] = SimpleQueue()
        self._supervisor = Supervisor(lambda reason, message: self._stops.put(f"stopped ({reason}): {message}"))
        self._settings = PolicyParameters()
        self._instructions = Instructions()
        self._sequence = self._told = 0
        self._robot: Robot | None = None
        self._loading: ProcessPolicy | None = None
        on_stop(self._stop_loading)
        self._reported: PolicyStatus | None = None
        self._status = self.create_publisher(PolicyStatus, "~/status", convert.RELIABLE_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", convert.RELIABLE_QOS)
        self._chunks = self.create_publisher(ActionChunk, "~/action_chunk", convert.RELIABLE_QOS)
        self._active_instruction = self.create_publisher(String, "~/active_instruction", convert.LATCHED_QOS)
        self._desk = InstructionDesk(self._judge)
        self.create_subscription(String, "~/instruction", self._on_instruction, convert.RELIABLE_QOS)
        self.create_subscription(Bool, "~/estop", self._on_estop, convert.RELIABLE_QOS)
        for kind, name, action in (
            (Trigger, "start", lambda _: self._start()),
            (Trigger, "stop", lambda _: self._stop()),
            (Trigger, "reset", lambda _: self._reset()),
            (Trigger, "reset_stop", lambda _: self._reset_stop()),
            (SetBool, "pause", lambda request: self._pause(request.data)),
            (SetBool, "dry_run", lambda request: self._set_dry_run(request.data)),
        ):
            self.create_service(kind, f"~/{name}", self._service(action))
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)
        # Reports go on when a simulated clock does not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / STATUS_HZ, self._publish_status, clock=steady)
        self.create_timer(1.0 / CHANGE_HZ, self._publish_change, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        if self.get_parameter("autostart").value:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=steady)

    # --- lifecycle ---------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, check and warm the model; subscribe to the robot."""
        try:
            self._configure(read(self, PolicyParameters))
        except Exception as error:
            # Whatever the cause, the node stays up, says it once in full and can be configured again.
            self._forget()
            self._supervisor.unconfigured(type(error).__name__, str(error))
            self.get_logger().error(f"not configured: {error}")
            return TransitionCallbackReturn.FAILURE
        self._supervisor.configured()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allow commands; they wait for ``~/start`` unless ``start_on_activate``."""
        assert self._robot is not None
        self._robot.begin_episode()
        self._sequence = 0
        self._supervisor.activated()
        self._robot.set_active(self, True)
        result = super().on_activate(state)
        if self._settings.start_on_activate:
            answer = self._start()
            self.get_logger().info(f"start_on_activate: {answer.message}")
        else:
            self.get_logger().info("ready; call ~/start to let the robot move")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Brake if moving; no command after that."""
        self._brake(self._supervisor.deactivated)
        if self._robot is not None:
            self._robot.set_active(self, False)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop model and subscriptions."""
        self._forget()
        self._supervisor.unconfigured()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Brake if moving and end the inference; called on SIGINT and SIGTERM too."""
        self._brake(self._supervisor.unconfigured)
        self._forget()
        self._desk.close(DESK_S)
        self._tell_stops()

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        if self.trigger_configure() is TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()
        elif self._give_up:
            request_stop(EXIT_USAGE)

    def _configure(self, parameters: PolicyParameters) -> None:
        embodiment = load_embodiment_for(parameters)
        self._settings = parameters
        self.get_logger().info(f"loading {parameters.checkpoint} for {embodiment.name}")
        # Small images: OpenCV's thread pool costs more than it saves (two VGA cameras: p95 5.8 -> 1.1 ms).
        cv2.setNumThreads(1)
        try:
            policy = make_policy(parameters, embodiment, self._factory, self._begin_loading)
        finally:
            self._loading = None
        facts = policy.facts
        self._tell_notices(policy)
        way = f" ({facts.engine.mode}, precision {facts.engine.precision})" if facts.engine is not None else ""
        self.get_logger().info(
            f"model warm on {facts.device}, {1e3 * facts.warm_s:.1f} ms per chunk{way}; {embodiment.control.chunking} "
            f"chunks at {embodiment.control.rate_hz:g} Hz"
        )
        hooks = Hooks(self._turn, self._failed, self._on_clock_stopped, self._on_work_failed)
        try:
            robot = make_robot(self, parameters, embodiment, policy, self._supervisor, self._now_ns, hooks)
        except BaseException:
            policy.close()
            raise
        self._robot = robot
        robot.commander.dry_run = parameters.dry_run
        dropped = self._instructions.begin(
            policy.check_instruction, parameters.instruction, embodiment.language.default or ""
        )
        if dropped:
            self.get_logger().error(dropped)
        self._publish_instruction()
        robot.start()

    def _begin_loading(self, policy: ProcessPolicy) -> None:
        self._loading = policy

    def _stop_loading(self) -> None:
        policy = self._loading
        if policy is not None:  # the executor waits for it, and would not see the signal before
            policy.close()

    def _forget(self) -> None:
        robot, self._robot = self._robot, None
        self._instructions.end()
        if robot is not None:
            for late in robot.close(self, CLOSE_S):
                self.get_logger().warning(late)

    # --- inference and control threads -------------------------------------------------------------------------------

    def _turn(self) -> bool:
        robot = self._robot
        if robot is None:
            return False
        epoch = self._supervisor.epoch
        alone = robot.commander.dry_run  # asked once: a dry run that begins now first brakes
        if alone and not robot.commander.settled:
            return False
        result = robot.cycle.run(
            self._instructions.text,
            None if self._settings.seed < 0 else self._settings.seed,
            alone=alone,
            permitted=lambda: self._supervisor.moving and self._supervisor.epoch == epoch,
            executed=robot.commander.executed,
        )
        if isinstance(result, Refusal):
            if self._supervisor.refused(result):
                self.get_logger().warning(f"refused ({result.reason.value}): {result.message}")
            return False
        if isinstance(result, Planned):
            self._report(robot, result)
            return True
        if result.reason == DISOWNED:
            return False
        self._supervisor.rejected(result.reason)
        robot.continuity.rejected(result.reason)
        if result.stop:
            self._brake(lambda: self._supervisor.latch(result.reason, result.message))
        self.get_logger().error(f"chunk rejected ({result.reason}): {result.message}")
        return False

    def _report(self, robot: Robot, planned: Planned) -> None:
        usual = planned.accepted.chunk.usual
        recovered = self._supervisor.sent(planned.age_s - planned.stages_s["model"], planned.stages_s, usual)
        if usual:
            robot.continuity.delayed(planned.delay_ticks)
        self._chunks.publish(
            reports.chunk_message(
                planned.accepted,
                robot.layout,
                self._sequence,
                planned.age_s,
                planned.stages_s,
                planned.gated_actions,
                delay_ticks=planned.delay_ticks,
            )
        )
        self._sequence += 1
        if recovered:
            self.get_logger().info("observations are good again; going on")

    def _failed(self, error: Exception) -> None:
        if self._robot is None:
            return  # the process that infers was ended, with an inference under way
        message = f"{type(error).__name__}: {error}"
        self._brake(lambda: self._supervisor.latch("exception", message, error=True))

    def _on_work_failed(self, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        self._brake(lambda: self._supervisor.latch("control_exception", message, error=True))

    def _on_clock_stopped(self) -> None:
        text = "/clock: expected ROS time to go on, found it standing still, check its publisher or unset use_sim_time"
        if self._supervisor.refused(Refusal(Reason.CLOCK_STOPPED, "/clock", text)):
            self.get_logger().warning(f"refused (clock_stopped): {text}")

    def _brake(self, transition: Callable[[], T]) -> T:
        return self._robot.commander.brake(transition) if self._robot is not None else transition()

    # --- services and topics -----------------------------------------------------------------------------------------

    def _start(self) -> Answer:
        answer = self._supervisor.start()
        if answer.done and self._robot is not None:
            self._robot.worker.restart()
        return answer

    def _stop(self) -> Answer:
        return self._brake(self._supervisor.stop)

    def _pause(self, on: bool) -> Answer:
        answer = self._brake(lambda: self._supervisor.pause(on))
        if answer.done and not on and self._robot is not None:
            self._robot.worker.restart()
        return answer

    def _reset(self) -> Answer:
        if self._robot is None:
            return Answer(False, "not configured")
        self._brake(self._supervisor.stop)
        self._robot.begin_episode()
        return Answer(True, "samples and plan forgotten; call ~/start for the next episode")

    def _reset_stop(self) -> Answer:
        hung_s = self._robot.commander.hung_s if self._robot is not None else 0.0
        if hung_s:
            text = f"the inference has not answered for {hung_s:.1f} s: wait for it, or cleanup and configure again"
            return Answer(False, text)
        return self._supervisor.reset_stop()

    def _set_dry_run(self, on: bool) -> Answer:
        if not on and self._robot is not None:
            try:
                check_commandable(self._robot.embodiment)
            except EmbodimentError as error:
                return Answer(False, f"still a dry run: {error}")
        if self._robot is None:
            return Answer(False, "not configured; set the parameter dry_run")
        self._robot.commander.set_dry_run(on)
        return Answer(True, "dry run: no commands" if on else "commands go to the robot")

    def _on_instruction(self, message: String) -> None:
        if not self._desk.put(message.data):
            self.get_logger().warning("~/instruction: more texts than can be judged; the oldest one was dropped")

    def _judge(self, text: str) -> None:
        refused = self._instructions.offer(text)
        if refused:
            self.get_logger().error(f"{refused}; going on with '{self._instructions.text}'")
        self._publish_instruction()

    def _publish_instruction(self) -> None:
        self._active_instruction.publish(String(data=self._instructions.text))

    def _on_estop(self, message: Bool) -> None:
        self._brake(lambda: self._supervisor.estop(message.data))

    def _on_time_jump(self, jump: TimeJump) -> None:
        if self._robot is not None:
            self._supervisor.new_epoch()
            self._robot.commander.stand()
            self._robot.assembler.reset()
            self._robot.worker.restart()

    def _service(self, action: Callable[[Any], Answer]) -> Callable[[Any, Any], Any]:
        """A callback for std_srvs: ``action`` gets the request; what it came to is on ``~/status`` at once."""

        def serve(request: Any, response: Any) -> Any:
            answer = action(request)
            response.success, response.message = answer.done, answer.message
            self._publish_status()
            return response

        return serve

    # --- reports -----------------------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _status_now(self) -> PolicyStatus:
        now_ns, robot = self._now_ns(), self._robot
        return reports.status_message(
            self._supervisor.snapshot(),
            now_ns=now_ns,
            instruction=self._instructions.text,
            embodiment=self._settings.embodiment,
            checkpoint=self._settings.checkpoint,
            dry_run=robot.commander.dry_run if robot is not None else self._settings.dry_run,
            ages_s=robot.assembler.ages_s(now_ns) if robot is not None else {},
            rates_hz=robot.assembler.rates_hz() if robot is not None else {},
            queue_points=robot.timeline.remaining(robot.loop.tick) if robot is not None else 0,
            timing=robot.loop.timing() if robot is not None else None,
            continuity=robot.continuity.summary() if robot is not None else None,
            chunking=robot.timeline.mode if robot is not None else "",
            braking=robot is not None and not robot.commander.settled and not self._supervisor.moving,
        )

    def _publish_change(self) -> None:
        robot = self._robot
        if robot is not None:
            if (gone := robot.policy.gone) is not None:
                self._failed(gone)
            self._tell_notices(robot.policy)
        if self._supervisor.changes != self._told:
            self._publish_status()
        self._tell_stops()

    def _tell_stops(self) -> None:
        while not self._stops.empty():
            self.get_logger().error(self._stops.get())

    def _tell_notices(self, policy: ProcessPolicy) -> None:
        for notice in policy.take_notices():
            self.get_logger().warning(notice)

    def _publish_status(self) -> None:
        self._told = self._supervisor.changes
        self._status.publish(self._status_now())

    def _publish_diagnostics(self) -> None:
        robot = self._robot
        streams = robot.embodiment.streams if robot is not None else {}
        ages = {name: stream.max_age_s for name, stream in streams.items()}
        engine = robot.policy.facts.engine if robot is not None else None
        status = self._status_now()
        message = reports.diagnostics_message(status, ages, self.get_name(), self._reported, engine)
        self._diagnostics.publish(message)
        self._reported = status


def main(args: Sequence[str] | None = None, *, give_up: bool = False, policy: str = LOCAL_POLICY) -> NoReturn:
    """Executable ``policy_node``; with ``give_up``, for a person at a terminal, see ``PolicyNode``."""
    leave(run(lambda: PolicyNode(give_up=give_up, policy=policy), args))


if __name__ == "__main__":
    main()
