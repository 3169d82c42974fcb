"""`config.json` of a GR00T checkpoint: which generation it is, the sizes of its parts, and every other key kept."""

from __future__ import annotations

import copy
import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What each generation writes into `model_type` and `architectures`.
GENERATION_NAMES = {
    "Gr00tN1d7": "n1d7",
    "Gr00tN1d6": "n1d6",
    "gr00t_n1_5": "n1d5",
    "GR00T_N1_5": "n1d5",
}

# NVIDIA's config.json names its vision-language model but does not describe it. A checkpoint with another one (ours of
# size tiny, the golden references) carries the description under one of these keys.
BACKBONE_CONFIG_KEYS = ("backbone_config", "eagle_config", "_tiny_backbone_config")

# Where N1.5 keeps a key of `ModelConfig`: the section of its nested config.json and the name there. Keys that are not
# listed have the same name at the top; keys of later generations are not N1.5's at all.
_HEAD, _BACKBONE = "action_head_cfg", "backbone_cfg"
_N1D5_PLACES: dict[str, tuple[str, str]] = {
    **{
        name: (_HEAD, name)
        for name in (
            *("backbone_embedding_dim", "max_state_dim", "max_action_dim", "action_horizon", "hidden_size"),
            *("input_embedding_dim", "add_pos_embed", "max_seq_len", "use_vlln", "diffusion_model_cfg"),
            *("vl_self_attention_cfg", "num_inference_timesteps", "noise_beta_alpha", "noise_beta_beta", "noise_s"),
            *("num_timestep_buckets", "max_num_embodiments", "num_target_vision_tokens"),
        )
    },
    **{name: (_BACKBONE, name) for name in ("select_layer", "use_flash_attention", "project_to_dim")},
    "model_name": (_BACKBONE, "eagle_path"),
}
_N1D5_TOP = ("model_type", "architectures", "model_dtype")
# Keys that the config of a generation does not have; they are written only where they say something.
_FOREIGN: dict[str, tuple[str, ...]] = {
    "n1d7": ("num_target_vision_tokens", "project_to_dim", "state_additive_noise_scale"),
    "n1d6": ("num_target_vision_tokens", "project_to_dim", "state_history_length", "vl_self_attention_cfg"),
    "n1d5": (),
}
# N1.5 says these twice; the head's own value counts, and both are written.
_N1D5_COPIES = {
    "action_horizon": (("", "action_horizon"),),
    "max_action_dim": (("", "action_dim"), (_HEAD, "action_dim")),
}

DTYPE_NAMES = ("float32", "bfloat16", "float16")


class ConfigError(ValueError):
    """A config.json that cannot be used; the message names the key, what was found and what was expected."""


def detect_generation(config: dict[str, Any]) -> str:
    """`n1d5`, `n1d6` or `n1d7`, from `model_type` or `architectures`; ConfigError when neither names one."""
    architectures = config.get("architectures")
    names = [config.get("model_type"), *(architectures if isinstance(architectures, list) else [])]
    for name in names:
        if isinstance(name, str) and name in GENERATION_NAMES:
            return GENERATION_NAMES[name]
    raise ConfigError(
        f"model_type is {config.get('model_type')!r} and architectures is {architectures!r}: neither names a GR00T "
        f"generation (known: {', '.join(sorted(GENERATION_NAMES))})"
    )


def is_lerobot_policy(config: dict[str, Any]) -> bool:
    """Whether a config.json is one of LeRobot's, of a policy around a model, and not a model's."""
    return "type" in config and not {"model_type", "architectures"} & set(config)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ConfigError says where the text is broken or that it is no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); copy the file again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def check_types(values: dict[str, Any], expected: dict[str, Any], prefix: str = "") -> None:
    """ConfigError for the first value not of the annotated type. An int passes as a float, a bool not as an int."""
    for key, annotation in expected.items():
        if key not in values:
            continue
        value = values[key]
        union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        options = typing.get_args(annotation) if union else (annotation,)
        plain = tuple(typing.get_origin(option) or option for option in options)
        accepted = (*plain, int) if float in plain else plain
        if (isinstance(value, bool) and bool not in plain) or not isinstance(value, accepted):
            names = " or ".join("null" if t is type(None) else t.__name__ for t in plain)
            raise ConfigError(f"{prefix}{key} is {value!r}, expected {names}")


