"""A policy in a process of its own: the same values, the same errors, and an end that always comes."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted_policy
from rich.console import Console
from scripted_policy import observation

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.policy.base import Chunk, Prefix
from groot_ros.policy.channel import Channel
from groot_ros.policy.process import PolicyGone, ProcessPolicy
from groot_ros.processing.errors import ProcessorError

FACTORY = "scripted_policy:make"
WAIT_S = 30.0
HERE = Path(__file__).parent


@contextmanager
def running(**arguments: object) -> Iterator[ProcessPolicy]:
    policy = ProcessPolicy(FACTORY, arguments, start_timeout_s=WAIT_S)
    try:
        yield policy
    finally:
        policy.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessPolicy]:
    """One child for the tests that leave it as it was."""
    with running() as policy:
        yield policy


@pytest.fixture
def bell(tmp_path: Path) -> Path:
    path = tmp_path / "bell"
    os.mkfifo(path)
    return path


class Call(threading.Thread):
    """A call in another thread, and what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except Exception as error:
            self.result = error

    def outcome(self) -> Any:
        self.join(WAIT_S)
        assert not self.is_alive(), "the call did not return"
        return self.result


def ends(pid: int) -> Callable[[], bool]:
    """Ask now, so that a later process of the same number is not meant; call the answer to wait for the end."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return lambda: True

    def wait() -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        try:
            return bool(poll.poll(WAIT_S * 1e3))
        finally:
            os.close(fd)

    return wait


def stop(pid: int) -> None:
    """SIGSTOP to a child of ours; it stands still when this returns."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def reaped(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


# --- what comes back -------------------------------------------------------------------------------------------------


def test_values_arrive_as_they_were_sent(shared: ProcessPolicy) -> None:
    sent = observation(side=224)
    random = np.random.default_rng(1)
    actions = {"arm": random.normal(size=(16, 6)), "turned": np.asfortranarray(random.normal(size=(16, 3)))}
    chunk = shared.act(sent, seed=11, prefix=Prefix(actions, length=9, frozen=4))
    expected: dict[str, Any] = {
        **sent.video,
        **sent.state,
        **{f"prefix.{key}": value for key, value in actions.items()},
    }
    assert isinstance(chunk, Chunk)
    assert (chunk.stamp_ns, chunk.seed, chunk.instruction) == (sent.stamp_ns, 11, "echo")
    assert list(chunk.actions) == list(expected)
    for key, value in expected.items():
        assert chunk.actions[key].dtype == value.dtype
        np.testing.assert_array_equal(chunk.actions[key], value)
        assert chunk.actions[key].flags.writeable
    assert shared.act(observation(stamp_ns=8)).seed == -1  # no seed: the policy draws it


def test_facts_say_what_the_policy_is(shared: ProcessPolicy) -> None:
    facts = shared.facts
    assert (facts.device, facts.generation, facts.warm_s) == ("cpu", "n1d7", 0.125)
    assert list(facts.state_ranges) == ["arm"]
    np.testing.assert_array_equal(facts.state_ranges["arm"], (scripted_policy.LOWEST, scripted_policy.HIGHEST))
    assert shared.pid != os.getpid()
    assert shared.stage == "ready"


@pytest.mark.parametrize("name", scripted_policy.ERRORS)
def test_errors_keep_class_and_text_and_the_policy_goes_on(shared: ProcessPolicy, name: str) -> None:
    expected = scripted_policy.ERRORS[name]
    with pytest.raises(Exception) as caught:
        shared.act(observation(f"raise {name}"))
    assert str(caught.value) == str(expected)
    if name in ("KeyError", "UnicodeDecodeError"):  # their texts are not what they are made from: only their names
        assert type(caught.value).__name__ == name
        assert isinstance(caught.value, type(expected).__mro__[1])
    else:
        assert type(caught.value) is type(expected)
    assert shared.act(observation()).instruction == "echo"


def test_errors_keep_their_parts(shared: ProcessPolicy) -> None:
    with pytest.raises(EmbodimentError) as embodiment:
        shared.act(observation("raise EmbodimentError"))
    assert embodiment.value.lines == ["robot.yaml:3: limits: one", "robot.yaml:4: limits: two"]
    with pytest.raises(ProcessorError) as processor:
        shared.act(observation("raise ProcessorError"))
    assert (processor.value.where, processor.value.fix) == ("state.arm", "Look at the YAML.")


