"""Reading an embodiment YAML: what is shipped loads, and what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from groot_ros.embodiment.errors import EmbodimentError
from groot_ros.embodiment.load import available_embodiments, embodiment_path, load_embodiment, where
from groot_ros.embodiment.schema import Embodiment

BASE = """\
name: bench
embodiment_tag: new_embodiment
step_hz: 10.0
cameras:
  front:
    topic: /front
    type: sensor_msgs/msg/Image
    width: 4
    height: 4
    rate_hz: 30.0
    max_age_s: 0.2
  wrist:
    topic: /wrist
    type: sensor_msgs/msg/CompressedImage
    width: 4
    height: 4
    rate_hz: 20.0
    max_age_s: 0.2
state_streams:
  joints:
    topic: /joints
    type: sensor_msgs/msg/JointState
    rate_hz: 100.0
    max_age_s: 0.1
  tool:
    topic: /tool
    type: geometry_msgs/msg/PoseStamped
    rate_hz: 100.0
    max_age_s: 0.1
video:
  front: {camera: front}
  wrist: {camera: wrist}
state:
  arm:
    stream: joints
    joints: [a, b]
    unit: deg
  tool:
    stream: tool
    fields: [pose.position.x, pose.position.y]
    unit: m
action:
  arm:
    joints: [a, b]
    unit: deg
  hand:
    joints: [c]
    unit: percent
language:
  key: task
delta_indices:
  video: [-2, 0]
  action: [0, 1, 2]
limits:
  a: {lower: -1.0, upper: 1.0, velocity: 1.0}
  b: {lower: -1.0, upper: 1.0, velocity: 1.0}
  c: {lower: 0.0, upper: 2.0, velocity: 1.0}
outputs:
  arm:
    topic: /command
    type: trajectory_msgs/msg/JointTrajectory
    keys: [arm, hand]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def errors_of(tmp_path: Path, text: str) -> list[tuple[int, str]]:
    """Line and text of every problem; the file name of each is checked."""
    path = write(tmp_path, text)
    with pytest.raises(EmbodimentError) as caught:
        load_embodiment(path)
    found = []
    for line in caught.value.lines:
        assert line.startswith(f"{path}:"), line
        number, _, rest = line[len(str(path)) + 1 :].partition(":")
        found.append((int(number), rest))
    return found


def test_the_base_of_these_tests_loads(tmp_path: Path) -> None:
    embodiment = load_embodiment(write(tmp_path, BASE))
    assert embodiment.cameras["front"].encodings == ["rgb8", "bgr8"]
    assert embodiment.cameras["wrist"].encodings == ["jpeg", "png"]
    assert embodiment.action_joints == ["a", "b", "c"]
    assert embodiment.horizon == 3
    assert where(embodiment, ("cameras", "front", "topic")).endswith("bench.yaml:6")
    assert where(embodiment, ("cameras", "front"), on_key=True).endswith("bench.yaml:5")
    assert where(embodiment, ("video", "wrist", "camera")).endswith("bench.yaml:32")


@pytest.mark.parametrize("name", ["sim_arm", "so101"])
def test_shipped_embodiments_load_by_name(name: str) -> None:
    embodiment = load_embodiment(name)
    assert embodiment.name == name
    assert embodiment.horizon == 16
    assert available_embodiments()[name] == embodiment_path(name)
    assert load_embodiment(embodiment_path(name)) == embodiment