# Keys of a stack of attention blocks of which one value is built, the one that every released checkpoint has; and what
# NVIDIA's classes take where the key is absent.
_BUILT: dict[str, tuple[Any, Any]] = {
    "positional_embeddings": (None, "sinusoidal"),
    "norm_type": ("ada_norm", "ada_norm"),
    "norm_eps": (1e-5, 1e-5),
    "norm_elementwise_affine": (False, False),
    "activation_fn": ("gelu-approximate", "gelu-approximate"),
    "attention_bias": (True, True),
    "upcast_attention": (False, False),
}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a stack of attention blocks (the DiT or the VL self-attention); defaults as in NVIDIA's classes."""

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    output_dim: int | None = None
    dropout: float = 0.1
    final_dropout: bool = True
    interleave_self_attention: bool = False

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_dict(cls, key: str, values: dict[str, Any]) -> TransformerConfig:
        """Reads what config.json holds under `key`; ConfigError for what is missing or of a kind not built here."""
        known = {f.name: t for f, t in zip(dataclasses.fields(cls), typing.get_type_hints(cls).values(), strict=True)}
        check_types(values, known, f"{key}.")
        missing = [
            name for name in ("num_layers", "num_attention_heads", "attention_head_dim") if values.get(name) is None
        ]
        if missing:
            raise ConfigError(f"{key} lacks {', '.join(missing)}")
        for name, (built, default) in _BUILT.items():
            if values.get(name, default) != built:
                found = f"is {values[name]!r}" if name in values else f"is not there, which means {default!r}"
                raise ConfigError(f"{key}.{name} {found}; only {built!r} is supported")
        return cls(**{name: values[name] for name in known if name in values})


