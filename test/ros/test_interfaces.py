"""Generated files: up to date, and read by ROS as intended."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.context import Context

from ivf_ros.interfaces import GENERATED, config_yaml, interfaces_markdown, main
from ivf_ros.launch_arguments import FUSION_ARGUMENTS, REPLAY_ARGUMENTS
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
    for argument in (*FUSION_ARGUMENTS, *REPLAY_ARGUMENTS):
        assert f"| `{argument.name}` |" in text


def test_defaults_are_within_their_own_range() -> None:
    for parameter in PARAMETERS:
        if parameter.choices:
            assert parameter.default in parameter.choices
        if parameter.minimum is not None:
            assert parameter.minimum <= parameter.default <= parameter.maximum
