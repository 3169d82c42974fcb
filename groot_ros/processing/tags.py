"""Embodiment tags: projector ids, and the names NVIDIA's command lines use.

One tag may have different ids in different generations. Sources: spec/groot_n15_n16.md section 4.5 and
spec/groot_n17.md section 4.6. A checkpoint's own embodiment_id.json always wins; these tables fill in tags it lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

N1D5_IDS: dict[str, int] = {
    "oxe_droid": 17,
    "gr1": 24,
    "agibot_genie1": 26,
    "new_embodiment": 31,
}

N1D6_IDS: dict[str, int] = {
    "oxe_google": 0,
    "oxe_widowx": 1,
    "libero_panda": 2,
    "unitree_g1": 8,
    "new_embodiment": 10,
    "robocasa_panda_omron": 13,
    "oxe_droid": 16,
    "gr1": 20,
    "behavior_r1_pro": 24,
}

N1D7_IDS: dict[str, int] = {
    "simpler_env_google": 0,
    "simpler_env_widowx": 1,
    "libero_sim": 2,
    "new_embodiment": 10,
    "robocasa_panda_omron": 10,
    "robocasa_gr1_tabletop": 10,
    "unitree_g1_sonic": 11,
    "oxe_droid_relative_eef_relative_joint": 24,
    "real_g1_relative_eef_relative_joints": 25,
    "unitree_g1_full_body_with_waist_height_nav_cmd": 25,
    "real_r1_pro_sharpa_relative_eef": 26,
    "real_r1_pro_sharpa_relative_eef_human": 26,
    "real_r1_pro_sharpa_relative_eef_maxinsights": 26,
    "real_r1_pro_sharpa_relative_eef_mecka": 26,
    "xdof_relative_eef_relative_joint": 27,
    "xdof_relative_eef_relative_joint_subtask": 27,
}

EMBODIMENT_IDS: dict[str, dict[str, int]] = {"n1d5": N1D5_IDS, "n1d6": N1D6_IDS, "n1d7": N1D7_IDS}

# NVIDIA's enum names where they are not simply the tag in capitals.
N1D7_TAG_NAMES: dict[str, str] = {
    "XDOF": "xdof_relative_eef_relative_joint",
    "XDOF_SUBTASK": "xdof_relative_eef_relative_joint_subtask",
    "REAL_G1": "real_g1_relative_eef_relative_joints",
    "REAL_R1_PRO_SHARPA": "real_r1_pro_sharpa_relative_eef",
    "REAL_R1_PRO_SHARPA_HUMAN": "real_r1_pro_sharpa_relative_eef_human",
    "REAL_R1_PRO_SHARPA_MAXINSIGHTS": "real_r1_pro_sharpa_relative_eef_maxinsights",
    "REAL_R1_PRO_SHARPA_MECKA": "real_r1_pro_sharpa_relative_eef_mecka",
    "UNITREE_G1": "unitree_g1_full_body_with_waist_height_nav_cmd",
    "LIBERO_PANDA": "libero_sim",
}


def resolve_tag(name: str, available: Iterable[str], names: Mapping[str, str]) -> str | None:
    """The member of `available` that `name` means, or None.

    An exact match wins; then, ignoring case, NVIDIA's enum name of `names`; then, ignoring case, the tag itself.
    """
    tags = list(available)
    if name in tags:
        return name
    wanted = names.get(name.upper(), name).lower()
    return next((tag for tag in tags if tag.lower() == wanted), None)


def complete_embodiment_ids(from_checkpoint: Mapping[str, int], generation: str = "n1d7") -> dict[str, int]:
    """The checkpoint's ids, with tags it does not name filled in from the generation's table."""
    missing = {tag: number for tag, number in EMBODIMENT_IDS[generation].items() if tag not in from_checkpoint}
    return {**from_checkpoint, **missing}