# old text, new text, line number of the problem, what its message says
CASES = {
    "unknown key": (
        "    rate_hz: 30.0\n",
        "    rate_hz: 30.0\n    encoding: [rgb8]\n",
        11,
        "did you mean 'encodings'?",
    ),
    "missing key": ("    rate_hz: 30.0\n", "", 5, "cameras.front.rate_hz: expected a value"),
    "missing section": ("language:\n  key: task\n", "", 1, "language: expected a value"),
    "wrong type": (
        "    width: 4\n    height: 4\n    rate_hz: 30.0",
        "    width: wide\n    height: 4\n    rate_hz: 30.0",
        8,
        "expected a whole number, found 'wide'",
    ),
    "quoted number": ("step_hz: 10.0", "step_hz: '10.0'", 3, "write 10.0 without quotes"),
    "exponent": ("step_hz: 10.0", "step_hz: 1e1", 3, "write 10.0 without quotes"),
    "not a number": ("upper: 2.0", "upper: .nan", 57, "limits.c.upper: expected a finite number, found nan"),
    "infinite": ("upper: 2.0", "upper: .inf", 57, "limits.c.upper: expected a finite number, found inf"),
    "negative rate": ("rate_hz: 20.0", "rate_hz: -20.0", 17, "expected a number greater than 0, found -20.0"),
    "no value": ("name: bench", "name:", 1, "name: expected text, found nothing"),
    "misspelt type": ("msg/JointState", "msg/JointStates", 22, "did you mean 'sensor_msgs/msg/JointState'?"),
    "misspelt unit": ("    unit: percent", "    unit: percents", 48, "did you mean 'percent'?"),
    "bad topic": ("topic: /tool", "topic: /tool pose", 26, "expected a ROS topic name"),
    "empty list": ("keys: [arm, hand]", "keys: []", 62, "expected at least 1 entry, found []"),
    "blank instruction": ("  key: task", "  key: task\n  default: '  '", 51, "expected text that is not empty"),
    "list for mapping": ("  front: {camera: front}", "  front: [front]", 31, "video.front: expected a mapping"),
    "duplicate key": (
        "  b: {lower",
        "  a: {lower",
        56,
        "limits.a: expected each key once, found it again after line 55",
    ),
    "key that is no text": ("  hand:\n", "  1:\n", 46, "action.1: expected text as a key"),
    "unknown camera": (
        "{camera: wrist}",
        "{camera: wrst}",
        32,
        "video.wrist.camera: expected a name from cameras (front, wrist), found 'wrst', did you mean 'wrist'?",
    ),
    "camera without key": (
        "{camera: wrist}",
        "{camera: front}",
        12,
        "cameras.wrist: expected a camera that a video key names",
    ),
    "unknown stream": ("stream: joints", "stream: joint", 35, "did you mean 'joints'?"),
    "stream without key": (
        "    stream: tool\n    fields: [pose.position.x, pose.position.y]\n    unit: m",
        "    stream: joints\n    joints: [a]\n    unit: rad",
        25,
        "expected a stream that a state key names",
    ),
    "fields of joints": (
        "    joints: [a, b]\n    unit: deg\n  tool",
        "    fields: [a, b]\n    unit: deg\n  tool",
        36,
        "state.arm.fields: expected joints",
    ),
    "joints of a pose": (
        "fields: [pose.position.x, pose.position.y]",
        "joints: [a, b]",
        40,
        "state.tool.joints: expected fields",
    ),
    "neither": ("    joints: [a, b]\n    unit: deg\n  tool", "    unit: deg\n  tool", 35, "state.arm: expected joints"),
    "field of a pose": (
        "    unit: m\n",
        "    unit: m\n    field: velocity\n",
        42,
        "state.tool.field: expected no field",
    ),
    "unknown field path": (
        "pose.position.y",
        "pose.position.w",
        40,
        "state.tool.fields.1: expected a number of geometry_msgs",
    ),
    "unit of the wrong field": (
        "    unit: deg\n  tool",
        "    unit: deg\n    field: velocity\n  tool",
        37,
        "state.arm.unit: expected a unit of velocity",
    ),
    "percent of a pose": ("    unit: m\n", "    unit: percent\n", 41, "expected a unit that needs no joint limits"),
    "speed as a command": (
        "    unit: deg\n  hand",
        "    unit: rad/s\n  hand",
        45,
        "action.arm.unit: expected a unit of position",
    ),
    "short sign": (
        "    unit: deg\n  hand",
        "    unit: deg\n    sign: [1]\n  hand",
        46,
        "action.arm.sign: expected 2 numbers",
    ),
    "bad sign": (
        "    unit: deg\n  hand",
        "    unit: deg\n    sign: [1, 2]\n  hand",
        46,
        "action.arm.sign.1: expected one of",
    ),
    "long offset": (
        "    unit: m\n",
        "    unit: m\n    offset: [0, 0, 0]\n",
        42,
        "state.tool.offset: expected 2 numbers",
    ),
    "offset of percent": (
        "    unit: percent\n",
        "    unit: percent\n    offset: [1.0]\n",
        49,
        "action.hand.offset: expected no offset",
    ),
    "joint twice in a key": (
        "    joints: [a, b]\n    unit: deg\n  hand",
        "    joints: [a, a]\n    unit: deg\n  hand",
        44,
        "action.arm.joints.1: expected each name once",
    ),
    "joint in two keys": (
        "joints: [c]",
        "joints: [a]",
        47,
        "action.hand.joints.0: expected a joint that no other action key commands",
    ),
    "no limits": ("  c: {lower", "  cc: {lower", 47, "action.hand.joints.0: expected a joint with limits"),
    "limits of a percent state": (
        "    joints: [a, b]\n    unit: deg\n  tool",
        "    joints: [a, q]\n    unit: percent\n  tool",
        36,
        "state.arm.joints.1: expected a joint with limits (unit percent needs them)",
    ),
    "bounds swapped": (
        "lower: 0.0, upper: 2.0",
        "lower: 2.0, upper: 0.0",
        57,
        "limits.c.lower: expected less than upper (0)",
    ),
    "bounds equal": (
        "lower: 0.0, upper: 2.0",
        "lower: 2.0, upper: 2.0",
        57,
        "limits.c.lower: expected less than upper (2)",
    ),
    "unknown output key": ("keys: [arm, hand]", "keys: [arm, hand, hnd]", 62, "did you mean 'hand'?"),
    "key in two outputs": (
        "keys: [arm, hand]",
        "keys: [arm, hand]\n  two:\n    topic: /two\n    type: trajectory_msgs/msg/JointTrajectory\n    keys: [hand]",
        66,
        "carried by outputs.arm",
    ),
    "key in no output": (
        "keys: [arm, hand]",
        "keys: [arm]",
        46,
        "action.hand: expected an output that carries this key",
    ),
    "topic twice": ("topic: /wrist", "topic: /front", 13, "already used by cameras.front"),
    "command on an input": ("topic: /command", "topic: /joints", 60, "already used by state_streams.joints"),
    "one name for two streams": ("  tool:\n    topic", "  front:\n    topic", 25, "expected a name that no camera has"),
    "age below the period": (
        "    rate_hz: 20.0\n    max_age_s: 0.2",
        "    rate_hz: 20.0\n    max_age_s: 0.05",
        18,
        "expected more than one period of the stream, 0.05 s",
    ),
    "spread below the period": (
        "limits:\n",
        "sync: {max_spread_s: 0.04}\nlimits:\n",
        54,
        "the slowest stream, 0.05 s (wrist)",
    ),
    "encoding of a raw camera": (
        "    width: 4\n    height: 4\n    rate_hz: 30.0",
        "    encodings: [rgb8, 16UC1]\n    width: 4\n    height: 4\n    rate_hz: 30.0",
        8,
        "cameras.front.encodings.1: expected an 8-bit encoding",
    ),
    "encoding of a compressed camera": (
        "    width: 4\n    height: 4\n    rate_hz: 20.0",
        "    encodings: [rgb8]\n    width: 4\n    height: 4\n    rate_hz: 20.0",
        15,
        "cameras.wrist.encodings.0: expected a compression (jpeg, png)",
    ),
    "video after now": ("video: [-2, 0]", "video: [0, 1]", 52, "delta_indices.video: expected steps of the past"),
    "video descending": ("video: [-2, 0]", "video: [0, -2]", 52, "delta_indices.video: expected steps of the past"),
    "video without now": ("video: [-2, 0]", "video: [-2, -1]", 52, "delta_indices.video: expected steps of the past"),
    "action with gaps": (
        "action: [0, 1, 2]",
        "action: [0, 2, 4]",
        53,
        "delta_indices.action: expected 0, 1, 2, ... without gaps",
    ),
    "action later": ("action: [0, 1, 2]", "action: [1, 2, 3]", 53, "point i of a chunk is due (i + 1) / step_hz"),
    "tab": (
        "    width: 4\n    height: 4\n    rate_hz: 30.0",
        "\twidth: 4\n    height: 4\n    rate_hz: 30.0",
        8,
        "expected valid YAML",
    ),
    "control character": ("key: task", "key: \x01", 50, "expected valid YAML, found: unacceptable character"),
    "unclosed": ("joints: [c]", "joints: [c", 48, "expected valid YAML"),
}


