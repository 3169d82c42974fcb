"""ROS parameters from a dataclass: one place for name, type, default, unit, range and prose.

``docs/parameters.md`` is generated from the same dataclasses (``groot-ros docs parameters``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

T = TypeVar("T")


def parameter(
    default: bool | int | float | str,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Return a dataclass field that is a ROS parameter; ``minimum`` and ``maximum`` are inclusive."""
    return dataclasses.field(
        default=default,
        metadata={
            "description": description,
            "unit": unit,
            "minimum": minimum,
            "maximum": maximum,
            "choices": tuple(choices),
        },
    )


def declare(node: Node, kind: type[T]) -> None:
    """Declare every field of the dataclass ``kind``; rclpy checks type and range of what the user gave.

    Raises:
        rclpy.exceptions.InvalidParameterValueException and InvalidParameterTypeException: with the name and the value.
    """
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        node.declare_parameter(item.name, item.default, _descriptor(item))


def read(node: Node, kind: type[T]) -> T:
    """Return the current values.

    Raises:
        ValueError: a text is none of its choices (ROS has no ranges for texts); names the parameter and the choices.
    """
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = node.get_parameter(item.name).value
        choices = item.metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"parameter '{item.name}': expected one of {', '.join(choices)}, found '{value}'")
        values[item.name] = value
    return kind(**values)


def reference_rows(kind: type[Any]) -> list[tuple[str, str, str, str, str]]:
    """Rows (name, type, default, range or choices with unit, description) for the reference page."""
    rows = []
    for item in dataclasses.fields(kind):
        meta = item.metadata
        bounds = ", ".join(meta["choices"])
        if meta["minimum"] is not None or meta["maximum"] is not None:
            low = "" if meta["minimum"] is None else f"{meta['minimum']:g}"
            high = "" if meta["maximum"] is None else f"{meta['maximum']:g}"
            bounds = f"{low} .. {high}"
        rows.append(
            (
                item.name,
                type(item.default).__name__,
                f"{item.default!r}",
                f"{bounds} {meta['unit']}".strip(),
                meta["description"],
            )
        )
    return rows


def _descriptor(item: dataclasses.Field[Any]) -> ParameterDescriptor:
    meta = item.metadata
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    descriptor = ParameterDescriptor(name=item.name, description=meta["description"] + unit)
    if meta["choices"]:
        descriptor.additional_constraints = "one of " + ", ".join(meta["choices"])
    low, high = meta["minimum"], meta["maximum"]
    if (low is not None or high is not None) and isinstance(item.default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=float("-inf" if low is None else low),
                to_value=float("inf" if high is None else high),
            )
        ]
    elif (low is not None or high is not None) and isinstance(item.default, int):
        descriptor.integer_range = [
            IntegerRange(
                from_value=int(-(2**62) if low is None else low),
                to_value=int(2**62 if high is None else high),
            )
        ]
    return descriptor
