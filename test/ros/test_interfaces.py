"""Generated files: up to date, and read by ROS as intended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from rclpy.context import Context

from ivf_ros.interfaces import GENERATED, config_yaml, interfaces_markdown, main
from ivf_ros.launch_arguments import (
    FUSION_ARGUMENTS,
    LIFECYCLE_ARGUMENTS,
    REPLAY_ARGUMENTS,
    TWO_RIGS_ARGUMENTS,
)
from ivf_ros.parameters import PARAMETERS, PUBLISHED, SERVICES, SUBSCRIBED

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", GENERATED)
def test_generated_file_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == GENERATED[name](), "run `make docs`"


def test_check_reports_an_outdated_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ivf_ros.interfaces._ROOT", tmp_path)
    assert main(["--check"]) == 1
    assert "config/fusion.yaml, docs/interfaces.md" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "config/fusion.yaml").write_text("edited")
    assert main(["--check"]) == 1


def test_rcl_reads_the_defaults_from_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "fusion.yaml"
    file.write_text(config_yaml())
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(file)], context=context)
    node = rclpy.create_node(
        "any_name", context=context, automatically_declare_parameters_from_overrides=True
    )
    try:
        for parameter in PARAMETERS:
            value = node.get_parameter(parameter.name).value
            assert value == parameter.default, parameter.name
            assert type(value) is type(parameter.default), parameter.name
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_every_interface_is_documented() -> None:
    text = interfaces_markdown()
    for table in (SUBSCRIBED, PUBLISHED, SERVICES, PARAMETERS):
        for entry in table:
            assert f"| `{entry.name}` |" in text
            assert entry.description in text
    tables = FUSION_ARGUMENTS, REPLAY_ARGUMENTS, LIFECYCLE_ARGUMENTS, TWO_RIGS_ARGUMENTS
    for argument in (argument for table in tables for argument in table):
        assert f"| `{argument.name}` |" in text


def test_defaults_are_within_their_own_range() -> None:
    for parameter in PARAMETERS:
        if parameter.choices:
            assert parameter.default in parameter.choices
        if parameter.minimum is not None:
            assert parameter.minimum <= parameter.default <= parameter.maximum


def topics_of_rviz() -> list[str]:
    """Return the topics of the layout, whose displays are those of rviz_default_plugins."""
    layout = yaml.safe_load((ROOT / "config" / "fusion.rviz").read_text(encoding="utf-8"))
    displays = layout["Visualization Manager"]["Displays"]
    # ImageDisplay reads these (rviz_default_plugins/.../image_display.cpp), and
    # QosProfileProperty those below Topic (rviz_common/.../qos_profile_property.cpp).
    properties = {"Max Value", "Median window", "Min Value", "Normalize Range", "Topic"}
    for display in displays:
        assert display["Class"] == "rviz_default_plugins/Image"
        assert display.keys() == properties | {"Class", "Enabled", "Name", "Value"}
        topic = display["Topic"]
        assert topic["History Policy"] == "Keep Last"
        assert topic["Reliability Policy"] == "Best Effort"  # matches every publisher
        assert topic["Durability Policy"] == "Volatile"
        assert display["Name"] in layout["Window Geometry"]  # it has a pane of this name
    return [display["Topic"]["Value"] for display in displays]


def topics_of_foxglove() -> list[str]:
    """Return the topics of the layout, all of whose panels have a place and a setting."""
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text(encoding="utf-8"))

    def placed(node: str | dict[str, Any]) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [*placed(node["first"]), *placed(node["second"])]

    panels = layout["configById"]
    assert sorted(placed(layout["layout"])) == sorted(panels)
    assert {name.partition("!")[0] for name in panels} == {"Image", "DiagnosticSummary", "Plot"}
    topics = []
    for panel in panels.values():
        topics += [panel["imageMode"]["imageTopic"]] if "imageMode" in panel else []
        topics += [panel["topicToRender"]] if "topicToRender" in panel else []
        topics += [path["value"].partition(".")[0] for path in panel.get("paths", ())]
    return topics


@pytest.mark.parametrize("topics", [topics_of_rviz, topics_of_foxglove])
def test_layouts_show_topics_of_the_node(topics: Callable[[], list[str]]) -> None:
    known = {topic.name.replace("~", "/fusion") for topic in PUBLISHED}
    known |= {f"/{topic.name}" for topic in SUBSCRIBED}
    shown = topics()
    assert len(shown) >= 4
    assert set(shown) <= known