@pytest.mark.parametrize(("old", "new", "line", "says"), CASES.values(), ids=CASES.keys())
def test_each_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert BASE.count(old) == 1, "the edit must be unambiguous"
    found = errors_of(tmp_path, BASE.replace(old, new))
    assert [number for number, text in found if says in text] == [line], "\n".join(f"{n}:{t}" for n, t in found)
    assert all("expected" in text and "found" in text for _, text in found)


def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = BASE.replace("step_hz: 10.0", "step_hz: fast").replace("msg/JointState", "msg/Joints")
    text = text.replace("lower: 0.0, upper: 2.0", "lower: 3.0, upper: 2.0").replace("{camera: wrist}", "{camera: tool}")
    found = errors_of(tmp_path, text)
    assert [line for line, _ in found] == [3, 12, 22, 32, 57]


def test_rules_hold_for_embodiments_built_in_python() -> None:
    data = yaml.safe_load(BASE)
    assert Embodiment.model_validate(data).source is None
    data["outputs"]["arm"]["keys"] = ["arm"]
    with pytest.raises(ValueError, match=r"action\.hand: expected an output"):
        Embodiment.model_validate(data)


@pytest.mark.parametrize(("text", "says"), [("", "found nothing"), ("- a\n", "a mapping"), ("&a [*a]", "a mapping")])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, says: str) -> None:
    [(line, message)] = errors_of(tmp_path, text)
    assert line == 1 and says in message


