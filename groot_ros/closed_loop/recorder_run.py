"""The numbered robot and the recorder node as processes of their own, for one episode; what they cost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from groot_ros.closed_loop.numbered_robot import Published, Setting, write_embodiment
from groot_ros.closed_loop.recorder_identity import Proof, prove
from groot_ros.dataset.read import Dataset
from groot_ros.dataset.spec import DatasetSpec
from groot_ros.embodiment.load import load_embodiment
from groot_ros.processes import Processes, node_command, ros_environment, stoppable
from groot_ros.share import share_directory

if TYPE_CHECKING:
    from groot_ros.msg import RecorderStatus
    from groot_ros.nodes.recorder_client import RecorderClient

TASK = "keep every frame"
START_S = 60.0  # until a node has started, on a machine with much else to do
SAVE_S = 300.0
ANSWER_S = 10.0
END_S = 10.0
STEP_S = 0.5
SETTLE_NS = 60_000_000  # the recorder waits so long for the samples of a row
SETTLED_S = 0.6  # some statuses long
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class NotRecorded(RuntimeError):
    """The recorder node did not record; the message holds its own reason."""


@dataclass(frozen=True)
class Cost:
    """What the processes used while the episode was recorded.

    Attributes:
        seconds: for which this was measured.
        recorder_cores, publisher_cores: CPU time per time.
        machine_busy: share of all cores that was in use, by anybody.
        recorder_peak_bytes: most memory of the recorder process.
        save_s: from the request until the episode was in the dataset.
    """

    seconds: float
    recorder_cores: float
    publisher_cores: float
    machine_busy: float
    recorder_peak_bytes: int
    save_s: float


@dataclass(frozen=True)
class RecorderRun:
    """One recording, and what it was worth.

    Attributes:
        setting: what was sent.
        proof: the dataset against what was sent; None when nothing was recorded.
        cost: of the processes.
        sent, received: camera -> frames sent, and received by the recorder, from the first to the last one.
        queue_peaks: camera -> most pictures that waited for its encoder.
        video_bytes: camera -> size of its videos.
        overflows: ticks refused because a queue was full.
        refused: reason -> ticks refused.
        gaps: stream -> gaps that the recorder saw.
        ended: why the recording ended before its time, or nothing was recorded; empty when all went well.
    """

    setting: Setting
    proof: Proof | None
    cost: Cost
    sent: Mapping[str, int]
    received: Mapping[str, int]
    queue_peaks: Mapping[str, int]
    video_bytes: Mapping[str, int]
    overflows: int
    refused: Mapping[str, int]
    gaps: Mapping[str, int]
    ended: str

    @property
    def lost(self) -> int:
        """Frames that were sent and are not where they should be, by what the data say and by what was received."""
        if self.proof is None:
            return sum(self.sent.values())
        return max(self.proof.lost, sum(self.sent[name] - count for name, count in self.received.items()))

    @property
    def identical(self) -> bool:
        """There are rows, and each holds what it says."""
        return self.proof is not None and self.proof.identical


def run_recorder(
    setting: Setting,
    folder: Path,
    duration_s: float,
    *,
    codec: str = "auto",
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    advance: Callable[[float], None] = lambda seconds: None,
) -> RecorderRun:
    """Record ``duration_s`` seconds into ``folder``/dataset with drop policy split, and compare with what was sent.

    Raises:
        ProcessDied: a process ended by itself.
        NotRecorded: the recorder refused.
        DatasetError: pictures of this size cannot be recorded.
    """
    environment = ros_environment() | large_images_profile()
    os.environ.update({name: environment[name] for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")})
    from groot_ros.nodes.recorder_client import RecorderClient  # imports rclpy, which reads the environment

    robot, log, root = folder / "robot.yaml", folder / "published.npz", folder / "dataset"
    write_embodiment(setting, robot)
    DatasetSpec.of(load_embodiment(str(robot)))  # what cannot be recorded is refused before anything starts
    with stoppable(), Processes(folder / "logs", environment) as processes, RecorderClient() as client:
        say(f"robot: {setting} (log: {processes.log('robot')})")
        publisher = processes.start(
            "robot", node_command("numbered_robot", {"embodiment": robot, "log": log, "seed": seed})
        )
        say(f"recorder (log: {processes.log('recorder')})")
        parameters = {
            "embodiment": robot,
            "dataset": root,
            "task": TASK,
            "drop_policy": "split",
            "codec": codec,
            "autostart": True,
        }
        recorder = processes.start("recorder", node_command("recorder", parameters))
        from_ns = _start_episode(client, processes)
        before = _Usage.of(recorder.pid, publisher.pid)
        status, ended = _watch(client, processes, duration_s, advance)
        after = _Usage.of(recorder.pid, publisher.pid)
        to_ns = time.time_ns() - SETTLE_NS
        begin = time.monotonic()
        saved, message = client.call("save_episode", timeout_s=SAVE_S, alive=processes.check)
        save_s = time.monotonic() - begin
        publisher.terminate()
        publisher.wait(END_S)
        received = _received(client, setting)
        cost = after.since(before, save_s)
        processes.end()
    published = Published.read(log, setting.names)
    if saved:
        say("comparing every picture with what was sent")
    return RecorderRun(
        setting=setting,
        proof=prove(root, published, (from_ns, to_ns)) if saved else None,
        cost=cost,
        sent={name: len(stamps) for name, stamps in published.cameras.items()},
        received=received,
        **_written(root, setting),
        overflows=int(status.encoder_overflows),
        refused=dict(zip(status.refusal_reasons, map(int, status.refusal_counts), strict=True)),
        gaps=dict(zip(status.stream_names, map(int, status.stream_gaps), strict=True)),
        ended=ended if saved else message,
    )


def large_images_profile() -> dict[str, str]:
    """Environment variables for Fast DDS: shared memory that whole pictures fit into; for both names of the file."""
    path = str(share_directory() / "config" / "dds" / "large_images.xml")
    return {"FASTDDS_DEFAULT_PROFILES_FILE": path, "FASTRTPS_DEFAULT_PROFILES_FILE": path}


def _start_episode(client: RecorderClient, processes: Processes) -> int:
    """ROS time (ns) from which on there should be rows."""
    from groot_ros.msg import RecorderStatus

    client.wait_for(lambda status: status.state >= RecorderStatus.IDLE or bool(status.reason), START_S, processes.check)
    if client.status is None or client.status.state < RecorderStatus.IDLE:
        why = client.status.message if client.status is not None else f"it said nothing in {START_S:.0f} s"
        raise NotRecorded(f"the recorder is not ready: {why}; see {processes.log('recorder')}")
    deadline = time.monotonic() + START_S
    message = ""
    while client.status.state == RecorderStatus.IDLE:
        if time.monotonic() > deadline:
            raise NotRecorded(f"~/start_episode: {message}")
        try:
            _, message = client.call("start_episode", timeout_s=ANSWER_S, alive=processes.check)
        except TimeoutError as error:
            message = str(error)
        # It measures the streams for a second before it starts.
        client.wait_for(lambda status: status.state != RecorderStatus.IDLE, STEP_S, processes.check)
    if not client.wait_for(lambda status: status.state == RecorderStatus.RECORDING, START_S, processes.check):
        raise NotRecorded(f"no row after {START_S:.0f} s: {client.status.message if client.status else ''}")
    return time.time_ns()


def _watch(
    client: RecorderClient, processes: Processes, duration_s: float, advance: Callable[[float], None]
) -> tuple[RecorderStatus, str]:
    """The last status of the time, and why it was over before; empty when it was not."""
    from groot_ros.msg import RecorderStatus

    def ended(status: RecorderStatus) -> bool:
        return bool(status.state not in (RecorderStatus.RECORDING, RecorderStatus.WAITING))

    begin = told = time.monotonic()
    while (left_s := begin + duration_s - time.monotonic()) > 0.0:
        over = client.wait_for(ended, min(STEP_S, left_s), processes.check)
        advance(time.monotonic() - told)
        told = time.monotonic()
        if over:
            break
    status = client.status
    assert status is not None
    return status, f"ended after {time.monotonic() - begin:.1f} s: {status.message}" if ended(status) else ""


def _received(client: RecorderClient, setting: Setting) -> dict[str, int]:
    """Camera -> messages that the recorder has received, when no more come."""
    client.wait_for(lambda status: False, SETTLED_S)
    status = client.status
    assert status is not None
    counts = dict(zip(status.stream_names, map(int, status.stream_received), strict=True))
    return {name: counts[name] for name in setting.names}


def _written(root: Path, setting: Setting) -> dict[str, dict[str, int]]:
    dataset = Dataset(root)
    reports = [dataset.report(entry.index) or {} for entry in dataset.episodes]
    return {
        "queue_peaks": {
            name: max((report["cameras"][name]["queue_peak"] for report in reports), default=0)
            for name in setting.names
        },
        "video_bytes": {name: sum(report["cameras"][name]["bytes"] for report in reports) for name in setting.names},
    }


@dataclass(frozen=True)
class _Usage:
    """CPU seconds so far: of two processes, of all cores in use, of all cores; at a time (s)."""

    time_s: float
    recorder_s: float
    publisher_s: float
    busy_s: float
    all_s: float
    recorder_peak_bytes: int

    @classmethod
    def of(cls, recorder: int, publisher: int) -> _Usage:
        # user nice system idle iowait irq softirq steal
        cores = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle = cores[3] + cores[4]
        return cls(
            time.monotonic(),
            _cpu_s(recorder),
            _cpu_s(publisher),
            (sum(cores) - idle) / _TICKS_PER_S,
            sum(cores) / _TICKS_PER_S,
            _peak_bytes(recorder),
        )

    def since(self, before: _Usage, save_s: float) -> Cost:
        seconds = self.time_s - before.time_s
        return Cost(
            seconds=seconds,
            recorder_cores=(self.recorder_s - before.recorder_s) / seconds,
            publisher_cores=(self.publisher_s - before.publisher_s) / seconds,
            machine_busy=(self.busy_s - before.busy_s) / max(self.all_s - before.all_s, 1e-9),
            recorder_peak_bytes=self.recorder_peak_bytes,
            save_s=save_s,
        )


def _cpu_s(process: int) -> float:
    """CPU seconds of all threads of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _peak_bytes(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{process}/status: expected VmHWM, found none")
