"""The policy node with ``chaos_policy`` for a model: ``python chaos_node.py --ros-args -p ...``."""

from groot_ros.nodes.policy import main

if __name__ == "__main__":
    main(policy="chaos_policy:make")
