"""Everything of the policy node that exists between configure and cleanup, made from the parameters."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.subscription import Subscription

from groot_ros.control.continuity import Continuity
from groot_ros.control.gate import Gate
from groot_ros.control.layout import Layout
from groot_ros.control.loop import ControlLoop
from groot_ros.control.plans import Pace
from groot_ros.control.timeline import ChunkTimeline
from groot_ros.control.training_range import TrainingRange
from groot_ros.embodiment.check import check_commandable
from groot_ros.embodiment.schema import Embodiment
from groot_ros.nodes import convert
from groot_ros.nodes.commands import CommandPublishers
from groot_ros.nodes.policy_parameters import PolicyParameters
from groot_ros.observation.assembler import Assembler
from groot_ros.policy.commander import Commander
from groot_ros.policy.cycle import PolicyCycle
from groot_ros.policy.generation import embodiment_for
from groot_ros.policy.local import NATIVE_GENERATION
from groot_ros.policy.process import ProcessPolicy
from groot_ros.policy.supervisor import Supervisor
from groot_ros.policy.worker import Worker

LOCAL_POLICY = "groot_ros.policy.child:local_policy"
CALLBACK_WINDOW_S = 0.2  # how long the callback thread may be held up before a queue overflows
HELD_UP_S = 0.5  # a control loop that did not run for so long was stopped, or the machine slept
SIMULATED_POLL_S = 0.002
SWITCH_INTERVAL_S = 0.0005  # of Python's lock: how long another thread may keep the control loop waiting


@dataclass(frozen=True)
class Hooks:
    """What the parts call back."""

    turn: Callable[[], bool]
    turn_failed: Callable[[Exception], None]
    clock_stopped: Callable[[], None]
    work_failed: Callable[[Exception], None]


@dataclass
class Robot:
    """The parts."""

    layout: Layout
    assembler: Assembler
    policy: ProcessPolicy
    timeline: ChunkTimeline
    cycle: PolicyCycle
    continuity: Continuity
    loop: ControlLoop
    worker: Worker
    commander: Commander
    commands: CommandPublishers
    subscriptions: list[Subscription]

    @property
    def embodiment(self) -> Embodiment:
        """The robot's YAML."""
        return self.layout.embodiment

    def start(self) -> None:
        """Start both threads; nothing moves before the supervisor says so."""
        self.loop.start()
        self.worker.start()

    def begin_episode(self) -> None:
        """Forget samples; the next chunk continues nothing. A robot on its way to rest goes on to it."""
        self.assembler.reset()
        with self.cycle.lock:
            self.timeline.restart()

    def set_active(self, node: Node, active: bool) -> None:
        """Have the device kept warm, or no longer."""
        try:
            self.policy.set_active(active)
        except ValueError as error:
            if self.policy.gone is None:  # which is told elsewhere
                node.get_logger().warning(f"keep_warm_s: {'not' if active else 'still'} kept warm: {error}")

    def close(self, node: Node, each_s: float) -> list[str]:
        """Wait for rest, then take everything down, with ``each_s`` for each part; what was late, in words."""
        late = []
        if not self.commander.wait_settled(each_s):
            late.append(f"the robot was not at rest {each_s} s after the stop; speeds are set to 0 at once")
            self.commander.stand()
        if not self.loop.close(each_s):
            late.append(f"the control thread is still busy after {each_s} s")
        self.policy.close(each_s)
        if not self.worker.close(each_s):
            late.append(f"the inference thread is still busy after {each_s} s")
        for subscription in self.subscriptions:
            node.destroy_subscription(subscription)
        self.commands.close()
        return late


def load_embodiment_for(parameters: PolicyParameters) -> Embodiment:
    """The robot's YAML with the parameters that stand above it.

    Raises:
        EmbodimentError, ValueError: it is wrong, does not fit, or cannot be commanded (unless in a dry run).
    """
    if not parameters.checkpoint:
        raise ValueError(
            "parameter 'checkpoint' is empty: give a checkpoint directory (checkpoint:=DIR), for example one made "
            "by `groot-ros make-checkpoint DIR --embodiment sim_arm`"
        )
    embodiment = embodiment_for(parameters.embodiment, parameters.checkpoint)
    if not parameters.dry_run:
        check_commandable(embodiment)
    changes: dict[str, object] = {}
    if parameters.control_rate_hz:
        if parameters.control_rate_hz < embodiment.step_hz:
            raise ValueError(
                f"parameter 'control_rate_hz': expected at least step_hz of '{embodiment.name}', "
                f"{embodiment.step_hz:g} Hz, found {parameters.control_rate_hz:g}; raise it, or 0 for the YAML's"
            )
        changes["rate_hz"] = parameters.control_rate_hz
    if parameters.chunking:
        if parameters.chunking == "native" and embodiment.generation != NATIVE_GENERATION:
            raise ValueError(
                f"parameter 'chunking': expected a mode that {parameters.checkpoint} ({embodiment.generation}) can do, "
                f"found 'native', which only {NATIVE_GENERATION} has; set it to guided, or leave it out"
            )
        changes["chunking"] = parameters.chunking
    return embodiment.model_copy(update={"control": embodiment.control.model_copy(update=changes)})


