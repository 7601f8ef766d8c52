"""Tests of parameters as users give them: at the start, by request, and in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from harness import Graph, stop
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter

from ivf_ros.compat import parameter_overrides
from ivf_ros.given_parameters import unused_files, unused_names


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


@pytest.fixture
def overrides(tmp_path: Path) -> Iterator[Callable[[str, str, str], Node]]:
    """Provide a constructor of a node with a parameter file, from its content."""
    made: list[Node] = []

    def create(content: str, name: str, namespace: str) -> Node:
        (tmp_path / "given.yaml").write_text(content)
        context = rclpy.Context()
        rclpy.init(
            args=["--ros-args", "--params-file", str(tmp_path / "given.yaml")], context=context
        )
        made.append(rclpy.create_node(name, namespace=namespace, context=context))
        return made[-1]

    yield create
    for node in made:
        node.destroy_node()
        rclpy.shutdown(context=node.context)


@pytest.mark.parametrize(
    "name",
    [
        "fusion", "/fusion", "/front/fusion", "front/fusion", "/*", "'*'", "/**", "'**'",
        "/*/fusion", "/**/fusion", "/front/*", "/front/**", "front: {fusion", "/front/: {fusion",
        "/**: {fusion", "/*: {fusion", "/front: {'**'",
    ],
)  # fmt: skip
def test_names_of_nodes_in_files_are_read_as_by_rcl(
    overrides: Callable[[str, str, str], Node], tmp_path: Path, name: str
) -> None:
    content = f"{name}: {{ros__parameters: {{a: 1}}}}{'}' * name.count('{')}"
    arguments = ["node", "--ros-args", "--params-file", str(tmp_path / "given.yaml"), "-p", "b:=1"]
    for node_name, namespace in (
        ("fusion", "/"), ("fusion", "/front"), ("fusion", "/a/b"), ("other", "/front"),
    ):  # fmt: skip
        node = overrides(content, node_name, namespace)
        full_name = node.get_fully_qualified_name()
        used = "a" in parameter_overrides(node)
        assert bool(list(unused_files(arguments, full_name))) is not used, full_name


@pytest.mark.parametrize("content", ["a: 1", "[1", ""])
def test_files_without_names_are_left_to_rcl(tmp_path: Path, content: str) -> None:
    (tmp_path / "given.yaml").write_text(content)
    assert not list(unused_files(["--params-file", str(tmp_path / "given.yaml")], "/fusion"))


@pytest.mark.parametrize("name", ["/**", "/*/fusion", "/front/fusion"])
def test_unknown_names_are_found_behind_wildcards(
    overrides: Callable[[str, str, str], Node], name: str
) -> None:
    content = f"{name}:\n  ros__parameters: {{tolerance_second: 0.05, queue_size: 5}}\n"
    node = overrides(content, "fusion", "/front")
    for known in ("queue_size", "tolerance_seconds"):
        node.declare_parameter(known, 1 if known == "queue_size" else 0.02)
    assert list(unused_names(node)) == [
        "parameter 'tolerance_second' does not exist and has no effect; "
        "did you mean tolerance_seconds?"
    ]
    assert node.get_parameter("queue_size").value == 5
