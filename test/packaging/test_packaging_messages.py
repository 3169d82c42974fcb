"""groot_ros.msg and groot_ros.srv as built: fields, types, and that a filled message survives the wire."""

from __future__ import annotations

import array
import re
from pathlib import Path

import pytest
from rclpy.serialization import deserialize_message, serialize_message

from groot_ros.msg import ActionChunk, PolicyStatus, RecorderStatus
from groot_ros.srv import ResetEpisode

MSG = Path(__file__).resolve().parents[2] / "msg"
CONSTANT = re.compile(r"^\s*(?P<type>\S+)\s+(?P<name>[A-Z0-9_]+)\s*=\s*(?P<value>\d+)\s*#\s*(?P<comment>.+)$")
FIELD = re.compile(r"^\s*(?P<type>[\w/\[\]]+)\s+(?P<name>[a-z]\w*)(\s*#\s*(?P<comment>.+))?$")


def fields(message: str) -> dict[str, tuple[str, str]]:
    """name -> (type, comment) as msg/*.msg states them."""
    return stated_fields((MSG / f"{message}.msg").read_text(encoding="utf-8"))


def stated_fields(text: str) -> dict[str, tuple[str, str]]:
    found = (FIELD.match(line) for line in text.splitlines())
    return {m["name"]: (m["type"], m["comment"] or "") for m in found if m}


@pytest.mark.parametrize("kind", [ActionChunk, PolicyStatus, RecorderStatus])
def test_built_fields_are_those_of_the_source(kind: type) -> None:
    """Fails when the messages of the environment are older than msg/: run `make env`."""
    built = kind.get_fields_and_field_types()
    declared = {name: of.replace("[]", "") for name, (of, _) in fields(kind.__name__).items()}
    names = {"float64": "double", "bool": "boolean"}
    assert {n: re.sub(r"sequence<(.+)>", r"\1", t) for n, t in built.items()} == {
        n: names.get(t, t) for n, t in declared.items()
    }


def test_built_service_is_that_of_the_source() -> None:
    """Fails when the services of the environment are older than srv/: run `make env`."""
    halves = (MSG.parent / "srv" / "ResetEpisode.srv").read_text(encoding="utf-8").split("\n---\n")
    for half, built in zip(halves, (ResetEpisode.Request, ResetEpisode.Response), strict=True):
        stated = stated_fields(half)
        assert {name: kind.replace("bool", "boolean") for name, (kind, _) in stated.items()} == (
            built.get_fields_and_field_types()
        )
        assert all(comment for _, comment in stated.values())


def test_service_survives_the_wire() -> None:
    request = ResetEpisode.Request(seed=2**32 - 1, task="reach:blue")
    response = ResetEpisode.Response(success=True, message="seed 7", instruction="reach the blue cube")
    assert deserialize_message(serialize_message(request), ResetEpisode.Request) == request
    assert deserialize_message(serialize_message(response), ResetEpisode.Response) == response


@pytest.mark.parametrize("message", ["ActionChunk", "PolicyStatus", "RecorderStatus"])
def test_every_field_is_explained(message: str) -> None:
    assert all(comment for _, comment in fields(message).values())
    # A number says its unit or that it has none.
    unitless = {"seed", "sequence", "state", "model_actions", "gated_actions"}
    for name, (kind, comment) in fields(message).items():
        if re.match(r"u?int|float", kind) and name not in unitless:
            assert re.search(r"\[(s|Hz|1|GB|rad or m)\]", comment), f"{message}.{name}: {comment}"


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        (PolicyStatus, {"UNCONFIGURED", "INACTIVE", "READY", "RUNNING", "REFUSING", "PAUSED", "STOPPED", "ERROR"}),
        (RecorderStatus, {"UNCONFIGURED", "INACTIVE", "IDLE", "WAITING", "RECORDING", "PAUSED"}),
    ],
)
def test_states_are_distinct_and_built(kind: type, states: set[str]) -> None:
    text = (MSG / f"{kind.__name__}.msg").read_text(encoding="utf-8")
    stated = {m["name"]: int(m["value"]) for m in map(CONSTANT.match, text.splitlines()) if m}
    assert set(stated) >= states
    assert len(set(stated.values())) == len(stated)
    assert {name: getattr(kind, name) for name in stated} == stated


def test_chunk_survives_the_wire() -> None:
    chunk = ActionChunk(sequence=2**40, instruction="pick up the red cube", embodiment="sim_arm", seed=-1, dt_s=1 / 30)
    chunk.header.stamp.sec = 12
    chunk.horizon, chunk.keys, chunk.key_dims = 2, ["single_arm", "gripper"], [2, 1]
    chunk.model_actions = array.array("d", [0.1, -0.2, 1.0, 0.3, 0.4, 0.0])
    chunk.gated_actions = array.array("d", [0.1, -0.2, 0.9, 0.3, 0.4, 0.1])
    chunk.points_trimmed, chunk.model_s, chunk.stage_names, chunk.stage_s = 1, 0.05, ["model"], [0.05]
    assert deserialize_message(serialize_message(chunk), ActionChunk) == chunk


def test_status_survives_the_wire() -> None:
    status = PolicyStatus(state=PolicyStatus.REFUSING, reason="stream_stale", message="/camera: no image for 0.5 s")
    status.refusal_reasons, status.refusal_counts = ["stream_stale"], [7]
    status.stream_names, status.stream_age_s, status.stream_rate_hz = ["front"], [0.5], [0.0]
    assert deserialize_message(serialize_message(status), PolicyStatus) == status


def test_recorder_status_survives_the_wire() -> None:
    status = RecorderStatus(state=RecorderStatus.RECORDING, task="pick up the red cube", rows=2**40, segments=2)
    status.stream_names, status.stream_age_s, status.stream_rate_hz = ["front"], [0.02], [30.0]
    status.stream_topics, status.stream_expected_hz, status.stream_gaps = ["/front/image_raw"], [30.0], [3]
    status.stream_received, status.stream_rejected, status.frozen_cameras = [90], [1], ["front"]
    status.encoder_names, status.encoder_waiting, status.encoder_peak = ["front"], [1], [7]
    assert deserialize_message(serialize_message(status), RecorderStatus) == status
