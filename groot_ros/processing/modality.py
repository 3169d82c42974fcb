"""What one embodiment feeds and gets: `ModalityConfig` per modality, parsed from processor_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from groot_ros.processing.errors import ProcessorError, describe, listing

MODALITIES = ("video", "state", "action", "language")


class ActionRep(Enum):
    """How the model sees an action group. DELTA is handled as ABSOLUTE, as NVIDIA's processor does."""

    RELATIVE = "relative"
    DELTA = "delta"
    ABSOLUTE = "absolute"


class ActionType(Enum):
    """EEF groups are poses (relative in SE(3)); NON_EEF groups are plain numbers (relative by subtraction)."""

    EEF = "eef"
    NON_EEF = "non_eef"


class ActionFormat(Enum):
    """Layout of an EEF group: 9 numbers, 6 numbers, or a flattened 4x4 matrix (DEFAULT)."""

    DEFAULT = "default"
    XYZ_ROT6D = "xyz+rot6d"
    XYZ_ROTVEC = "xyz+rotvec"


def _enum(kind: type[Enum], value: Any, where: str) -> Any:
    # Files carry enum names; the values are accepted too because NVIDIA's Python API takes either.
    for member in kind:
        if value in (member.name, member.value):
            return member
    raise ProcessorError(where, "one of " + ", ".join(m.name for m in kind), describe(value))


