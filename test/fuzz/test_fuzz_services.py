"""Hostile requests, transitions and ends of peers: each request is answered, the node lives."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hostile import peer
from hostile.budget import inputs
from hostile.live_node import LiveNode
from hostile.messages import raw_images, shots
from hostile.parameters import requests
from hostile.texts import mostly, names, texts
from hypothesis import example, given
from hypothesis import strategies as st
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.parameter import Parameter as RosParameter
from rclpy.parameter import parameter_value_to_python
from std_srvs.srv import Trigger

from ivf_ros.parameters import PARAMETERS

pytestmark = [pytest.mark.dds, pytest.mark.slow]


def same(a: Any, b: Any) -> bool:
    """Compare two values of parameters, which may be NaN; whole numbers are set as decimals."""
    if isinstance(a, float) and type(b) is int:
        b = float(b)
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and list(a) == list(b) if hasattr(a, "__len__") else a is b or a == b


def read(node: LiveNode, names: list[str]) -> list[ParameterValue]:
    return node.call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values


def restore(node: LiveNode) -> None:
    """Set all parameters that can change back to their defaults, those of the test's node."""
    defaults = {p.name: p.default for p in PARAMETERS if p.changeable}
    defaults |= {"weights": str(node.weights), "use_sim_time": False}
    parameters = [RosParameter(n, value=v).to_parameter_msg() for n, v in defaults.items()]
    request = SetParametersAtomically.Request(parameters=parameters)
    result = node.call(SetParametersAtomically, "set_parameters_atomically", request).result
    assert result.successful, result.reason


@inputs(40, shrink=False)
@given(parameters=requests(), atomically=st.booleans())
def test_parameter_request_is_answered_and_changes_what_it_says(
    parameters: list[Parameter], atomically: bool, raw_node: LiveNode, figures: Counter[str]
) -> None:
    raw_node.start()
    figures["parameter requests"] += 1
    figures["parameters requested"] += len(parameters)
    known = [p.name for p in PARAMETERS]
    before = read(raw_node, known)
    if atomically:
        request: Any = SetParametersAtomically.Request(parameters=parameters)
        result = raw_node.call(SetParametersAtomically, "set_parameters_atomically", request).result
        results = [result] * len(parameters)
    else:
        request = SetParameters.Request(parameters=parameters)
        results = raw_node.call(SetParameters, "set_parameters", request).results
    assert len(results) == len(parameters)
    assert all(result.successful or 0 < len(result.reason) < 2000 for result in results), results
    expected = dict(zip(known, map(parameter_value_to_python, before), strict=True))
    for parameter, result in zip(parameters, results, strict=True):
        if result.successful and parameter.name in expected:
            expected[parameter.name] = parameter_value_to_python(parameter.value)
    after = dict(zip(known, map(parameter_value_to_python, read(raw_node, known)), strict=True))
    assert all(same(after[name], value) for name, value in expected.items()), (after, expected)
    raw_node.check()
    restore(raw_node)
    raw_node.check()


@inputs(10, shrink=False)
@given(asked=st.lists(texts(), max_size=5), depth=st.integers(0, 2**64 - 1))
def test_question_about_parameters_is_answered(
    asked: list[str], depth: int, raw_node: LiveNode, figures: Counter[str]
) -> None:
    raw_node.start()
    figures["parameter requests"] += 3
    raw_node.call(GetParameters, "get_parameters", GetParameters.Request(names=asked))
    request = DescribeParameters.Request(names=asked)
    raw_node.call(DescribeParameters, "describe_parameters", request)
    request = ListParameters.Request(prefixes=asked, depth=depth)
    raw_node.call(ListParameters, "list_parameters", request)
    raw_node.check()


def transition(id_: int, label: str) -> ChangeState.Request:
    request = ChangeState.Request()
    request.transition.id, request.transition.label = id_, label
    return request


def set_text(name: str, text: str) -> SetParameters.Request:
    return SetParameters.Request(parameters=[RosParameter(name, value=text).to_parameter_msg()])


LABELS = ("", "configure", "cleanup", "activate", "deactivate", "transition_success")
TRANSITIONS = st.builds(
    transition,
    mostly(st.integers(1, 4), st.integers(0, 255)),
    mostly(st.just(""), st.sampled_from(LABELS) | texts()),
)
# The test may run as root: nothing is written outside the node's folder.
DIRECTORIES = names() | st.sampled_from(("/dev/null/x", "/proc/x", "~nouser/x", "~/x"))
CALLS = st.one_of(
    st.tuples(st.just(ChangeState), st.just("change_state"), TRANSITIONS),
    st.tuples(st.just(ChangeState), st.just("change_state"), TRANSITIONS),
    st.tuples(st.just(Trigger), st.sampled_from(("reload_weights", "save_snapshot")),
              st.builds(Trigger.Request)),
    st.tuples(st.just(SetParameters), st.just("set_parameters"),
              st.builds(set_text, st.just("weights"), texts())),
    st.tuples(st.just(SetParameters), st.just("set_parameters"),
              st.builds(set_text, st.just("snapshot_directory"), DIRECTORIES)),
    st.tuples(st.just(GetState), st.just("get_state"), st.builds(GetState.Request)),
    st.tuples(st.just(GetAvailableTransitions), st.just("get_available_transitions"),
              st.builds(GetAvailableTransitions.Request)),
)  # fmt: skip


@inputs(12, shrink=False)
@given(
    calls=st.lists(CALLS, min_size=1, max_size=8),
    at_once=st.booleans(),
    crowd=st.sampled_from((0, 0, 0, 0, 0, 0, 0, 50)),
    batch=st.lists(shots(raw_images()), max_size=4),
)
@example(calls=[(Trigger, "reload_weights", Trigger.Request())], at_once=True, crowd=50, batch=[])
def test_transitions_and_services_at_once_are_answered(
    calls: list[tuple[type, str, Any]],
    at_once: bool,
    crowd: int,
    batch: list[Any],
    raw_node: LiveNode,
    figures: Counter[str],
    tmp_path: Path,
) -> None:
    raw_node.start()
    raw_node.call(SetParameters, "set_parameters", set_text("snapshot_directory", str(tmp_path)))
    for kind, _service, _request in calls:
        figures["transitions" if kind is ChangeState else "other service calls"] += 1
    figures["other service calls"] += crowd
    calls = calls + [(Trigger, "save_snapshot", Trigger.Request())] * crowd
    raw_node.publish(batch)
    for part in [calls] if at_once else [[call] for call in calls]:
        raw_node.call_all(part)
    raw_node.activate()
    restore(raw_node)
    raw_node.expect_fusion()


@inputs(3, shrink=False)
@given(
    kind=st.sampled_from(peer.KINDS),
    milliseconds=st.integers(0, 400),
    number=st.sampled_from((signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)),
)
def test_node_outlives_its_peers(
    kind: str, milliseconds: int, number: int, raw_node: LiveNode, figures: Counter[str]
) -> None:
    raw_node.start()
    figures["killed peers"] += 1
    process = subprocess.Popen(
        [sys.executable, "-m", "hostile.peer", kind, raw_node.name],
        env=raw_node.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        end = time.monotonic() + milliseconds / 1000
        raw_node.graph.until(lambda: time.monotonic() >= end)
        process.send_signal(number)
        raw_node.check(reports=2)
    finally:
        process.kill()
        process.communicate()
    raw_node.expect_fusion()
