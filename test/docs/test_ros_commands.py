"""Commands of ROS in the documentation: launch arguments, parameters, services, topics, nodes."""

from __future__ import annotations

import re

import pytest
from documented_commands import ROOT, DocumentedCommand, code_spans, documented_commands

pytest.importorskip("rclpy")

import itertools

from ivf_ros import player_node, recorder_node, view_node
from ivf_ros.launch_arguments import (
    FUSION_ARGUMENTS,
    LIFECYCLE_ARGUMENTS,
    REPLAY_ARGUMENTS,
    TWO_RIGS_ARGUMENTS,
    LaunchArgument,
)
from ivf_ros.parameters import PARAMETERS, PUBLISHED, SERVICES, Parameter

COMMANDS = list(dict.fromkeys(documented_commands()))
ARGUMENTS = {
    "fusion.launch.py": FUSION_ARGUMENTS,
    "replay.launch.py": REPLAY_ARGUMENTS,
    "lifecycle.launch.py": (*FUSION_ARGUMENTS, *LIFECYCLE_ARGUMENTS),
    "two_rigs.launch.py": (*FUSION_ARGUMENTS, *TWO_RIGS_ARGUMENTS),
}
NODES = {
    "fusion_node": PARAMETERS,
    "player_node": player_node.PARAMETERS,
    "recorder_node": recorder_node.PARAMETERS,
    "view_node": view_node.PARAMETERS,
}
FUSION = {parameter.name: parameter for parameter in PARAMETERS}
# Read-only, and declared without a default.
READABLE = {*FUSION, "class_names"}


def lines(*prefix: str) -> list[tuple[DocumentedCommand, tuple[str, ...]]]:
    """Return the commands that begin with a prefix, with the words after it."""
    return [(c, c.words[len(prefix) :]) for c in COMMANDS if c.words[: len(prefix)] == prefix]


def check_value(value: str, parameter: Parameter) -> None:
    """Fail unless a parameter takes the text of a value."""
    if isinstance(parameter.default, bool):
        assert value in ("true", "false")
    elif isinstance(parameter.default, int | float):
        number = type(parameter.default)(value)
        if parameter.minimum is not None and parameter.maximum is not None:
            assert parameter.minimum <= number <= parameter.maximum
    elif parameter.choices:
        assert value in parameter.choices


def check_argument(text: str, arguments: tuple[LaunchArgument, ...]) -> None:
    """Fail unless `name:=value` is an argument of a launch file with a value that it takes."""
    name, sign, value = text.partition(":=")
    assert sign, f"{text!r} is no name:=value"
    known = {argument.name: argument for argument in arguments}
    assert name in known
    assert not known[name].choices or value in known[name].choices
    if name in FUSION:
        check_value(value, FUSION[name])


LAUNCHES = lines("ros2", "launch", "ivf_ros")


def test_pages_have_launch_lines() -> None:
    assert len(LAUNCHES) > 8


@pytest.mark.parametrize("line", LAUNCHES, ids=lambda line: str(line[0]))
def test_launch_file_and_arguments_exist(line: tuple[DocumentedCommand, tuple[str, ...]]) -> None:
    file, *arguments = line[1]
    assert (ROOT / "launch" / file).is_file()
    for argument in arguments:
        check_argument(argument, ARGUMENTS[file])


RUNS = [line for line in lines("ros2", "run", "ivf_ros") if line[1][0] != "ivf"]


