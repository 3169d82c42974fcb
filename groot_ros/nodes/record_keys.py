"""``record_keys``: one key or one joystick button per thing that a recorder can be asked, and its status in a line."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import select
import shutil
import sys
import termios
import threading
import time
import tty
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_srvs.srv import SetBool, Trigger

from groot_ros.msg import RecorderStatus
from groot_ros.nodes.convert import RELIABLE_QOS
from groot_ros.nodes.parameters import declare, parameter, read
from groot_ros.nodes.recorder_reports import STATES, status_line
from groot_ros.nodes.runtime import StartError, request_stop, run

KEYS = {" ": "start_or_save", "d": "discard", "p": "pause", "i": "intervention", "q": "quit"}
HELP = "space: start, then save   d: discard   p: pause   i: intervention   q: quit"
USAGE = """Keys of this terminal and buttons of a joystick to the services of /groot_recorder, whose status it shows.

Example: record_keys --ros-args -p joy_topic:=joy -p button_start:=0
Parameters: docs/parameters.md"""
ACTIVE = (RecorderStatus.WAITING, RecorderStatus.RECORDING, RecorderStatus.PAUSED)
SERVICES: dict[str, type] = {
    "start_episode": Trigger,
    "save_episode": Trigger,
    "discard_episode": Trigger,
    "pause": SetBool,
    "intervention": SetBool,
}
SILENT_S = 1.5  # the recorder publishes its status at 5 Hz
PENDING_KEYS = 16
# An arrow, a function key or Alt with a key comes as several characters, letters among them.
ESCAPED = re.compile(r"\x1b(\[[0-9;]*[A-Za-z~]|O?.|)", re.DOTALL)


@dataclass(frozen=True)
class RecordKeysParameters:
    """Parameters of ``/record_keys``; read once at the start."""

    recorder: str = parameter("groot_recorder", "Name of the recorder node, in the namespace of this one")
    keyboard: bool = parameter(True, "Read keys from the terminal (standard input)")
    joy_topic: str = parameter("joy", "sensor_msgs/Joy of the joystick driver; empty: no joystick")
    button_start: int = parameter(0, "Button that starts and then saves; -1: none", minimum=-1, maximum=63)
    button_discard: int = parameter(1, "Button that discards; -1: none", minimum=-1, maximum=63)
    button_pause: int = parameter(2, "Button that pauses and goes on; -1: none", minimum=-1, maximum=63)
    button_intervention: int = parameter(
        3, "Button that begins and ends marking rows as an intervention; -1: none", minimum=-1, maximum=63
    )


@dataclass(frozen=True)
class Call:
    """A service of the recorder, with its request's ``data`` where it has one."""

    service: str
    data: bool | None = None


def call_for(wish: str, status: RecorderStatus) -> Call | str:
    """What ``wish`` (a value of ``KEYS``, not ``quit``) means in this state, or why it means nothing."""
    active = status.state in ACTIVE
    if wish == "start_or_save":
        return Call("save_episode" if active else "start_episode")
    if wish == "intervention":
        return Call("intervention", not status.intervention)
    if not active:
        return f"{wish}: no episode is running ({STATES[status.state]})"
    if wish == "discard":
        return Call("discard_episode")
    return Call("pause", status.state != RecorderStatus.PAUSED)


