"""Raw observation -> model inputs, model output -> physical actions (GR00T N1.7).

The entry point is `groot_ros.processing.processor.Processor`. Nothing here imports ROS.
"""

from __future__ import annotations

from groot_ros.processing.errors import ProcessorError

__all__ = ["ProcessorError"]
