"""The network of a loaded checkpoint, frozen for one robot and made fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groot_ros.model.engine.engine import Engine, EngineOptions, EngineReport

__all__ = ["Engine", "EngineOptions", "EngineReport"]


def __getattr__(name: str) -> Any:
    """On demand: parts of this package need no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from groot_ros.model.engine import engine

    return getattr(engine, name)
