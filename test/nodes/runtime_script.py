"""A node that ends in the way its first argument says; run as a child process by test_runtime.py."""

import sys
import time

from rclpy.node import Node
from std_msgs.msg import String

from groot_ros.nodes.runtime import run

mode, threads = sys.argv[1], int(sys.argv[2])


class ScriptNode(Node):
    def __init__(self) -> None:
        super().__init__("script")
        self._publisher = self.create_publisher(String, "last_words", 1)
        print("ready", flush=True)
        if mode == "starting":
            while True:
                time.sleep(0.01)

    def close(self) -> None:
        self._publisher.publish(String(data="bye"))
        print("closed", flush=True)
        while mode == "hanging":
            time.sleep(0.01)


sys.exit(run(ScriptNode, sys.argv[:1], threads=threads))