def test_merged_mappings_keep_their_lines(tmp_path: Path) -> None:
    text = BASE.replace(
        "  a: {lower: -1.0, upper: 1.0, velocity: 1.0}", "  a: &a {lower: 1.0, upper: 1.0, velocity: 1.0}"
    )
    text = text.replace("  b: {lower: -1.0, upper: 1.0, velocity: 1.0}", "  b:\n    <<: *a\n    lower: 0.0")
    [(line, message)] = errors_of(tmp_path, text)
    assert line == 55 and "limits.a.lower" in message


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(EmbodimentError, match=r"found 'so10' .*did you mean 'so101'\?") as caught:
        load_embodiment("so10")
    assert "sim_arm, sim_tabletop, so100, so101" in str(caught.value)


def test_a_folder_and_a_file_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(EmbodimentError, match="is a folder"):
        load_embodiment(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(EmbodimentError, match="expected UTF-8 text"):
        load_embodiment(path)


def test_installed_shares_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "share" / "groot_ros" / "config" / "embodiments"
    folder.mkdir(parents=True)
    (folder / "bench.yaml").write_text(BASE, encoding="utf-8")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert load_embodiment("bench").name == "bench"


def test_every_field_is_described() -> None:
    schema = Embodiment.model_json_schema()
    models = {"Embodiment": schema, **schema["$defs"]}
    bare = [
        f"{model}.{name}"
        for model, body in models.items()
        for name, f in body["properties"].items()
        if "description" not in f
    ]
    assert bare == []