def test_an_error_of_a_module_that_is_not_loaded_here_is_not_imported_for_it(
    shared: ProcessPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "scripted_policy")
    with pytest.raises(ValueError, match=r"^so special$") as caught:
        shared.act(observation("raise SpecialError"))
    assert type(caught.value).__name__ == "SpecialError"
    assert "scripted_policy" not in sys.modules


def test_neither_side_needs_torch_for_itself() -> None:
    code = "import sys, groot_ros.policy.process, groot_ros.policy.child; print({'torch', 'rclpy'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_what_the_child_prints_goes_to_our_stderr(shared: ProcessPolicy, capfd: pytest.CaptureFixture[str]) -> None:
    lines = {"shard on stdout\n", "shard on stderr\n"}
    shared.act(observation("print shard"))
    with pytest.raises(FileNotFoundError):
        shared.act(observation("raise FileNotFoundError"))
    out = err = ""
    deadline_s = time.monotonic() + WAIT_S
    while not (lines <= {*err.splitlines(keepends=True)} and "weights.safetensors" in err):
        assert time.monotonic() < deadline_s, err
        captured = capfd.readouterr()
        out, err = out + captured.out, err + captured.err
    assert not out
    assert "Traceback" in err and "scripted_policy.py" in err


def test_instructions_are_checked_while_an_inference_is_under_way(bell: Path) -> None:
    with running(bell=bell) as policy:
        act = Call(lambda: policy.act(observation("hang")))
        assert bell.read_bytes() == b"!"
        policy.check_instruction("pick up")
        with pytest.raises(ProcessorError, match="at most 5 tokens"):
            policy.check_instruction("refused")
        with pytest.raises(RuntimeError, match="one caller at a time"):
            policy.act(observation())
        policy.close()
        assert isinstance(act.outcome(), PolicyGone)
        with pytest.raises(ValueError, match=r"ended by close\(\)"):
            policy.check_instruction("pick up")


def test_an_instruction_that_no_pipe_holds_is_refused(shared: ProcessPolicy) -> None:
    with pytest.raises(ValueError, match="shorten"):
        shared.check_instruction("red " * 100_000)


def test_what_cannot_be_pickled_is_refused_and_the_policy_goes_on(shared: ProcessPolicy) -> None:
    unsendable: Any = threading.Lock()
    with pytest.raises((TypeError, pickle.PicklingError)):
        shared.act(observation(), seed=unsendable)
    assert shared.act(observation()).instruction == "echo"


# --- a start that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EmbodimentError", "ProcessorError", "FileNotFoundError", "MemoryError"])
def test_an_error_of_the_factory_is_raised_here(name: str) -> None:
    expected = scripted_policy.ERRORS[name]
    with pytest.raises(type(expected)) as caught:
        ProcessPolicy(FACTORY, {"start": name})
    assert str(caught.value) == str(expected)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("exit", r"ended with exit code 3 while loading the model; .*again\n  its last lines:\n  no such driver"),
        ("sys.exit", r"ended with exit code 1 while loading the model(.|\n)*SystemExit: cannot go on"),
        ("crash", r"killed by signal 11 \(Segmentation fault\) while loading the model"),
    ],
)
def test_a_child_that_ends_while_loading_says_how(start: str, message: str) -> None:
    with pytest.raises(PolicyGone, match=message):
        ProcessPolicy(FACTORY, {"start": start})


