"""Rules about how commands are paced and how their numbers move."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from groot_ros.embodiment.motion import is_speed
from groot_ros.embodiment.problems import Path, Problem
from groot_ros.embodiment.vocabulary import orientation_form

if TYPE_CHECKING:
    from groot_ros.embodiment import schema


def control_rate(control: schema.Control, step_hz: float) -> Iterator[Problem]:
    """Every step of a chunk is commanded: there are as many control ticks as model steps, or more."""
    if control.rate_hz >= step_hz:
        return
    said = "rate_hz" in control.model_fields_set
    default = "" if said else ", the default of control.rate_hz"
    yield Problem(
        ("control", "rate_hz") if said else ("step_hz",),
        f"a control rate of at least step_hz, {step_hz:g} Hz",
        f"{control.rate_hz:g} Hz{default}",
        f"raise control.rate_hz to {step_hz:g} or more, or correct step_hz: steps between two ticks would be skipped",
    )


def chunking(control: schema.Control, generation: str | None) -> Iterator[Problem]:
    """``native`` is a way of N1.7; a file that holds for every generation is asked again with the checkpoint's."""
    if control.chunking == "native" and generation in ("n1d5", "n1d6"):
        yield Problem(
            ("control", "chunking"),
            f"a way that {generation} knows (guided, blend, ensemble, naive, sync)",
            "'native', which n1d7 alone has",
            "write guided, or write control under generations: n1d7",
        )


def speeds(action: Mapping[str, schema.ActionKey]) -> Iterator[Problem]:
    """One speed and acceleration per field, the same for all fields of an orientation, which turns as a whole."""
    for key, entry in action.items():
        fields = entry.fields or []
        for attribute in ("velocity", "acceleration"):
            values: list[float] | None = getattr(entry.bounds, attribute, None)
            if values is None or entry.fields is None:
                continue
            path: Path = ("action", key, "bounds", attribute)
            if len(values) != len(fields):
                yield Problem(
                    path,
                    f"{len(fields)} numbers, one per field",
                    f"{len(values)}",
                    "give one per field, in the same order",
                )
                continue
            turns = [value for name, value in zip(fields, values, strict=True) if orientation_form(name)]
            if len(set(turns)) > 1:
                yield Problem(
                    path,
                    "one number for all fields of the orientation, which turns as a whole (rad/s, rad/s^2)",
                    ", ".join(f"{value:g}" for value in turns),
                    "write the same number for each",
                )


def rests(action: Mapping[str, schema.ActionKey], outputs: Mapping[str, schema.Output]) -> Iterator[Problem]:
    """What a stop brings to 0 is a speed that may be 0; a joint stops where it is."""
    for key, entry in action.items():
        if entry.joints is not None and entry.at_rest == "zero":
            yield Problem(
                ("action", key, "at_rest"),
                "hold for joints, which are commanded as positions",
                "'zero'",
                "remove it: a stop would drive the joints to position 0",
            )
        if entry.fields is None or entry.bounds is None or not is_speed(key, entry, outputs.values()):
            continue
        for i, (name, low, high) in enumerate(zip(entry.fields, entry.bounds.lower, entry.bounds.upper, strict=False)):
            if not low <= 0.0 <= high:
                side = "lower" if low > 0.0 else "upper"
                yield Problem(
                    ("action", key, "bounds", side, i),
                    f"bounds of {name} around 0, which a stop commands (at_rest: zero)",
                    f"{low:g} .. {high:g}",
                    "widen them to 0, or write at_rest: hold for a number that is no speed",
                )
