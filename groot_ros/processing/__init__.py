"""Raw observation -> model inputs, model output -> physical actions, for GR00T N1.5, N1.6 and N1.7.

The entry point is `groot_ros.processing.processor.Processor`; what differs between the generations is in
`groot_ros.processing.generations`. Nothing here imports ROS.
"""

from __future__ import annotations

from groot_ros.processing.errors import ProcessorError

__all__ = ["ProcessorError"]