class Keyboard:
    """Keys of a terminal or a pipe, read in a thread of its own, one at a time and without Enter.

    Attributes:
        keys: those pressed; what does not fit is left out.
        ended: there will be no more.
        thread: reads until then.

    Raises:
        StartError: the process is in the background of its terminal, and reading would stop it.
    """

    def __init__(self, descriptor: int) -> None:
        self.keys: queue.Queue[str] = queue.Queue(PENDING_KEYS)
        self.ended = False
        self._descriptor = descriptor
        self._before: list[Any] | None = None
        if os.isatty(descriptor):
            if os.tcgetpgrp(descriptor) != os.getpgrp():
                raise StartError(
                    "standard input: expected to be in the foreground of the terminal, found the background: "
                    "start record_keys in a terminal of its own, or with keyboard:=false for a joystick alone"
                )
            self._before = termios.tcgetattr(descriptor)
            tty.setcbreak(descriptor)
        self._end_reader, self._end_writer = os.pipe()
        self.thread = threading.Thread(target=self._read, name="keyboard", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Give the terminal back as it was."""
        if self._before is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        os.close(self._end_writer)
        self.thread.join()
        os.close(self._end_reader)

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._descriptor, self._end_reader], [], [])
            if self._end_reader in ready:
                return
            data = os.read(self._descriptor, 64)
            if not data:
                self.ended = True
                return
            for key in ESCAPED.sub("", data.decode("utf-8", errors="replace")):
                with contextlib.suppress(queue.Full):  # a key held down: what came first is what was meant
                    self.keys.put_nowait(key)


class RecordKeys(Node):
    """Keys and buttons to services of the recorder; its answers and its status to the terminal.

    Raises:
        StartError: parameters are refused, or there is no keyboard to read.
    """

    def __init__(self) -> None:
        super().__init__("record_keys")
        try:
            declare(self, RecordKeysParameters)
            self._options = read(self, RecordKeysParameters)
        except (ParameterException, ValueError) as error:
            raise StartError(str(error)) from error
        recorder = self._options.recorder
        self._calls = {name: self.create_client(kind, f"{recorder}/{name}") for name, kind in SERVICES.items()}
        self._pending: set[str] = set()
        self._status: RecorderStatus | None = None
        self._heard_s = time.monotonic()
        self._shown = ""
        self._buttons: list[int] | None = None
        self.create_subscription(RecorderStatus, f"{recorder}/status", self._on_status, RELIABLE_QOS)
        if self._options.joy_topic:
            self.create_subscription(Joy, self._options.joy_topic, self._on_joy, RELIABLE_QOS)
        self._keyboard = Keyboard(sys.stdin.fileno()) if self._options.keyboard else None
        self._in_place = sys.stdout.isatty()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.02, self._on_keys, clock=steady)
        self.create_timer(0.2, self._show, clock=steady)
        self._say(HELP if self._keyboard is not None else f"joystick on {self._options.joy_topic}")

    def close(self) -> None:
        """Give the terminal back."""
        if self._keyboard is not None:
            self._keyboard.close()
            self._keyboard = None
        if self._in_place:
            print()

    # --- what is wished ----------------------------------------------------------------------------------------------

    def _on_keys(self) -> None:
        keyboard = self._keyboard
        if keyboard is None:
            return
        while not keyboard.keys.empty():
            wish = KEYS.get(keyboard.keys.get())
            if wish == "quit":
                request_stop()
                return
            self._say(HELP) if wish is None else self._wish(wish)
        if keyboard.ended:
            keyboard.close()
            self._keyboard = None
            self._say("standard input has ended: no keys any more")

    def _on_joy(self, message: Joy) -> None:
        before, self._buttons = self._buttons, list(message.buttons)
        options = self._options
        for number, wish in (
            (options.button_start, "start_or_save"),
            (options.button_discard, "discard"),
            (options.button_pause, "pause"),
            (options.button_intervention, "intervention"),
        ):
            if number >= len(message.buttons):
                text = f"{options.joy_topic}: expected a button {number} ({wish}), found {len(message.buttons)} buttons"
                self.get_logger().warning(f"{text}; set the button_* parameters", once=True)
            # A button that is held down when the first message comes was not pressed for this.
            elif number >= 0 and before is not None and message.buttons[number] and not (before + [1] * 64)[number]:
                self._wish(wish)

    def _wish(self, wish: str) -> None:
        if self._status is None or self._silent():
            self._say(f"{wish}: no recorder: nothing comes on {self._options.recorder}/status")
            return
        call = call_for(wish, self._status)
        if isinstance(call, str):
            self._say(call)
        elif call.service in self._pending:
            self._say(f"{call.service}: not answered yet")
        elif not self._calls[call.service].service_is_ready():
            self._say(f"{call.service}: no such service of {self._options.recorder} yet")
        else:
            self._pending.add(call.service)
            kind = SERVICES[call.service]
            request = kind.Request() if call.data is None else kind.Request(data=call.data)  # type: ignore[attr-defined]
            future = self._calls[call.service].call_async(request)
            future.add_done_callback(lambda done: self._on_answer(call, done.result()))

    def _on_answer(self, call: Call, answer: Any) -> None:
        self._pending.discard(call.service)
        self._say(f"{call.service}: {'' if answer.success else 'refused: '}{answer.message}")

    # --- what is shown -----------------------------------------------------------------------------------------------

    def _on_status(self, message: RecorderStatus) -> None:
        self._status = message
        self._heard_s = time.monotonic()

    def _silent(self) -> bool:
        return time.monotonic() - self._heard_s > SILENT_S

    def _show(self) -> None:
        """The status: in one line that is written over on a terminal, else when state or reason change."""
        if self._status is None or self._silent():
            self._pending.clear()  # a recorder that is gone does not answer
            state = line = f"no recorder: nothing on {self._options.recorder}/status, check namespace and ROS_DOMAIN_ID"
        else:
            line = status_line(self._status)
            state = f"{self._status.state} {self._status.reason} {self._status.last_result}"
        if self._in_place:
            ended = self._status is not None and self._status.state == RecorderStatus.IDLE and self._status.reason
            if ended and state != self._shown:
                print("\a", end="")  # whoever moves the robot does not look here
            if self._status is not None and self._status.reason and state != self._shown:
                self._say(self._status.message)  # in full: the line is cut at the width of the terminal
            print(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif state != self._shown:
            print(line, flush=True)
        self._shown = state

    def _say(self, text: str) -> None:
        print(f"\r\x1b[2K{text}" if self._in_place else text, flush=True)


def main(args: Sequence[str] | None = None) -> int:
    """Executable ``record_keys``."""
    if {"-h", "--help"} & set(sys.argv if args is None else args):
        print(f"{HELP}\n\n{USAGE}")
        return 0
    return run(RecordKeys, args)


if __name__ == "__main__":
    sys.exit(main())