def _int_list(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or any(type(v) is not int for v in value):
        raise ProcessorError(where, "a non-empty list of integers", describe(value))
    return tuple(value)


def _name_list(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or any(not isinstance(v, str) or not v for v in value):
        raise ProcessorError(where, "a list of names", describe(value))
    if len(set(value)) != len(value):
        raise ProcessorError(where, "each name once", describe(value))
    return tuple(value)


@dataclass(frozen=True)
class ActionConfig:
    """Representation of one action group. `state_key` None: the state group of the same name is the reference."""

    rep: ActionRep
    type: ActionType
    format: ActionFormat
    state_key: str | None = None

    @classmethod
    def from_dict(cls, data: Any, where: str) -> ActionConfig:
        """Parses one entry of `action_configs`; `where` names the entry in errors."""
        if not isinstance(data, Mapping):
            raise ProcessorError(where, "an object with rep, type, format, state_key", describe(data))
        missing = [key for key in ("rep", "type", "format") if key not in data]
        if missing:
            raise ProcessorError(where, "the keys rep, type and format", f"no {listing(missing)}")
        state_key = data.get("state_key")
        if state_key is not None and not isinstance(state_key, str):
            raise ProcessorError(f"{where}.state_key", "the name of a state group or null", describe(state_key))
        return cls(
            rep=_enum(ActionRep, data["rep"], f"{where}.rep"),
            type=_enum(ActionType, data["type"], f"{where}.type"),
            format=_enum(ActionFormat, data["format"], f"{where}.format"),
            state_key=state_key,
        )

    def to_dict(self) -> dict[str, Any]:
        """The form the file has: enum names."""
        return {
            "rep": self.rep.name,
            "type": self.type.name,
            "format": self.format.name,
            "state_key": self.state_key,
        }


ABSOLUTE = ActionConfig(ActionRep.ABSOLUTE, ActionType.NON_EEF, ActionFormat.DEFAULT)

_FIELDS = (
    "delta_indices",
    "modality_keys",
    "sin_cos_embedding_keys",
    "mean_std_embedding_keys",
    "action_configs",
)


@dataclass(frozen=True)
class ModalityConfig:
    """One modality of one embodiment.

    Attributes:
        delta_indices: time offsets in dataset steps, oldest first as in the file (video of DROID: -15, 0).
        modality_keys: groups (state, action), cameras (video) or annotation names (language), in model order.
        sin_cos_embedding_keys: state groups given as [sin, cos]; only used if the processor switches it on.
        mean_std_embedding_keys: groups normalised by mean and standard deviation instead of min and max.
        action_configs: one per action key, or None (all absolute).
        extra: keys this package does not know, kept for writing back.
    """

    delta_indices: tuple[int, ...]
    modality_keys: tuple[str, ...]
    sin_cos_embedding_keys: tuple[str, ...] | None = None
    mean_std_embedding_keys: tuple[str, ...] | None = None
    action_configs: tuple[ActionConfig, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Any, where: str) -> ModalityConfig:
        """Parses one modality; `where` names it in errors.

        Raises:
            ProcessorError: a wrong type, an empty key list, or not as many action_configs as keys.
        """
        if not isinstance(data, Mapping):
            raise ProcessorError(where, "an object with delta_indices and modality_keys", describe(data))
        missing = [key for key in ("delta_indices", "modality_keys") if key not in data]
        if missing:
            raise ProcessorError(where, "the keys delta_indices and modality_keys", f"no {listing(missing)}")
        keys = _name_list(data["modality_keys"], f"{where}.modality_keys")
        if not keys:
            raise ProcessorError(f"{where}.modality_keys", "at least one name", "an empty list")
        return cls(
            delta_indices=_int_list(data["delta_indices"], f"{where}.delta_indices"),
            modality_keys=keys,
            sin_cos_embedding_keys=_key_subset(data, "sin_cos_embedding_keys", where),
            mean_std_embedding_keys=_key_subset(data, "mean_std_embedding_keys", where),
            action_configs=_action_configs(data.get("action_configs"), keys, f"{where}.action_configs"),
            extra={key: value for key, value in data.items() if key not in _FIELDS},
        )

    def to_dict(self) -> dict[str, Any]:
        """The form the file has."""

        def listed(value: tuple[str, ...] | None) -> list[str] | None:
            return None if value is None else list(value)

        configs = self.action_configs
        return {
            "delta_indices": list(self.delta_indices),
            "modality_keys": list(self.modality_keys),
            "sin_cos_embedding_keys": listed(self.sin_cos_embedding_keys),
            "mean_std_embedding_keys": listed(self.mean_std_embedding_keys),
            "action_configs": None if configs is None else [config.to_dict() for config in configs],
            **self.extra,
        }

    def action_config(self, key: str) -> ActionConfig:
        """Representation of action group `key`; absolute where the file says nothing."""
        if self.action_configs is None:
            return ABSOLUTE
        return self.action_configs[self.modality_keys.index(key)]

    @property
    def exclude_state(self) -> bool:
        """True if this (state) modality is to be fed as zeros."""
        return bool(self.extra.get("exclude_state", False))


def _key_subset(data: Mapping[str, Any], name: str, where: str) -> tuple[str, ...] | None:
    # Names that are not modality keys are left alone: they have no effect in NVIDIA's processor either.
    return None if data.get(name) is None else _name_list(data[name], f"{where}.{name}")


def _action_configs(value: Any, keys: tuple[str, ...], where: str) -> tuple[ActionConfig, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != len(keys):
        found = f"{len(value)}" if isinstance(value, list) else describe(value)
        raise ProcessorError(where, f"a list of {len(keys)} entries, one per modality key", found)
    return tuple(ActionConfig.from_dict(entry, f"{where}[{i}]") for i, entry in enumerate(value))


def parse_modalities(data: Any, where: str) -> dict[str, ModalityConfig]:
    """Parses the four modalities of one tag; other entries (`rl_info`) are ignored.

    Args:
        data: `processor_kwargs.modality_configs[tag]` of processor_config.json.
        where: file and key of `data`, for errors.

    Raises:
        ProcessorError: a modality is missing or malformed, or a relative action group has no reference.
    """
    if not isinstance(data, Mapping):
        raise ProcessorError(where, "an object with video, state, action and language", describe(data))
    missing = [name for name in MODALITIES if name not in data]
    if missing:
        raise ProcessorError(where, "the keys " + ", ".join(MODALITIES), f"no {listing(missing)}")
    parsed = {name: ModalityConfig.from_dict(data[name], f"{where}.{name}") for name in MODALITIES}
    action, state_keys = parsed["action"], parsed["state"].modality_keys
    for key in action.modality_keys:
        config = action.action_config(key)
        reference = config.state_key or key
        if config.rep is ActionRep.RELATIVE and reference not in state_keys:
            raise ProcessorError(
                f"{where}.action: group '{key}' is RELATIVE",
                f"its reference '{reference}' among the state groups",
                listing(state_keys),
                "Set state_key in its action_configs entry.",
            )
    return parsed
