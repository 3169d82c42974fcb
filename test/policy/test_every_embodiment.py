"""Every robot that is shipped, for each of its generations: YAML -> messages -> random checkpoint -> one chunk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from groot_ros.control.gate import Gate
from groot_ros.control.layout import Layout
from groot_ros.control.plans import Accepted, Pace
from groot_ros.control.timeline import ChunkTimeline
from groot_ros.control.track import Track
from groot_ros.embodiment.load import available_embodiments, embodiment_generations, load_embodiment
from groot_ros.embodiment.schema import Camera, Embodiment, StateStream
from groot_ros.embodiment.vocabulary import GENERATIONS, JOINT_STATE, POSE_OF
from groot_ros.observation.assembler import Assembler
from groot_ros.observation.types import Observation
from groot_ros.policy.base import Chunk
from groot_ros.policy.local import LocalPolicy
from groot_ros.policy.random_checkpoint import make_random_checkpoint

T0 = 1_700_000_000_000_000_000
INSTRUCTION = "pick up the red cube"
CASES = [
    (name, generation)
    for name, path in available_embodiments().items()
    for generation in embodiment_generations(path) or GENERATIONS
]


def message(stream: Camera | StateStream, embodiment: Embodiment, name: str, stamp_ns: int, shade: int) -> Any:
    """A good message of a stream: grey images, joints in the middle of their limits, poses without a rotation."""
    result = SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="")
    )
    keys = [key for key in embodiment.state.values() if key.stream == name]
    if isinstance(stream, Camera):
        result.width, result.height, result.step = stream.width, stream.height, 3 * stream.width
        result.encoding = "rgb8"
        result.data = np.full(stream.height * stream.width * 3, shade, dtype=np.uint8)
    elif stream.type == JOINT_STATE:
        result.name = sorted({joint for key in keys for joint in key.joints or []})
        limits = [embodiment.limits.get(joint) for joint in result.name]
        result.position = [0.5 * (limit.lower + limit.upper) if limit else 0.0 for limit in limits]
        result.velocity = result.effort = [0.0] * len(result.name)
    else:
        for path in {path for key in keys for path in key.fields or []} | _pose_paths(stream.type):
            put(result, path, 1.0 if path.endswith("orientation.w") else 0.0)
    return result


def _pose_paths(kind: str) -> set[str]:
    return {f"{POSE_OF[kind]}.orientation.{axis}" for axis in "xyzw"} if kind in POSE_OF else set()


def put(message: SimpleNamespace, path: str, value: float) -> None:
    *parents, last = path.split(".")
    at = message
    for parent in parents:
        if not hasattr(at, parent):
            setattr(at, parent, SimpleNamespace())
        at = getattr(at, parent)
    setattr(at, last, value)


def observed(embodiment: Embodiment) -> Observation:
    """What the assembler makes of good messages at the steps that the checkpoint wants."""
    raw = {
        name: camera.model_copy(update={"type": "sensor_msgs/msg/Image", "encodings": ["rgb8"]})
        for name, camera in embodiment.cameras.items()
    }
    embodiment = embodiment.model_copy(update={"cameras": raw})
    assembler = Assembler(embodiment)
    for name, stream in embodiment.streams.items():
        deltas = embodiment.delta_indices.video if name in raw else embodiment.delta_indices.state
        for i, delta in enumerate(deltas):
            stamp_ns = T0 + round(delta * 1e9 * embodiment.dt_s)
            refusal = assembler.add(name, message(stream, embodiment, name, stamp_ns, 100 + i), stamp_ns)
            assert refusal is None, refusal
    observation = assembler.assemble(T0, INSTRUCTION)
    assert isinstance(observation, Observation), observation
    return observation


@pytest.mark.parametrize(("name", "generation"), CASES, ids=[f"{name}-{generation}" for name, generation in CASES])
def test_a_random_checkpoint_of_the_robot_gives_a_chunk(name: str, generation: str, tmp_path: Path) -> None:
    make_random_checkpoint(tmp_path / "ckpt", generation, "tiny", name, 0, Console(quiet=True))
    embodiment = load_embodiment(name, generation)
    policy = LocalPolicy(tmp_path / "ckpt", embodiment, device="cpu")
    observation = observed(embodiment)
    chunk = policy.act(observation, seed=0)
    assert list(chunk.actions) == list(embodiment.action)
    for key, spec in embodiment.action.items():
        values = chunk.actions[key]
        assert values.shape == (embodiment.horizon, len(spec.names)) and values.dtype == np.float32, key
        assert np.isfinite(values).all(), key
    policy.check_instruction(INSTRUCTION)
    commanded(embodiment, observation, chunk)


def commanded(embodiment: Embodiment, observation: Observation, chunk: Chunk) -> None:
    """The chunk becomes commands on control ticks, from where the robot is to rest."""
    clamped = embodiment.gate.model_copy(update={"start_jump": "clamp"})  # a random model knows no better
    layout = Layout(embodiment.model_copy(update={"gate": clamped}))
    period_ns = round(1e9 / embodiment.control.rate_hz)
    pace = Pace(period_ns, embodiment.dt_s, embodiment.horizon, 0, 0, 1)
    timeline = ChunkTimeline(layout, Gate(layout, period_ns * 1e-9), pace, embodiment.control.chunking)
    tick = pace.tick(T0) + 1
    accepted = timeline.plan(chunk, tick, layout.measured(observation), T0)
    assert isinstance(accepted, Accepted)
    track = accepted.track
    assert np.isfinite(track.values).all() and not track.velocities[-1].any()
    seen, known = layout.measured(observation)
    start = layout.space.minus(track.motion(tick).values, seen)
    np.testing.assert_allclose(start[known], 0.0, atol=1e-9)
    rows = layout.model_rows(track.values, near(layout, track))
    assert all(np.isfinite(values).all() for values in rows.values())
    lines, tangents = layout.space.lines
    inside = layout.space.lower[tangents] - 1e-9, layout.space.upper[tangents] + 1e-9
    assert (track.values[:, lines] >= inside[0]).all() and (track.values[:, lines] <= inside[1]).all()


def near(layout: Layout, track: Track) -> dict[str, np.ndarray]:
    return {key: np.zeros((len(track.values), len(layout.embodiment.action[key].names))) for key in layout.keys}
