"""LeRobot datasets: what a recorder writes, and the tools around them. Neither ROS nor torch."""