@pytest.mark.parametrize(
    ("factory", "arguments", "error", "message"),
    [
        ("no_such_module:make", {}, ModuleNotFoundError, "no_such_module"),
        ("scripted_policy:nothing", {}, AttributeError, "nothing"),
        (FACTORY, {"unknown": 1}, TypeError, "unknown"),
        ("scripted_policy", {}, ValueError, "package.module:callable"),
    ],
)
def test_a_wrong_factory_is_named(factory: str, arguments: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ProcessPolicy(factory, arguments)


def test_a_wrong_niceness_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 0\.\.19, found -5"):
        ProcessPolicy(FACTORY, {}, niceness=-5)


def test_a_start_that_takes_too_long_is_ended() -> None:
    policies: list[ProcessPolicy] = []
    with pytest.raises(TimeoutError, match=r"not ready after 1\.5 s, it was (loading|importing|starting)"):
        ProcessPolicy(FACTORY, {"start": "hang"}, start_timeout_s=1.5, started=policies.append)
    assert reaped(policies[0].pid)


@pytest.mark.parametrize("start", ["hang", "lock"])
def test_close_from_another_thread_ends_a_start(start: str) -> None:
    policies: list[ProcessPolicy] = []
    announced = threading.Event()

    def started(policy: ProcessPolicy) -> None:
        policies.append(policy)
        announced.set()

    start_call = Call(lambda: ProcessPolicy(FACTORY, {"start": start}, started=started))
    assert announced.wait(WAIT_S)
    with pytest.raises(ValueError, match="not ready"):
        policies[0].check_instruction("pick up")
    policies[0].close()
    assert reaped(policies[0].pid)
    outcome = start_call.outcome()
    assert isinstance(outcome, PolicyGone) and "ended by close() while" in str(outcome)


# --- a child that dies or hangs --------------------------------------------------------------------------------------


def test_a_killed_child_is_noticed_by_the_call_that_waits_for_it(bell: Path) -> None:
    with running(bell=bell) as policy:
        act = Call(lambda: policy.act(observation("hang")))
        assert bell.read_bytes() == b"!"
        os.kill(policy.pid, signal.SIGKILL)
        gone = act.outcome()
        assert isinstance(gone, PolicyGone)
        assert f"pid {policy.pid}) was killed by SIGKILL (if nobody did: the machine was out of memory" in str(gone)
        assert "cleanup and configure again" in str(gone)
        assert reaped(policy.pid)
        with pytest.raises(PolicyGone, match="SIGKILL"):
            policy.act(observation())
        with pytest.raises(ValueError, match="SIGKILL"):
            policy.check_instruction("pick up")


def test_the_last_lines_of_a_child_that_ends_by_itself_are_told() -> None:
    with running() as policy, pytest.raises(PolicyGone, match=r"exit code 3(.|\n)*the very last line"):
        policy.act(observation("exit"))


def test_a_stopped_child_neither_hangs_who_asks_nor_outlives_close() -> None:
    with running() as policy:
        stop(policy.pid)
        # More than a socket holds: the call waits with a part of it sent.
        act = Call(lambda: policy.act(observation(side=2000)))
        for _ in range(2):
            with pytest.raises(ValueError, match="does not answer"):
                policy.check_instruction("pick up")
        policy.close()
        assert isinstance(act.outcome(), PolicyGone)
        assert reaped(policy.pid)


def test_a_child_that_was_stopped_for_a_while_answers_the_right_question() -> None:
    with running() as policy:
        stop(policy.pid)
        with pytest.raises(ValueError, match="does not answer"):
            policy.check_instruction("refused")
        os.kill(policy.pid, signal.SIGCONT)
        policy.check_instruction("pick up")
        with pytest.raises(ProcessorError, match="refused"):
            policy.check_instruction("refused again")


def test_close_ends_a_child_that_does_not_let_go_of_the_lock(bell: Path) -> None:
    with running(bell=bell) as policy:
        act = Call(lambda: policy.act(observation("lock")))
        assert bell.read_bytes() == b"!"
        policy.close()
        assert reaped(policy.pid)
        assert isinstance(act.outcome(), PolicyGone)
        policy.close()  # again is no error


def test_signals_for_the_group_are_the_parents_to_answer(shared: ProcessPolicy) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(shared.pid, number)
    assert shared.act(observation()).instruction == "echo"


def test_the_child_outlives_the_thread_that_made_it() -> None:
    made = Call(lambda: ProcessPolicy(FACTORY, {}))
    policy = made.outcome()
    try:
        assert policy.act(observation()).instruction == "echo"
    finally:
        policy.close()


def test_the_child_is_nicer_than_we_are() -> None:
    policy = ProcessPolicy(FACTORY, {}, niceness=7)
    try:
        assert os.getpriority(os.PRIO_PROCESS, policy.pid) == min(os.nice(0) + 7, 19)
    finally:
        policy.close()


# --- a parent that dies, and where it was started from ---------------------------------------------------------------

# No guard of __main__, as a console script's module or a user's script may have none.
PARENT = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
from scripted_policy import observation
from groot_ros.policy.process import ProcessPolicy
print("parent", os.getpid(), flush=True)
start, act, bell = sys.argv[1:]
def started(policy):
    print(policy.pid, flush=True)
arguments = {{"start": start, "bell": Path(bell) if bell else None}}
policy = ProcessPolicy("scripted_policy:make", arguments, started=started)
print("ready", flush=True)
policy.act(observation(act))
sys.stdin.read()
"""


def parent(folder: Path, way: str, start: str = "", act: str = "echo", bell: str = "") -> subprocess.Popen[str]:
    (folder / "unguarded_parent.py").write_text(PARENT)
    command = {
        "script": [str(folder / "unguarded_parent.py")],
        "module": ["-m", "unguarded_parent"],
        "code": ["-c", PARENT],
    }[way]
    return subprocess.Popen(
        [sys.executable, *command, start, act, bell],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, process.communicate()[1]
    return text.strip()


@pytest.mark.parametrize("way", ["script", "module", "code"])
def test_every_way_to_start_the_parent_works_and_its_end_ends_the_child(tmp_path: Path, way: str) -> None:
    with parent(tmp_path, way) as process:
        assert line(process) == f"parent {process.pid}"
        child_ends = ends(int(line(process)))
        assert line(process) == "ready"
        out, err = process.communicate("")  # it comes to its end without close()
        assert process.returncode == 0 and not err
        assert not out  # its code did not run once more, in the child
        assert child_ends()


@pytest.mark.parametrize("state", ["idle", "stopped", "in act", "with the lock", "loading"])
def test_a_parent_that_is_killed_leaves_no_child(tmp_path: Path, bell: Path, state: str) -> None:
    start = "lock" if state == "loading" else ""
    act = {"in act": "hang", "with the lock": "lock"}.get(state, "echo")
    with parent(tmp_path, "script", start, act, str(bell)) as process:
        line(process)
        pid = int(line(process))
        child_ends = ends(pid)
        if start:
            assert process.stderr is not None and process.stderr.readline() == "hanging\n"
        else:
            assert bell.read_bytes() == b"!"  # ready, and in act
        if state == "stopped":
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        assert child_ends()


def test_ctrl_c_while_loading_ends_parent_and_child(tmp_path: Path) -> None:
    with parent(tmp_path, "script", "lock") as process:
        line(process)
        child_ends = ends(int(line(process)))
        assert process.stderr is not None and process.stderr.readline() == "hanging\n"
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.stderr.read()
        assert process.wait(WAIT_S) == -signal.SIGINT
        assert child_ends()


# --- the channel -----------------------------------------------------------------------------------------------------


def test_a_channel_keeps_what_came_late_and_refuses_what_broke_off() -> None:
    raw, end = socket.socketpair()
    other, channel = Channel(raw), Channel(end)
    with pytest.raises(TimeoutError):
        channel.receive(time.monotonic())
    other.send({"late": np.arange(3)})
    np.testing.assert_array_equal(channel.receive(time.monotonic() + WAIT_S)["late"], np.arange(3))
    raw.sendall(b"\0\0\0")
    with pytest.raises(ConnectionError, match="broke off"):
        channel.receive(time.monotonic() + 0.01)
    with pytest.raises(EOFError):
        channel.receive()
    with pytest.raises(OSError):
        other.send("more")
    raw.close()
    end.close()


# --- the model -------------------------------------------------------------------------------------------------------


def test_the_model_in_a_child_says_what_it_says_in_this_process(tmp_path: Path) -> None:
    from groot_ros.embodiment.load import embodiment_path, load_embodiment
    from groot_ros.policy.local import LocalPolicy
    from groot_ros.policy.random_checkpoint import make_random_checkpoint

    text = embodiment_path("sim_arm").read_text(encoding="utf-8").replace(": 224", ": 64")
    robot = tmp_path / "arm.yaml"
    robot.write_text(text)
    checkpoint = tmp_path / "tiny"
    make_random_checkpoint(checkpoint, "n1d7", "tiny", str(robot), 0, Console(quiet=True))
    arguments = {"checkpoint": checkpoint, "embodiment": load_embodiment(robot, "n1d7"), "device": "cpu"}
    local = LocalPolicy(**arguments)  # type: ignore[arg-type]
    policy = ProcessPolicy("groot_ros.policy.child:local_policy", {**arguments, "torch_threads": 1})
    try:
        blank = local.blank_observation()
        expected, chunk = local.act(blank, seed=3), policy.act(blank, seed=3)
        assert chunk.actions.keys() == expected.actions.keys()
        for key, value in expected.actions.items():
            np.testing.assert_allclose(chunk.actions[key], value, rtol=1e-5, atol=1e-6)
        assert (policy.facts.device, policy.facts.generation) == ("cpu", "n1d7")
        for key, limits in policy.facts.state_ranges.items():
            np.testing.assert_array_equal(limits, local.processor.state_limits(key))
        assert policy.facts.state_ranges.keys() == blank.state.keys()
        with pytest.raises(ProcessorError):
            policy.check_instruction("word " * 5000)
    finally:
        policy.close()
