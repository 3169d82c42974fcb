"""What differs between the processors of GR00T N1.5, N1.6 and N1.7, as data.

The rest of `groot_ros.processing` reads these tables and asks for no generation by name. Sources: spec/groot_n15_n16.md
section 4, spec/groot_n17.md section 4, and the defaults of NVIDIA's processor constructors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from groot_ros.processing.tags import N1D5_IDS, N1D6_IDS, N1D7_IDS, N1D7_TAG_NAMES

_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_EAGLE_IMAGE = "<image {number}><img><IMG_CONTEXT></img>"
# Eagle's tokens beside Qwen's, with the ids they have in the released networks.
EAGLE_TOKEN_IDS = {"<IMG_CONTEXT>": 151669, "<img>": 151670, "</img>": 151671}
# The tokenizer of Eagle's language model. NVIDIA ships it inside its code, not under the name of the backbone.
_QWEN3 = "Qwen/Qwen3-1.7B"


@dataclass(frozen=True)
class Chat:
    """The one user turn that the language model reads.

    Attributes:
        before, after: what stands around the images and the instruction.
        image: one image; `{number}` counts from 1, and `image_token` stands in it once.
        image_token: the placeholder that is repeated once per image token.
        images_first: images before the instruction, or after it.
        quoted: NVIDIA's policy (not its training) gives the instruction as the text of a list, `['pick up']`.
        special: tokens that a tokenizer must have.
        added: those that are added, with these ids, to a tokenizer without them.
    """

    before: str
    image: str
    after: str
    image_token: str
    images_first: bool
    special: tuple[str, ...]
    quoted: bool = False
    added: Mapping[str, int] = field(default_factory=dict)

    def text(self, words: str, images: int) -> str:
        """The prompt before its image placeholders are repeated."""
        pictures = "".join(self.image.format(number=number + 1) for number in range(images))
        body = pictures + words if self.images_first else words + pictures
        return f"{self.before}{body}{self.after}"


@dataclass(frozen=True)
class Generation:
    """One generation's files, defaults and conventions.

    Attributes:
        name: `n1d5`, `n1d6` or `n1d7`.
        processor_class: what processor_config.json says, or None where there is no such file (N1.5).
        defaults: values of `processor_kwargs` that a file may lack.
        embodiment_ids: tag -> projector index, for tags that the checkpoint does not name.
        tag_names: NVIDIA's enum names that are not simply the tag in capitals.
        tokenizers: `model_name` -> hub id of its tokenizer, where that is another one.
        truncates_state: a state wider than the network is cut, not refused.
        bool_masks: the masks are bool, and there is one of the state; else only the action has one, of 0 and 1.
        one_view_size: all views must have one resolution.
    """

    name: str
    processor_class: str | None
    chat: Chat
    defaults: Mapping[str, Any]
    embodiment_ids: Mapping[str, int]
    tag_names: Mapping[str, str] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    truncates_state: bool = False
    bool_masks: bool = False
    one_view_size: bool = False


_EAGLE_SPECIAL = ("<|im_start|>", "<|im_end|>", *EAGLE_TOKEN_IDS)

N1D5 = Generation(
    name="n1d5",
    processor_class=None,
    chat=Chat(
        before=f"{_SYSTEM}<|im_start|>user\n",
        image=_EAGLE_IMAGE,
        after="<|im_end|>\n<|im_start|>assistant\n",
        image_token="<IMG_CONTEXT>",
        images_first=True,
        special=_EAGLE_SPECIAL,
        quoted=True,
        added=EAGLE_TOKEN_IDS,
    ),
    defaults={
        "formalize_language": False,
        "crop_fraction": 0.95,
        "max_state_dim": 64,
        "max_action_dim": 32,
        "max_action_horizon": 16,
        "image_size": 224,
        "patch_size": 14,
        # NVIDIA's data configurations have it in their code.
        "color_jitter_params": {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.08},
        "model_name": _QWEN3,
    },
    embodiment_ids=N1D5_IDS,
    truncates_state=True,
    bool_masks=True,
    one_view_size=True,
)

N1D6 = Generation(
    name="n1d6",
    processor_class="Gr00tN1d6Processor",
    chat=Chat(
        before=f"{_SYSTEM}<|im_start|>user\n",
        image=_EAGLE_IMAGE,
        after="<|im_end|>\n",
        image_token="<IMG_CONTEXT>",
        images_first=False,
        special=_EAGLE_SPECIAL,
        added=EAGLE_TOKEN_IDS,
    ),
    defaults={
        "formalize_language": True,
        "use_percentiles": False,
        "clip_outliers": True,
        "apply_sincos_state_encoding": False,
        "use_relative_action": False,
        "exclude_state": False,
        "use_albumentations": False,
        "shortest_image_edge": 512,
        "crop_fraction": 0.95,
        # NVIDIA's files have no key for it. Since February 2026 its code pads to a square, always; before, never.
        "letter_box_transform": True,
        "max_state_dim": 29,
        "max_action_dim": 29,
        "max_action_horizon": 40,
        "model_name": "nvidia/Eagle-Block2A-2B-v2",
    },
    embodiment_ids=N1D6_IDS,
    tokenizers={"nvidia/Eagle-Block2A-2B-v2": _QWEN3},
)

N1D7 = Generation(
    name="n1d7",
    processor_class="Gr00tN1d7Processor",
    chat=Chat(
        before="<|im_start|>user\n",
        image="<|vision_start|><|image_pad|><|vision_end|>",
        after="<|im_end|>\n",
        image_token="<|image_pad|>",
        images_first=True,
        special=("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
    ),
    # No default for the sizes: they must fit the network.
    defaults={
        "formalize_language": True,
        "use_percentiles": False,
        "clip_outliers": True,
        "apply_sincos_state_encoding": False,
        "use_relative_action": False,
        "exclude_state": False,
        "use_albumentations": False,
        "shortest_image_edge": 256,
        "crop_fraction": 0.95,
        "letter_box_transform": False,
    },
    embodiment_ids=N1D7_IDS,
    tag_names=N1D7_TAG_NAMES,
)

GENERATIONS = {generation.name: generation for generation in (N1D5, N1D6, N1D7)}
BY_PROCESSOR_CLASS = {g.processor_class: g for g in GENERATIONS.values() if g.processor_class is not None}