@pytest.mark.parametrize("line", RUNS, ids=lambda line: str(line[0]))
def test_node_and_its_parameters_exist(line: tuple[DocumentedCommand, tuple[str, ...]]) -> None:
    executable, *words = line[1]
    scripts = re.findall(r'"(\w+) = ivf_ros', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert executable in scripts
    table = {parameter.name: parameter for parameter in NODES[executable]}
    for option, word in itertools.pairwise(words):
        if option in ("-p", "--param"):
            name, _, value = word.partition(":=")
            assert name in table
            check_value(value, table[name])


PARAMETER_LINES = [
    (command, action, words)
    for action in ("set", "get", "describe")
    for command, words in lines("ros2", "param", action)
    if words and words[1:2] != ("name",)
]


@pytest.mark.parametrize("line", PARAMETER_LINES, ids=lambda line: str(line[0]))
def test_parameter_exists(line: tuple[DocumentedCommand, str, tuple[str, ...]]) -> None:
    _, action, (node, name, *value) = line
    assert node == "/fusion"
    assert name in READABLE
    if action == "set":
        assert FUSION[name].changeable
        check_value(value[0], FUSION[name])


@pytest.mark.parametrize("line", lines("ros2", "service", "call"), ids=lambda line: str(line[0]))
def test_service_exists(line: tuple[DocumentedCommand, tuple[str, ...]]) -> None:
    known = {entry.name.replace("~", "/fusion"): entry.type for entry in SERVICES}
    assert known[line[1][0]] == line[1][1]


TOPICS = [line for verb in ("hz", "echo") for line in lines("ros2", "topic", verb) if line[1]]


@pytest.mark.parametrize("line", TOPICS, ids=lambda line: str(line[0]))
def test_topic_exists(line: tuple[DocumentedCommand, tuple[str, ...]]) -> None:
    known = {topic.name.replace("~", "/fusion") for topic in PUBLISHED}
    assert {word for word in line[1] if word.startswith("/")} <= known


SETTINGS = sorted({(page, text) for page, text in code_spans() if re.match(r"[a-z_]+:=", text)})
"""Settings in running text, such as `load_policy:=adaptive`: remedies, above all."""


@pytest.mark.parametrize("setting", SETTINGS, ids=" ".join)
def test_setting_in_running_text_exists(setting: tuple[str, str]) -> None:
    _page, text = setting
    if text == "name:=value":  # the form itself
        return
    name, _, values = text.partition(":=")
    for value in values.split("|"):
        check_argument(f"{name}:={value}", (*FUSION_ARGUMENTS, *REPLAY_ARGUMENTS))


def rows(page: str) -> dict[str, list[list[str]]]:
    """Return the rows of the tables of a page, by the heading above them."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| "):
            found.setdefault(heading, []).append([cell.strip() for cell in line[1:-1].split(" | ")])
    return found


def test_trouble_has_a_cause_and_a_remedy_for_each_symptom() -> None:
    tables = rows("docs/trouble.md")
    expected = ("No images", "QoS", "No pairs", "Ghosting", "Flicker", "Slow", "Memory", "No masks")
    assert tuple(tables) == expected
    for table in tables.values():
        head, _rule, *symptoms = table
        assert head == ["Symptom", "Cause", "Remedy"]
        assert symptoms
        assert all(len(row) == 3 and all(row) for row in symptoms)


def test_every_counter_is_on_the_page() -> None:
    """Literal keys of diagnostics in the code: of pairs, load, cameras, and reasons to drop."""
    from ivf_core.images.messages import MessageError
    from ivf_core.pairing import PairingCounters
    from ivf_ros.diagnostics import PairStatistics

    text = (ROOT / "docs/outputs.md").read_text(encoding="utf-8")
    page = text.partition("\n## Counters\n")[2]
    words = set(re.findall(r"[\w.*]+", page))
    keys = set(PairStatistics().report())
    for module in ("overload", "camera_watch", "health_monitor", "fusion_node", "processing"):
        source = (ROOT / f"ivf_ros/{module}.py").read_text(encoding="utf-8")
        keys |= set(re.findall(r'(?:_statistics\.drop|DroppedPairError)\("(\w+)"', source))
        keys |= set(re.findall(r'"(load\.\w+)"', source))
    reasons = re.search(r"one of ([\w, \n]+)\.", MessageError.__doc__ or "")
    assert reasons is not None
    keys |= set(re.findall(r"\w+_\w+|undecodable", reasons[1]))
    keys |= set(re.findall(r"`([a-z]\w*)`:", PairingCounters.__doc__ or ""))
    assert {"no_head", "replaced_by_newer", "bad_step", "queue_full", "load.level"} <= keys
    assert {key for key in keys if key not in words} == set()
