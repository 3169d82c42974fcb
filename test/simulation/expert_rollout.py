"""An episode as the expert does it, in simulated time and without ROS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groot_ros.simulation.arm import SimArm
from groot_ros.simulation.expert import Expert, Vector
from groot_ros.simulation.scene import JOINTS
from groot_ros.simulation.tasks import Task, Verdict


@dataclass(frozen=True)
class Rollout:
    """One episode as the expert did it; ``T`` ticks, row ``i`` at ``i / tick_hz``.

    Attributes:
        verdict: the last one.
        instruction: the task in words.
        positions: [T, 6] measured joint angles (rad, order of ``JOINTS``), before the targets of the tick.
        targets: [T, 6] commanded joint angles from this tick on.
        frames: camera -> uint8 [F, H, W, 3], one every ``frame_every`` ticks from the first on.
    """

    verdict: Verdict
    instruction: str
    positions: Vector
    targets: Vector
    frames: dict[str, NDArray[np.uint8]]


def roll_out(
    arm: SimArm,
    task: Task,
    seed: int,
    *,
    tick_hz: float = 50.0,
    cameras: Sequence[str] = (),
    frame_every: int = 5,
    hold_s: float = 0.2,
    limit_s: float = 12.0,
) -> Rollout:
    """Do ``task`` in the scene of ``seed``, in simulated time as fast as it goes.

    Args:
        arm: reset here.
        task: what to do.
        seed: of the scene.
        tick_hz: how often targets are given.
        cameras: to keep pictures of, in the size of ``arm``.
        frame_every: ticks from picture to picture.
        hold_s: how long it goes on after the verdict and the last move.
        limit_s: when it gives up.

    Raises:
        OutOfReach: see ``Expert.step``.
    """
    arm.reset(seed, task)
    expert = Expert(task, arm.scene.target, np.array(list(arm.positions().values())))
    positions, targets = [], []
    frames: dict[str, list[NDArray[np.uint8]]] = {camera: [] for camera in cameras}
    verdict, over_s = arm.verdict(), math.inf
    for tick in range(round(limit_s * tick_hz)):
        target = expert.step(1.0 / tick_hz if tick else 0.0, arm.cube_poses())
        positions.append(list(arm.positions().values()))
        targets.append(target)
        if tick % frame_every == 0:
            for camera, kept in frames.items():
                kept.append(arm.render(camera))
        arm.set_targets(dict(zip(JOINTS, target.tolist(), strict=True)))
        arm.step((tick + 1) / tick_hz)
        verdict = arm.verdict()
        if verdict.failure or (verdict.success and expert.finished):
            over_s = min(over_s, arm.time_s)
        if arm.time_s >= over_s + hold_s:
            break
    return Rollout(
        verdict,
        task.instruction(arm.scene),
        np.array(positions),
        np.array(targets),
        {camera: np.array(kept) for camera, kept in frames.items()},
    )
