"""How a node's process ends: exit codes, order, signals, and never a traceback on a signal."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node
from sim_process import NodeProcess
from std_msgs.msg import String

from groot_ros.nodes.runtime import EXIT_FAILED, EXIT_OK, EXIT_USAGE, StartError, request_stop, run

SCRIPT = str(Path(__file__).with_name("runtime_script.py"))
INT, TERM = signal.SIGINT, signal.SIGTERM

SIGNALS = [
    pytest.param("spinning", 1, [INT], EXIT_OK, "closed", id="ctrl-c"),
    pytest.param("spinning", 3, [TERM], EXIT_OK, "closed", id="term-threads"),
    pytest.param("spinning", 1, [INT, INT, TERM], EXIT_OK, "closed", id="impatient"),
    pytest.param("starting", 1, [INT, INT], EXIT_OK, "^ready$", id="while-starting"),
    pytest.param("hanging", 1, [TERM], EXIT_FAILED, "not closed 1.8 s after the signal.*MainThread", id="hanging"),
]


@pytest.mark.parametrize(("mode", "threads", "signals", "code", "printed"), SIGNALS)
def test_signals(mode: str, threads: int, signals: list[signal.Signals], code: int, printed: str) -> None:
    with NodeProcess([SCRIPT, mode, str(threads)]) as node:
        node.wait_for("ready")
        assert node.end(*signals)[0] == code, node.output
    assert "Traceback" not in node.output
    assert re.search(printed, node.output), node.output


class Probe(Node):
    """Notes its life in ``log``; ends by itself after a moment."""

    log: list[str]

    def __init__(self) -> None:
        super().__init__("probe")
        self._publisher = self.create_publisher(String, "probe", 1)
        self.create_timer(0.01, self._on_timer)

    def _on_timer(self) -> None:
        self.log.append("timer")
        self.act()

    def act(self) -> None:
        request_stop()

    def close(self) -> None:
        self._publisher.publish(String(data="still possible"))
        self.log.append("close")

    def destroy_node(self) -> None:
        self.log.append("destroy")
        super().destroy_node()


def probe(act: object = request_stop) -> type[Probe]:
    return type("ActingProbe", (Probe,), {"log": [], "act": lambda self: act()})  # type: ignore[operator]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("code", [EXIT_OK, 7])
def test_a_requested_stop_closes_in_order(threads: int, code: int) -> None:
    kind = probe(lambda: request_stop(code))
    assert run(kind, ["probe"], threads=threads) == code
    assert kind.log[-2:] == ["close", "destroy"]
    assert not rclpy.ok()


def test_stop_from_another_thread() -> None:
    kind = probe(lambda: threading.Thread(target=request_stop).start())
    assert run(kind, ["probe"]) == EXIT_OK
    assert kind.log[-1] == "destroy"


def test_another_ones_shutdown_is_a_normal_end() -> None:
    assert run(probe(rclpy.shutdown), ["probe"]) == EXIT_OK


def test_an_exception_in_a_callback_closes_and_comes_out() -> None:
    def fail() -> None:
        raise ZeroDivisionError("callback")

    kind = probe(fail)
    with pytest.raises(ZeroDivisionError, match="callback"):
        run(kind, ["probe"])
    assert kind.log[-2:] == ["close", "destroy"]
    assert not rclpy.ok()


def test_a_refused_start_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def refuse() -> Node:
        raise StartError("no embodiment 'sofa'")

    assert run(refuse, ["/usr/bin/my_node"]) == EXIT_USAGE
    assert capfd.readouterr().err == "my_node: no embodiment 'sofa'\n"


def test_bad_ros_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(probe(), ["probe", "--ros-args", "-p", "no-assignment"]) == EXIT_USAGE
    error = capfd.readouterr().err
    assert "probe: ROS arguments refused" in error
    assert "Traceback" not in error


def test_signal_handlers_are_given_back() -> None:
    before = signal.getsignal(INT), signal.getsignal(TERM)
    run(probe(), ["probe"])
    assert (signal.getsignal(INT), signal.getsignal(TERM)) == before
