"""How the numbers of an action key move: between the steps of a chunk, and when the robot stops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from groot_ros.embodiment.vocabulary import SPEED_UNITS, TWISTS, pose_part

if TYPE_CHECKING:
    from groot_ros.embodiment.control_schema import Interpolation
    from groot_ros.embodiment.schema import ActionKey, Embodiment, Output, StateKey


def interpolation(embodiment: Embodiment, key: str) -> Interpolation:
    """What is commanded between the steps of action ``key``: ``cubic``, ``linear`` or ``step``.

    Raises: KeyError when there is no such key.
    """
    entry = embodiment.action[key]
    return entry.interpolation or ("step" if entry.normalization == "binary" else "cubic")


def rests_at_zero(embodiment: Embodiment, key: str) -> bool:
    """Whether a stop commands 0 for action ``key``, which says a speed, instead of the value it has come to.

    Raises: KeyError when there is no such key.
    """
    return is_speed(key, embodiment.action[key], embodiment.outputs.values())


def is_speed(key: str, entry: ActionKey, outputs: Iterable[Output]) -> bool:
    """``rests_at_zero`` of one entry of ``action``, for the outputs of its robot."""
    if entry.at_rest is not None:
        return entry.at_rest == "zero"
    return entry.unit in SPEED_UNITS or any(key in output.keys and output.type in TWISTS for output in outputs)


def measured_key(embodiment: Embodiment, key: str) -> str | None:
    """The state key that measures what action ``key`` commands in fields of a pose; None: there is none.

    It is the one that the key's ``representation`` names, else the first that has the same fields in the same order;
    a PoseStamped's ``pose.position.x`` is an Odometry's ``pose.pose.position.x``.

    Raises: KeyError when there is no such action key.
    """
    entry = embodiment.action[key]
    wanted = [pose_part(path) for path in entry.fields or []]
    if not wanted or None in wanted:
        return None

    def measures(state: StateKey) -> bool:
        return [pose_part(path) for path in state.fields or []] == wanted

    named = entry.representation.state_key if entry.representation is not None else None
    if named is not None and named in embodiment.state:
        return named if measures(embodiment.state[named]) else None
    return next((name for name, state in embodiment.state.items() if measures(state)), None)