def make_policy(
    parameters: PolicyParameters,
    embodiment: Embodiment,
    factory: str,
    started: Callable[[ProcessPolicy], None] | None = None,
) -> ProcessPolicy:
    """The model in a process of its own, loaded and warm; ``started``: see ``ProcessPolicy``.

    Raises: what the factory raised; PolicyGone when the process ended before it was ready.
    """
    return ProcessPolicy(
        factory,
        {
            "checkpoint": parameters.checkpoint,
            "embodiment": embodiment,
            "device": parameters.device,
            "dtype": parameters.dtype,
            "tokenizer": parameters.tokenizer or None,
            "num_steps": parameters.denoising_steps or None,
            "match_reference_bf16": parameters.match_reference_bf16,
            "torch_threads": parameters.torch_threads,
            "engine": parameters.engine,
            "graphs": parameters.graphs,
            "compile": parameters.compile,
            "precision": parameters.precision,
            "precision_file": parameters.precision_file or None,
            "keep_warm_s": parameters.keep_warm_s,
            "pictures_on_device": parameters.pictures_on_device,
        },
        started=started,
    )


def make_robot(
    node: Node,
    parameters: PolicyParameters,
    embodiment: Embodiment,
    policy: ProcessPolicy,
    supervisor: Supervisor,
    now_ns: Callable[[], int],
    hooks: Hooks,
) -> Robot:
    """Wire the parts; nothing runs yet.

    Raises: ValueError when a parameter does not fit the robot.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    layout = Layout(embodiment)
    pace = _pace(parameters, embodiment, policy.facts.warm_s)
    timeline = ChunkTimeline(layout, Gate(layout, pace.period_ns * 1e-9), pace, embodiment.control.chunking)
    assembler = Assembler(embodiment)
    worker = _worker(hooks, supervisor, timeline, embodiment, now_ns)
    commands = CommandPublishers(node, layout)
    continuity = Continuity(layout.space, pace.period_ns * 1e-9)
    training = None
    if embodiment.gate.training_range != "off":
        training = TrainingRange(embodiment, policy.facts.state_ranges)
    commander = Commander(
        layout,
        timeline,
        continuity,
        supervisor,
        commands,
        tick=lambda: loop.tick,
        busy_s=worker.busy_s,
        timeout_s=parameters.inference_timeout_s or max(1.0, 10.0 * policy.facts.warm_s),
        patience_s=HELD_UP_S,
    )
    simulated = bool(node.get_parameter("use_sim_time").value)
    loop = ControlLoop(
        pace.period_ns,
        now_ns,
        commander.work,
        commander.held_up,
        commander.clock_stopped,
        hooks.work_failed,
        HELD_UP_S,
        poll_s=SIMULATED_POLL_S if simulated else pace.period_ns * 1e-9,
    )
    cycle = PolicyCycle(layout, assembler, policy, timeline, training, now_ns, lambda: loop.tick, supervisor.lock)
    subscriptions = [
        node.create_subscription(
            convert.message_class(stream.type),
            stream.topic,
            _receiver(name, assembler, worker if name in embodiment.cameras else None, now_ns),
            convert.stream_qos(stream.qos, stream.rate_hz, CALLBACK_WINDOW_S),
        )
        for name, stream in embodiment.streams.items()
    ]
    return Robot(
        layout, assembler, policy, timeline, cycle, continuity, loop, worker, commander, commands, subscriptions
    )


def _worker(
    hooks: Hooks, supervisor: Supervisor, timeline: ChunkTimeline, embodiment: Embodiment, now_ns: Callable[[], int]
) -> Worker:
    frame_s = 1.0 / min(camera.rate_hz for camera in embodiment.cameras.values())
    return Worker(
        turn=hooks.turn,
        enabled=lambda: supervisor.moving,
        now_ns=now_ns,
        cameras=embodiment.cameras,
        next_due_ns=timeline.next_launch_ns,
        longest_ns=2 * round(embodiment.horizon * embodiment.dt_s * 1e9),
        patience_ns=round(3.0 * frame_s * 1e9),
        failed=hooks.turn_failed,
        clock_stopped=hooks.clock_stopped,
    )


def _pace(parameters: PolicyParameters, embodiment: Embodiment, warm_s: float) -> Pace:
    replan_steps = parameters.replan_steps or max(1, embodiment.horizon // 2)
    if replan_steps > embodiment.horizon:
        raise ValueError(
            f"parameter 'replan_steps' is {replan_steps}, but a chunk of '{embodiment.name}' has only "
            f"{embodiment.horizon} steps"
        )
    period_s = 1.0 / embodiment.control.rate_hz
    frame_s = 1.0 / min(camera.rate_hz for camera in embodiment.cameras.values())
    return Pace(
        period_ns=round(period_s * 1e9),
        dt_s=embodiment.dt_s,
        horizon=embodiment.horizon,
        # Due half a frame early: the frame that belongs to the due time must not be missed by its jitter.
        replan_ns=round(max(replan_steps * embodiment.dt_s - 0.5 * frame_s, 0.0) * 1e9),
        wait_ns=round(frame_s * 1e9),
        first_delay_ticks=math.ceil(1.5 * warm_s / period_s),
    )


def _receiver(
    stream: str, assembler: Assembler, worker: Worker | None, now_ns: Callable[[], int]
) -> Callable[[object], None]:
    def receive(message: object) -> None:
        assembler.add(stream, message, now_ns())
        if worker is not None:
            worker.arrived(stream)

    return receive
