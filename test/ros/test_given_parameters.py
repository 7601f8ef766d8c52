"""Tests of parameters as users give them: at the start, by request, and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import Graph, stop
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from rclpy.parameter import Parameter

from ivf_ros.given_parameters import unused_files


def test_whole_numbers_are_taken_for_decimals(graph: Graph, tiny_weights: Path) -> None:
    """At the start, and as `ros2 param set` sends them."""
    graph.start_fusion(tiny_weights, gain_smoothing_seconds=2)
    assert graph.values("settings")["gain_smoothing_seconds"] == "2.0"
    assert graph.set(tolerance_seconds=0)[0].successful
    graph.until(lambda: graph.values("settings")["tolerance_seconds"] == "0.0")
    (result,) = graph.set(tolerance_seconds=-1)
    assert not result.successful
    assert "tolerance_seconds" in result.reason
    (result,) = graph.set(tolerance_seconds=True)
    assert not result.successful


def test_a_dump_of_all_parameters_can_be_loaded(graph: Graph, tiny_weights: Path) -> None:
    """The request of `ros2 param load` with the file of `ros2 param dump`."""
    graph.start_fusion(tiny_weights)
    names = graph.call(ListParameters, "/fusion/list_parameters", ListParameters.Request())
    request = GetParameters.Request(names=names.result.names)
    values = graph.call(GetParameters, "/fusion/get_parameters", request).values
    dump = [
        Parameter.from_parameter_msg(_message(name, value))
        for name, value in zip(request.names, values, strict=True)
    ]
    assert len(dump) > 30
    results = graph.call(
        SetParameters,
        "/fusion/set_parameters",
        SetParameters.Request(parameters=[parameter.to_parameter_msg() for parameter in dump]),
    ).results
    assert [r.reason for r in results if not r.successful] == []
    # A read-only one with another value is still rejected.
    (result,) = graph.set(mode="replay")
    assert not result.successful
    assert "read-only" in result.reason


def _message(name: str, value: Any) -> Any:
    from rcl_interfaces.msg import Parameter as ParameterMessage

    return ParameterMessage(name=name, value=value)


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (
            "/**:\n  ros__parameters:\n    tolerance_second: 0.05\n",
            "parameter 'tolerance_second' does not exist and has no effect; "
            "did you mean tolerance_seconds?",
        ),
        (
            "fusion_node:\n  ros__parameters:\n    tolerance_seconds: 0.05\n",
            "is for /fusion_node, not for /fusion: none of its values is used",
        ),
        ("/**:\n  ros__parameters:\n    tolerance_seconds: 0.05\n", ""),
    ],
)
def test_values_that_are_not_used_are_reported(
    graph: Graph, tiny_weights: Path, tmp_path: Path, content: str, warning: str
) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(content)
    process = graph.start_fusion(tiny_weights, "--params-file", str(path))
    output = stop(process)
    if warning:
        assert warning in output
    else:
        assert "has no effect" not in output
        assert "none of its values" not in output


@pytest.mark.parametrize(
    ("content", "full_name", "used"),
    [
        ("fusion: {ros__parameters: {a: 1}}", "/fusion", True),
        ("/fusion: {ros__parameters: {a: 1}}", "/fusion", True),
        ("/front/fusion: {ros__parameters: {a: 1}}", "/front/fusion", True),
        ("front: {fusion: {ros__parameters: {a: 1}}}", "/front/fusion", True),
        ("fusion: {ros__parameters: {a: 1}}", "/front/fusion", False),
        ("/*: {ros__parameters: {a: 1}}", "/fusion", True),
        ("/*: {ros__parameters: {a: 1}}", "/front/fusion", False),
        ("/*/fusion: {ros__parameters: {a: 1}}", "/front/fusion", True),
        ("/**: {ros__parameters: {a: 1}}", "/a/b/fusion", True),
        ("/**/fusion: {ros__parameters: {a: 1}}", "/a/b/fusion", True),
        ("/**/fusion: {ros__parameters: {a: 1}}", "/a/b/other", False),
        ("a: 1", "/fusion", True),
        ("[1", "/fusion", True),
        ("", "/fusion", True),
    ],
)
def test_names_of_nodes_in_files(tmp_path: Path, content: str, full_name: str, used: bool) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(content)
    arguments = ["node", "--ros-args", "--params-file", str(path), "-p", "a:=1"]
    assert bool(list(unused_files(arguments, full_name))) is not used
