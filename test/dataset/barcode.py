"""The barcode of the package, under the name that tests import."""

from groot_ros.closed_loop.barcode import LIMIT, draw, read

__all__ = ["LIMIT", "draw", "read"]