@dataclass
class ModelConfig:
    """The keys of config.json that shape the network or its maths, under the same names for every generation.

    The defaults here are those of NVIDIA's code for N1.7; `DEFAULTS` has what N1.6 and N1.5 have otherwise. N1.5 keeps
    most keys in the sections `action_head_cfg` and `backbone_cfg`; they are read from there and written back there.
    """

    model_type: str = "Gr00tN1d7"
    architectures: list[str] = field(default_factory=lambda: ["Gr00tN1d7"])
    model_name: str = "nvidia/Cosmos-Reason2-2B"
    model_dtype: str = "bfloat16"
    use_flash_attention: bool = True
    backbone_embedding_dim: int = 2048
    select_layer: int = 12
    max_state_dim: int = 132
    max_action_dim: int = 132
    action_horizon: int = 40
    state_history_length: int = 1
    hidden_size: int = 1024
    input_embedding_dim: int = 1536
    add_pos_embed: bool = True
    max_seq_len: int = 1024
    use_vlln: bool = True
    use_alternate_vl_dit: bool = True
    attend_text_every_n_blocks: int = 2
    diffusion_model_cfg: dict[str, Any] = field(default_factory=lambda: dict(CODE_DEFAULT_DIT))
    vl_self_attention_cfg: dict[str, Any] | None = None
    num_inference_timesteps: int = 4
    noise_beta_alpha: float = 1.5
    noise_beta_beta: float = 1.0
    noise_s: float = 0.999
    num_timestep_buckets: int = 1000
    state_dropout_prob: float = 0.0
    state_additive_noise_scale: float = 0.0
    max_num_embodiments: int = 32
    num_target_vision_tokens: int = 0
    """Learned tokens between the state and the actions (N1.5)."""
    project_to_dim: int | None = None
    """Width of a linear layer after the backbone (N1.5); None: there is none."""
    backbone_config: dict[str, Any] | None = None
    """Sizes of the vision-language model, where the checkpoint carries them; None: known from `model_name`."""
    backbone_config_key: str = BACKBONE_CONFIG_KEYS[0]
    extra: dict[str, Any] = field(default_factory=dict)
    """Every key this class does not know, as read; `to_dict` writes them back."""

    @property
    def generation(self) -> str:
        return detect_generation({"model_type": self.model_type, "architectures": self.architectures})

    @property
    def dit(self) -> TransformerConfig:
        return TransformerConfig.from_dict("diffusion_model_cfg", self.diffusion_model_cfg)

    @property
    def vl_self_attention(self) -> TransformerConfig | None:
        # N1.5 switches its self-attention off together with the norm before it.
        if not self.vl_self_attention_cfg or (self.generation == "n1d5" and not self.use_vlln):
            return None
        return TransformerConfig.from_dict("vl_self_attention_cfg", self.vl_self_attention_cfg)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Reads config.json's object. Unknown keys go to `extra`. ConfigError names the key that is wrong."""
        generation = detect_generation(values)
        arguments, extra = _take_nested(values) if generation == "n1d5" else _take_flat(values)
        for key in BACKBONE_CONFIG_KEYS:
            if key in extra:
                arguments["backbone_config_key"] = key
                arguments["backbone_config"] = extra.pop(key)
                if not isinstance(arguments["backbone_config"], dict):
                    raise ConfigError(f"{key} is {arguments['backbone_config']!r}, expected an object")
                break
        arguments = {**copy.deepcopy(DEFAULTS[generation]), **arguments}
        if "model_dtype" in arguments:
            arguments["model_dtype"] = arguments["model_dtype"].removeprefix("torch.")
        config = cls(**arguments, extra=extra)
        config.check()
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Reads a config.json. ConfigError names the file; OSError when it cannot be opened."""
        path = Path(path)
        return cls.from_file_content(path, read_json_object(path))

    @classmethod
    def from_file_content(cls, path: Path, values: dict[str, Any]) -> ModelConfig:
        """`from_dict` of what `path` holds; ConfigError names the file."""
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: the known keys and, unchanged, the unknown ones."""
        values = {name: getattr(self, name) for name in _known_types()}
        foreign = {name for name in _FOREIGN[self.generation] if values[name] == getattr(type(self), name)}
        document = copy.deepcopy(self.extra)
        if self.generation == "n1d5":
            for name, (section, key) in _N1D5_PLACES.items():
                document.setdefault(section, {})[key] = values[name]
                for other, copied in _N1D5_COPIES.get(name, ()):
                    (document.setdefault(other, {}) if other else document)[copied] = values[name]
            values = {name: values[name] for name in _N1D5_TOP}
        if self.backbone_config is not None:
            values[self.backbone_config_key] = self.backbone_config
        return {**{name: value for name, value in values.items() if name not in foreign}, **document}

    def check(self) -> None:
        """ConfigError when sizes do not fit together or a switch asks for something that is not built."""
        dit, refine = self.dit, self.vl_self_attention
        if self.model_dtype not in DTYPE_NAMES:
            raise ConfigError(f"model_dtype is {self.model_dtype!r}, expected one of {', '.join(DTYPE_NAMES)}")
        positive = (
            *("select_layer", "max_state_dim", "max_action_dim", "action_horizon", "state_history_length"),
            *("num_inference_timesteps", "num_timestep_buckets", "max_num_embodiments", "attend_text_every_n_blocks"),
        )
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        pairs = [
            ("diffusion_model_cfg heads x head_dim", dit.inner_dim, "input_embedding_dim", self.input_embedding_dim),
            ("diffusion_model_cfg.output_dim", dit.output_dim, "hidden_size", self.hidden_size),
        ]
        if self.project_to_dim is not None:
            pairs.append(("project_to_dim", self.project_to_dim, "backbone_embedding_dim", self.backbone_embedding_dim))
        if self.use_alternate_vl_dit and not dit.interleave_self_attention:
            raise ConfigError(
                "diffusion_model_cfg.interleave_self_attention is false, which needs use_alternate_vl_dit false"
            )
        if refine is not None:
            pairs.append(
                (
                    *("vl_self_attention_cfg heads x head_dim", refine.inner_dim),
                    *("backbone_embedding_dim", self.backbone_embedding_dim),
                )
            )
        for left, a, right, b in pairs:
            if a != b:
                raise ConfigError(f"{left} is {a}, but {right} is {b}: they must be equal")
        if self.num_target_vision_tokens < 0:
            raise ConfigError(f"num_target_vision_tokens is {self.num_target_vision_tokens}, expected 0 or more")
        if self.add_pos_embed and self.action_horizon > self.max_seq_len:
            raise ConfigError(f"action_horizon {self.action_horizon} is larger than max_seq_len {self.max_seq_len}")
        # Found only in NVIDIA code newer than every released checkpoint; it changes the maths of every step.
        if self.extra.get("strict_action_padding_mask"):
            raise ConfigError("strict_action_padding_mask is true; only false is supported")


