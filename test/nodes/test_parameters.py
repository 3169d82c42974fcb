"""Parameters come from one dataclass per node: declared, checked, documented."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from groot_ros.nodes.parameters import declare, parameter, read
from groot_ros.nodes.reference import PAGES, parameters_page

DOCS = Path(__file__).resolve().parents[2] / "docs" / "parameters.md"


@dataclasses.dataclass(frozen=True)
class Example:
    """Two of each kind."""

    rate_hz: float = parameter(10.0, "How often", unit="Hz", minimum=1.0, maximum=20.0)
    count: int = parameter(3, "How many", minimum=0, maximum=9)
    mode: str = parameter("fast", "How", choices=("fast", "slow"))
    quiet: bool = parameter(False, "Say nothing")


@pytest.fixture
def context() -> Iterator[rclpy.Context]:
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


def make(context: rclpy.Context, **given: object) -> Node:
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    return Node("example", context=context, parameter_overrides=overrides)


def test_defaults_and_given_values_are_read(context: rclpy.Context) -> None:
    node = make(context, count=7, mode="slow")
    declare(node, Example)
    assert read(node, Example) == Example(count=7, mode="slow")
    assert node.describe_parameter("rate_hz").description == "How often [Hz]"
    node.destroy_node()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"rate_hz": 21.0}, InvalidParameterValueException),
        ({"count": -1}, InvalidParameterValueException),
        ({"count": "three"}, InvalidParameterTypeException),
    ],
)
def test_what_is_out_of_range_or_of_another_type_is_refused(context, given, error) -> None:
    node = make(context, **given)
    with pytest.raises(error):
        declare(node, Example)
    node.destroy_node()


def test_a_text_that_is_no_choice_is_refused_by_name(context: rclpy.Context) -> None:
    node = make(context, mode="medium")
    declare(node, Example)
    with pytest.raises(ValueError, match="parameter 'mode': expected one of fast, slow, found 'medium'"):
        read(node, Example)
    node.destroy_node()


@pytest.mark.parametrize("kind", PAGES.values(), ids=lambda kind: kind.__name__)
def test_every_parameter_has_words_and_every_number_a_range(kind: type) -> None:
    for item in dataclasses.fields(kind):
        assert len(item.metadata["description"]) > 10, item.name
        if isinstance(item.default, (int, float)) and not isinstance(item.default, bool):
            assert item.metadata["minimum"] is not None and item.metadata["maximum"] is not None, item.name


def test_the_reference_page_is_what_the_code_says() -> None:
    assert DOCS.read_text(encoding="utf-8") == parameters_page(), "run `groot-ros docs parameters`"
