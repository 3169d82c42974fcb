"""``generations:`` of a YAML: what is merged, what is left out, and where its lines are."""

from __future__ import annotations

from pathlib import Path

import pytest

from groot_ros.embodiment.check import check_generation
from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import (
    available_embodiments,
    dotted,
    embodiment_generations,
    embodiment_path,
    load_embodiment,
    where,
)
from groot_ros.embodiment.summary import check_lines
from groot_ros.embodiment.vocabulary import GENERATIONS

SHARED = """\
name: bench
embodiment_tag: shared
step_hz: 10.0
cameras:
  front: {topic: /front, type: sensor_msgs/msg/Image, width: 4, height: 4, rate_hz: 30.0, max_age_s: 0.2}
  wrist: {topic: /wrist, type: sensor_msgs/msg/Image, width: 4, height: 4, rate_hz: 30.0, max_age_s: 0.2}
state_streams:
  joints: {topic: /joints, type: sensor_msgs/msg/JointState, rate_hz: 100.0, max_age_s: 0.1}
  tool: {topic: /tool, type: geometry_msgs/msg/PoseStamped, rate_hz: 100.0, max_age_s: 0.1}
video: {front: {camera: front}, wrist: {camera: wrist}}
state:
  arm: {stream: joints, joints: [a, b]}
  tool: {stream: tool, fields: [pose.yaw]}
action:
  arm: {joints: [a, b]}
language: {key: task}
delta_indices: {action: [0, 1]}
limits:
  a: {lower: -1.0, upper: 1.0, velocity: 1.0}
  b: {lower: -1.0, upper: 1.0, velocity: 1.0}
outputs:
  arm: {topic: /arm, type: trajectory_msgs/msg/JointTrajectory, keys: [arm]}
"""
GENERATED = """\
generations:
  n1d6:
  n1d5:
    embodiment_tag: old
    video:
      image: {camera: front}
    state:
      arm: {stream: joints, joints: [a, b], normalization: q99}
    delta_indices:
      video: [0]
      action: [0, 1, 2]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, generation: str | None = None) -> list[str]:
    with pytest.raises(EmbodimentError) as caught:
        load_embodiment(path, generation)
    return caught.value.lines


def test_each_generation_has_its_own_sections_and_shares_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, SHARED + GENERATED)
    assert embodiment_generations(path) == ("n1d5", "n1d6")
    old, new = load_embodiment(path, "n1d5"), load_embodiment(path, "n1d6")
    assert (old.generation, old.embodiment_tag, list(old.video), old.horizon) == ("n1d5", "old", ["image"], 3)
    assert (new.generation, new.embodiment_tag, list(new.video), new.horizon) == (
        "n1d6",
        "shared",
        ["front", "wrist"],
        2,
    )
    assert old.limits == new.limits and old.action == new.action
    assert load_embodiment(path) == new, "the newest that the file lists"


def test_sources_that_only_another_generation_uses_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, SHARED + GENERATED)
    assert list(load_embodiment(path, "n1d5").streams) == ["front", "joints"]
    assert list(load_embodiment(path, "n1d6").streams) == ["front", "wrist", "joints", "tool"]


def test_a_source_that_no_generation_uses_is_refused(tmp_path: Path) -> None:
    text = SHARED.replace(
        "  wrist: {topic",
        "  side: {topic: /side, type: sensor_msgs/msg/Image, width: 4, height: 4, "
        "rate_hz: 30.0, max_age_s: 0.2}\n  wrist: {topic",
    )
    for generation in ("n1d5", "n1d6"):
        [line] = refusal(write(tmp_path, text + GENERATED), generation)
        assert "bench.yaml:6: cameras.side: expected a camera that a video key names" in line


def test_a_file_without_the_section_holds_for_every_generation(tmp_path: Path) -> None:
    path = write(tmp_path, SHARED)
    assert embodiment_generations(path) == ()
    assert load_embodiment(path).generation is None
    for generation in GENERATIONS:
        robot = load_embodiment(path, generation)
        assert robot.generation == generation
        assert robot.model_copy(update={"generation": None}) == load_embodiment(path)


def test_a_generation_that_is_not_listed_names_those_there_are(tmp_path: Path) -> None:
    [line] = refusal(write(tmp_path, SHARED + GENERATED), "n1d7")
    assert line.split(": ", 1)[0].endswith("bench.yaml:23")
    assert "generations: expected 'n1d7', found n1d5, n1d6" in line


def test_a_generation_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    [line] = refusal(write(tmp_path, SHARED), "n1d8")
    assert "generation: expected one of 'n1d5', 'n1d6' or 'n1d7', found 'n1d8'" in line


def test_lines_and_paths_are_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, SHARED + GENERATED)
    old, new = load_embodiment(path, "n1d5"), load_embodiment(path, "n1d6")
    place = ("state", "arm", "joints")
    assert where(old, place).endswith("bench.yaml:30")
    assert dotted(old, place) == "generations.n1d5.state.arm.joints"
    assert where(new, place).endswith("bench.yaml:12")
    assert dotted(new, place) == "state.arm.joints"
    assert where(old, ("delta_indices", "action")).endswith("bench.yaml:33")
    assert where(old, ("limits", "b")).endswith("bench.yaml:20")


# old text, new text, generation to load, line, what the message says
CASES = {
    "unknown generation": ("  n1d6:\n", "  n1d8:\n", "n1d5", 24, "generations.n1d8: expected one of n1d5, n1d6, n1d7"),
    "no mapping": ("  n1d6:\n", "  n1d6: [state]\n", "n1d6", 24, "generations.n1d6: expected a mapping of sections"),
    "unknown section": (
        "    embodiment_tag: old\n",
        "    embodiment_tags: old\n",
        "n1d5",
        26,
        "generations.n1d5.embodiment_tags: expected one of embodiment_tag, ",
    ),
    "section that all share": (
        "    embodiment_tag: old\n",
        "    name: old\n",
        "n1d5",
        26,
        "generations.n1d5.name: expected one of",
    ),
    "mistake in a generation": (
        "joints: [a, b], normalization: q99",
        "joints: [a, b], normalisation: q99",
        "n1d5",
        30,
        "generations.n1d5.state.arm.normalisation: expected one of",
    ),
    "rule broken in a generation": (
        "      image: {camera: front}",
        "      image: {camera: frond}",
        "n1d5",
        28,
        "generations.n1d5.video.image.camera: expected a name from cameras (front, wrist), found 'frond', did you mean",
    ),
    "mistake in what is shared": (
        "  b: {lower: -1.0",
        "  b: {lower: 2.0",
        "n1d5",
        20,
        "limits.b.lower: expected less than upper",
    ),
    "key twice": (
        "    delta_indices:\n",
        "    embodiment_tag: again\n    delta_indices:\n",
        "n1d5",
        31,
        "generations.n1d5.embodiment_tag: expected each key once",
    ),
    "generation as a key": (
        "embodiment_tag: shared\n",
        "generation: n1d6\nembodiment_tag: shared\n",
        "n1d6",
        2,
        "generation: expected no such key",
    ),
}


@pytest.mark.parametrize(("old", "new", "generation", "line", "says"), CASES.values(), ids=CASES.keys())
def test_each_mistake_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, generation: str, line: int, says: str
) -> None:
    text = SHARED + GENERATED
    assert text.count(old) == 1, "the edit must be unambiguous"
    found = refusal(write(tmp_path, text.replace(old, new)), generation)
    assert any(f"bench.yaml:{line}: {says}" in problem for problem in found), "\n".join(found)


def test_a_mistake_in_one_generation_does_not_hide_another_one(tmp_path: Path) -> None:
    path = write(tmp_path, SHARED + GENERATED.replace("{camera: front}", "{camera: frond}"))
    assert load_embodiment(path, "n1d6").generation == "n1d6"
    with pytest.raises(EmbodimentError, match="frond"):
        check_lines(path)


@pytest.mark.parametrize("section", ["generations: {}\n", "generations: n1d6\n", "generations:\n"])
def test_an_empty_section_is_refused(tmp_path: Path, section: str) -> None:
    [line] = refusal(write(tmp_path, SHARED + section))
    assert "bench.yaml:23: generations: expected a mapping with some of n1d5, n1d6, n1d7" in line


def test_a_check_says_a_line_per_generation(tmp_path: Path) -> None:
    first, second, *notes = check_lines(write(tmp_path, SHARED + GENERATED))
    assert "valid for n1d5; old, 1 cameras, 2 commanded joints, chunks of 3 steps" in first
    assert "valid for n1d6; shared, 2 cameras, 2 commanded joints, chunks of 2 steps" in second
    assert first.endswith("; only with dry_run:=true")
    places = [note.removeprefix("note: ").split(": ")[1] for note in notes]
    assert places == ["limits.a", "limits.b", "generations.n1d5.embodiment_tag", "embodiment_tag"], "each once"


def test_a_shared_mistake_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(EmbodimentError) as caught:
        check_lines(write(tmp_path, (SHARED + GENERATED).replace("  b: {lower: -1.0", "  b: {lower: 2.0")))
    assert len(caught.value.lines) == 1


def test_the_robot_of_another_generation_than_the_checkpoint_is_refused(tmp_path: Path) -> None:
    robot = load_embodiment(write(tmp_path, SHARED + GENERATED), "n1d5")
    check_generation(robot, "n1d5", "ckpt")
    with pytest.raises(EmbodimentError, match=r"bench.yaml:25: .*expected the robot for n1d7, which ckpt is, found it"):
        check_generation(robot, "n1d7", "ckpt")
    check_generation(load_embodiment(write(tmp_path, SHARED)), "n1d7", "ckpt")


@pytest.mark.parametrize(
    ("tag", "hint"),
    [
        ("new_embodimnt", "did you mean 'new_embodiment'?"),
        ("my_arm", "did you mean 'new_embodiment'?"),
        ("gr2", "'gr1'"),
    ],
)
def test_a_tag_that_is_in_no_table_is_noted_once(tmp_path: Path, tag: str, hint: str) -> None:
    text = embodiment_path("so101").read_text(encoding="utf-8").replace("_tag: new_embodiment", f"_tag: {tag}")
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    *robots, note = check_lines(path)
    assert len(robots) == 3 and all("valid" in line for line in robots)
    line = text.count("\n", 0, text.index("embodiment_tag")) + 1
    assert note.startswith(
        f"note: {path}:{line}: embodiment_tag: {tag!r} is none of NVIDIA's tags for n1d5, n1d6, n1d7"
    )
    assert hint in note and "'new_embodiment'" in note


@pytest.mark.parametrize("name", available_embodiments())
def test_shipped_robots_have_tags_of_the_tables(name: str) -> None:
    assert not [line for line in check_lines(name) if "is none of NVIDIA's tags" in line]


def test_a_folder_is_looked_in_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed share that is a link to the sources, and a prefix that is named twice."""
    (tmp_path / "share" / "config" / "embodiments").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "share")
    (tmp_path / "other" / "config" / "embodiments").mkdir(parents=True)
    places = [tmp_path / name for name in ("share", "link", "share", "other", "other")]
    monkeypatch.setattr("groot_ros.embodiment.load.share_directories", lambda: iter(places))
    with pytest.raises(EmbodimentError) as caught:
        embodiment_path("nobody")
    [text] = caught.value.lines
    looked_in = text.split("are looked for in ")[1].split(", ")
    assert looked_in == [str(tmp_path / name / "config" / "embodiments") for name in ("share", "other")]