CODE_DEFAULT_DIT: dict[str, Any] = {
    "positional_embeddings": None,
    "num_layers": 16,
    "num_attention_heads": 32,
    "attention_head_dim": 48,
    "norm_type": "ada_norm",
    "dropout": 0.2,
    "final_dropout": True,
    "output_dim": 1024,
    "interleave_self_attention": True,
}

# What the code of each generation assumes for a key that a config.json lacks, where it is not the dataclass's default
# (spec groot_n15_n16.md, 1.1 and 1.2).
DEFAULTS: dict[str, dict[str, Any]] = {
    "n1d7": {},
    "n1d6": {
        "model_type": "Gr00tN1d6",
        "architectures": ["Gr00tN1d6"],
        "model_name": "nvidia/Eagle-Block2A-2B-v2",
        "select_layer": 16,
        "max_state_dim": 29,
        "max_action_dim": 29,
        "action_horizon": 16,
        "diffusion_model_cfg": {**CODE_DEFAULT_DIT, "num_layers": 32},
    },
    "n1d5": {
        "model_type": "gr00t_n1_5",
        "architectures": ["GR00T_N1_5"],
        "model_name": "",
        "model_dtype": "float32",
        "backbone_embedding_dim": 1536,
        "use_alternate_vl_dit": False,
        "num_target_vision_tokens": 32,
    },
}


def _known_types() -> dict[str, Any]:
    """Annotated type of every key that `ModelConfig` knows by name."""
    hints = typing.get_type_hints(ModelConfig)
    own = {"extra", "backbone_config", "backbone_config_key"}
    return {f.name: hints[f.name] for f in dataclasses.fields(ModelConfig) if f.name not in own}


def _without_nulls(values: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """The same without keys that are null and may not be, which is as if they were absent."""
    types_ = {key: typing.get_args(annotation) for key, annotation in expected.items()}
    return {k: v for k, v in values.items() if v is not None or k not in types_ or type(None) in types_[k]}


def _take_flat(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Known keys and the others, of N1.6's and N1.7's flat config.json."""
    known = _known_types()
    values = _without_nulls(values, known)
    check_types(values, known)
    return (
        {name: values[name] for name in known if name in values},
        {name: value for name, value in values.items() if name not in known},
    )


def _take_nested(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of N1.5's config.json; the other keys stay in their sections."""
    types_of = _known_types()
    top = {name: types_of[name] for name in _N1D5_TOP}
    extra = _without_nulls(copy.deepcopy(values), top)
    check_types(extra, top)
    arguments = {name: extra.pop(name) for name in _N1D5_TOP if name in extra}
    for section in (_HEAD, _BACKBONE):
        part = extra.get(section)
        if not isinstance(part, dict):
            raise ConfigError(f"{section} is {part!r}, expected an object")
        places = {key: name for name, (place, key) in _N1D5_PLACES.items() if place == section}
        expected = {key: types_of[name] for key, name in places.items()}
        part = extra[section] = _without_nulls(part, expected)
        check_types(part, expected, f"{section}.")
        arguments.update({name: part.pop(key) for key, name in places.items() if key in part})
    # Without a default in NVIDIA's code, or with one that no network of theirs has.
    needed = ("select_layer", "max_state_dim", "max_action_dim", "action_horizon", "diffusion_model_cfg")
    missing = [".".join(_N1D5_PLACES[name]) for name in needed if name not in arguments]
    if missing:
        raise ConfigError(f"missing: {', '.join(missing)}")
    return arguments, extra
