"""``/groot_policy``: cameras, joints and an instruction in, trajectory chunks out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from groot_ros.control.plan import JointPlan
from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.schema import Embodiment
from groot_ros.embodiment.vocabulary import JOINT_TRAJECTORY
from groot_ros.msg import ActionChunk, PolicyStatus
from groot_ros.nodes import convert
from groot_ros.nodes.parameters import declare, read
from groot_ros.nodes.policy_parameters import PolicyParameters
from groot_ros.nodes.runtime import EXIT_USAGE, leave, request_stop, run
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Reason, Refusal
from groot_ros.policy.cycle import Planned, PolicyCycle
from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.instructions import Instructions
from groot_ros.policy.local import LocalPolicy
from groot_ros.policy.supervisor import Answer, Supervisor
from groot_ros.policy.worker import Worker

T = TypeVar("T")
STATUS_HZ = 5.0
CALLBACK_WINDOW_S = 0.2  # how long the callback thread may be held up before a queue overflows
CLOSE_S = 1.0  # what is left of the 2 s that a stop may take goes to ROS


@dataclass(frozen=True)
class _Robot:
    """What exists between configure and cleanup."""

    embodiment: Embodiment
    assembler: Assembler
    cycle: PolicyCycle
    worker: Worker
    commands: dict[str, Publisher]
    subscriptions: list[Subscription]


class PolicyNode(LifecycleNode):
    """Wires topics to the assembler, the worker's plans to topics, and services to the supervisor.

    Args:
        give_up: end the process with exit code 2 when ``autostart`` cannot configure; else the node waits, as a
            lifecycle node does, to be configured again.
    """

    def __init__(self, *, give_up: bool = False) -> None:
        super().__init__("groot_policy")
        self._give_up = give_up
        declare(self, PolicyParameters)
        self._supervisor = Supervisor()
        self._settings = PolicyParameters()
        self._instructions = Instructions()
        self._dry_run = False
        self._sequence = 0
        self._robot: _Robot | None = None

        self._status = self.create_publisher(PolicyStatus, "~/status", convert.RELIABLE_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", convert.RELIABLE_QOS)
        self._chunks = self.create_publisher(ActionChunk, "~/action_chunk", convert.RELIABLE_QOS)
        self._active_instruction = self.create_publisher(String, "~/active_instruction", convert.LATCHED_QOS)
        self.create_subscription(String, "~/instruction", self._on_instruction, convert.RELIABLE_QOS)
        self.create_subscription(Bool, "~/estop", self._on_estop, convert.RELIABLE_QOS)
        for name, trigger in (
            ("start", self._start),
            ("stop", self._stop),
            ("reset", self._reset),
            ("reset_stop", self._supervisor.reset_stop),
        ):
            self.create_service(Trigger, f"~/{name}", self._trigger(trigger))
        for name, switch in (("pause", self._pause), ("dry_run", self._set_dry_run)):
            self.create_service(SetBool, f"~/{name}", self._switch(switch))
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)
        # Reports go on when a simulated clock does not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / STATUS_HZ, self._publish_status, clock=steady)
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
        self._robot.cycle.reset(braking=True)
        self._sequence = 0
        self._supervisor.activated()
        result = super().on_activate(state)
        if self._settings.start_on_activate:
            answer = self._start()
            self.get_logger().info(f"start_on_activate: {answer.message}")
        else:
            self.get_logger().info("ready; call ~/start to let the robot move")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Brake if moving; no command after this."""
        self._brake(self._supervisor.deactivated)
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
        """Brake if moving and end the inference thread; called on SIGINT and SIGTERM too."""
        self._brake(self._supervisor.unconfigured)
        self._forget()

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        if self.trigger_configure() is TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()
        elif self._give_up:
            request_stop(EXIT_USAGE)

    def _configure(self, parameters: PolicyParameters) -> None:
        if not parameters.checkpoint:
            raise ValueError(
                "parameter 'checkpoint' is empty: give a checkpoint directory (checkpoint:=DIR), for example one made "
                "by `groot-ros make-checkpoint DIR --embodiment sim_arm`"
            )
        self._settings = parameters
        embodiment = embodiment_for(parameters.embodiment, parameters.checkpoint)
        if not parameters.dry_run:
            check_commandable(embodiment)
        assembler = Assembler(embodiment)
        self.get_logger().info(f"loading {parameters.checkpoint} for {embodiment.name}")
        # Small images: OpenCV's thread pool costs more than it saves (two VGA cameras: p95 5.8 -> 1.1 ms).
        cv2.setNumThreads(1)
        if parameters.torch_threads:
            import torch

            torch.set_num_threads(parameters.torch_threads)
        policy = LocalPolicy(
            parameters.checkpoint,
            embodiment,
            device=parameters.device,
            dtype=parameters.dtype,
            tokenizer=parameters.tokenizer or None,
            num_steps=parameters.denoising_steps or None,
            match_reference_bf16=parameters.match_reference_bf16,
        )
        warm_s = policy.warm_up()
        self.get_logger().info(f"model warm on {policy.device}, {1e3 * warm_s:.1f} ms per chunk")
        self._dry_run = parameters.dry_run
        dropped = self._instructions.begin(
            policy.check_instruction, parameters.instruction, embodiment.language.default or ""
        )
        if dropped:
            self.get_logger().error(dropped)
        self._publish_instruction()
        worker = self._make_worker(embodiment, parameters)
        self._robot = _Robot(
            embodiment,
            assembler,
            PolicyCycle(embodiment, assembler, policy, self._now_ns),
            worker,
            {
                name: self.create_publisher(JointTrajectory, output.topic, convert.RELIABLE_QOS)
                for name, output in embodiment.outputs.items()
                if output.type == JOINT_TRAJECTORY
            },
            [
                self.create_subscription(
                    convert.message_class(stream.type),
                    stream.topic,
                    self._receiver(name, assembler, worker if name in embodiment.cameras else None),
                    convert.stream_qos(stream.qos, stream.rate_hz, CALLBACK_WINDOW_S),
                )
                for name, stream in embodiment.streams.items()
            ],
        )
        worker.start()

    def _make_worker(self, embodiment: Embodiment, parameters: PolicyParameters) -> Worker:
        replan_steps = parameters.replan_steps or max(1, embodiment.horizon // 2)
        if replan_steps > embodiment.horizon:
            raise ValueError(
                f"parameter 'replan_steps' is {replan_steps}, but a chunk of '{embodiment.name}' has only "
                f"{embodiment.horizon} steps"
            )
        frame_s = 1.0 / min(camera.rate_hz for camera in embodiment.cameras.values())
        # Due half a frame early: the frame that belongs to the due time must not be missed by its jitter.
        period_s = max(replan_steps * embodiment.dt_s - 0.5 * frame_s, 0.0)
        return Worker(
            turn=self._turn,
            enabled=lambda: self._supervisor.moving,
            now_ns=self._now_ns,
            cameras=embodiment.cameras,
            period_ns=round(period_s * 1e9),
            patience_ns=round(3.0 * frame_s * 1e9),
            failed=self._failed,
            clock_stopped=self._on_clock_stopped,
        )

    def _receiver(self, stream: str, assembler: Assembler, worker: Worker | None) -> Callable[[object], None]:
        def receive(message: object) -> None:
            assembler.add(stream, message, self._now_ns())
            if worker is not None:
                worker.arrived(stream)

        return receive

    def _forget(self) -> None:
        robot, self._robot = self._robot, None
        self._instructions.end()
        if robot is None:
            return
        if not robot.worker.close(CLOSE_S):
            self.get_logger().warning(f"the inference thread is still busy after {CLOSE_S} s; leaving it behind")
        for subscription in robot.subscriptions:
            self.destroy_subscription(subscription)
        for publisher in robot.commands.values():
            self.destroy_publisher(publisher)

    # --- inference thread --------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        robot = self._robot
        if robot is None:
            return False
        seed = None if self._settings.seed < 0 else self._settings.seed
        epoch = self._supervisor.epoch
        result = robot.cycle.run(self._instructions.text, seed)
        if isinstance(result, Refusal):
            if self._supervisor.refused(result):
                self.get_logger().warning(f"refused ({result.reason.value}): {result.message}")
            return False
        if isinstance(result, Planned):
            return self._send(robot, result, epoch)
        self._supervisor.rejected(result.reason)
        self.get_logger().error(f"chunk rejected ({result.reason}): {result.message}")
        if result.stop:
            self._brake(lambda: self._supervisor.latch(result.reason, result.message))
        return False

    def _send(self, robot: _Robot, planned: Planned, epoch: int) -> bool:
        with self._supervisor.lock:
            if not self._supervisor.moving or self._supervisor.epoch != epoch:
                return False
            begin = time.perf_counter()
            self._command(robot, planned.plan)
            stages_s = {**planned.stages_s, "command": time.perf_counter() - begin}
            age_s = (self._now_ns() - planned.chunk.stamp_ns) * 1e-9
            robot.cycle.commit(None if self._dry_run else planned.followed)
            recovered = self._supervisor.sent(planned.stages_s["model"], age_s - planned.stages_s["model"])
        self._chunks.publish(convert.chunk_message(planned, robot.embodiment, self._sequence, age_s, stages_s))
        self._sequence += 1
        if recovered:
            self.get_logger().info("observations are good again; going on")
        return True

    def _failed(self, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        self.get_logger().error(f"inference failed, stopping: {message}")
        self._brake(lambda: self._supervisor.latch("exception", message, error=True))

    def _on_clock_stopped(self) -> None:
        text = "/clock: expected ROS time to go on, found it standing still, check its publisher or unset use_sim_time"
        if self._supervisor.refused(Refusal(Reason.CLOCK_STOPPED, "/clock", text)):
            self.get_logger().warning(f"refused (clock_stopped): {text}")

    def _command(self, robot: _Robot, plan: JointPlan) -> None:
        if self._dry_run:
            return
        for name, publisher in robot.commands.items():
            output = robot.embodiment.outputs[name]
            publisher.publish(convert.trajectory_message(plan, output, robot.embodiment))

    def _brake(self, transition: Callable[[], T]) -> T:
        """Change state and, if commands were going out, send the braking plan; no chunk can come in between."""
        with self._supervisor.lock:
            moving = self._supervisor.moving
            answer = transition()
            if moving and not self._supervisor.moving:
                self._send_brake()
            return answer

    def _send_brake(self) -> None:
        plan = self._robot.cycle.stop() if self._robot is not None else None
        if self._robot is not None and plan is not None:
            self._command(self._robot, plan)

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
        self._robot.cycle.reset(braking=True)
        return Answer(True, "samples and plan forgotten; call ~/start for the next episode")

    def _set_dry_run(self, on: bool) -> Answer:
        if not on and self._robot is not None:
            try:
                check_commandable(self._robot.embodiment)
            except EmbodimentError as error:
                return Answer(False, f"still a dry run: {error}")
        with self._supervisor.lock:
            if on and not self._dry_run and self._supervisor.moving:
                self._send_brake()
            self._dry_run = on
            self._supervisor.new_epoch()
        return Answer(True, "dry run: no commands" if on else "commands go to the robot")

    def _on_instruction(self, message: String) -> None:
        refused = self._instructions.offer(message.data)
        if refused:
            self.get_logger().error(f"{refused}; going on with '{self._instructions.text}'")
        self._publish_instruction()

    def _publish_instruction(self) -> None:
        self._active_instruction.publish(String(data=self._instructions.text))

    def _on_estop(self, message: Bool) -> None:
        if message.data:
            self.get_logger().error("e-stop pressed")
        self._brake(lambda: self._supervisor.estop(message.data))

    def _on_time_jump(self, jump: TimeJump) -> None:
        if self._robot is not None:
            self._supervisor.new_epoch()
            self._robot.cycle.reset()
            self._robot.worker.restart()

    def _trigger(self, action: Callable[[], Answer]) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def serve(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            answer = action()
            response.success, response.message = answer.done, answer.message
            self._publish_status()
            return response

        return serve

    def _switch(
        self, action: Callable[[bool], Answer]
    ) -> Callable[[SetBool.Request, SetBool.Response], SetBool.Response]:
        def serve(request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
            answer = action(request.data)
            response.success, response.message = answer.done, answer.message
            self._publish_status()
            return response

        return serve

    # --- reports -----------------------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _status_now(self) -> PolicyStatus:
        now_ns = self._now_ns()
        robot = self._robot
        return convert.status_message(
            self._supervisor.snapshot(),
            now_ns=now_ns,
            instruction=self._instructions.text,
            embodiment=self._settings.embodiment,
            checkpoint=self._settings.checkpoint,
            dry_run=self._dry_run,
            ages_s=robot.assembler.ages_s(now_ns) if robot is not None else {},
            rates_hz=robot.assembler.rates_hz() if robot is not None else {},
            queue_points=robot.cycle.remaining_points() if robot is not None else 0,
        )

    def _publish_status(self) -> None:
        self._status.publish(self._status_now())

    def _publish_diagnostics(self) -> None:
        embodiment = self._robot.embodiment if self._robot is not None else None
        streams = embodiment.streams if embodiment is not None else {}
        ages = {name: stream.max_age_s for name, stream in streams.items()}
        self._diagnostics.publish(convert.diagnostics_message(self._status_now(), ages, self.get_name()))


def main(args: Sequence[str] | None = None, *, give_up: bool = False) -> NoReturn:
    """Executable ``policy_node``; with ``give_up``, for a person at a terminal, see ``PolicyNode``."""
    leave(run(lambda: PolicyNode(give_up=give_up), args))


if __name__ == "__main__":
    main()
