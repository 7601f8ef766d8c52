"""Parameters as users give them: whole numbers for decimals, unknown names, files for other nodes.

rclpy rejects the first and ignores the others without a word.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter

from ivf_core.system.yaml_text import parse_yaml
from ivf_ros.compat import parameter_overrides

__all__ = ["accept_whole_numbers", "changes_only", "unused_files", "unused_names"]

_PARAMETERS_KEY = "ros__parameters"
_LARGEST_FILE = 10_000_000


def accept_whole_numbers(node: Node, names: Collection[str]) -> None:
    """Convert values that are given at the start for parameters of type double, such as 0 to 0.0.

    Args:
        node: node that has not declared them yet.
        names: names of its parameters of type double.
    """
    overrides = parameter_overrides(node)
    for name in names:
        if name in overrides:
            overrides[name] = _as_double(overrides[name])


def changes_only(
    node: Node, doubles: Collection[str], requested: Iterable[Parameter]
) -> list[Parameter]:
    """Return what a request changes, with whole numbers for parameters of type double converted.

    A parameter that is read-only and has the requested value already is left out: so a dump of all
    parameters can be loaded.

    Args:
        node: owner of the parameters.
        doubles: names of its parameters of type double.
        requested: parameters of the request.
    """
    changes = []
    for parameter in requested:
        if parameter.name in doubles:
            parameter = _as_double(parameter)
        if not _is_kept(node, parameter):
            changes.append(parameter)
    return changes


def unused_names(node: Node) -> Iterator[str]:
    """Yield a sentence for each parameter that was given at the start and does not exist.

    Args:
        node: node that has declared its parameters.
    """
    known = sorted(node.get_parameters_by_prefix(""))
    for name in parameter_overrides(node):
        # Overrides of QoS are declared with their topics, later.
        if node.has_parameter(name) or name.startswith("qos_overrides."):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield f"parameter '{name}' does not exist and has no effect{hint}"


def unused_files(arguments: Sequence[str], full_name: str) -> Iterator[str]:
    """Yield a sentence for each parameter file in which no node name is that of a node.

    Args:
        arguments: arguments of the process.
        full_name: namespace and name of the node, such as "/fusion".
    """
    for option, path in pairwise(arguments):
        if option != "--params-file":
            continue
        names = list(_node_names(Path(path)))
        if names and not any(_matches(name, full_name) for name in names):
            found = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            yield (
                f"parameter file '{path}' is for {found}, not for {full_name}: none of its values "
                f"is used (a file for every node starts with /**)"
            )


def _as_double(parameter: Parameter) -> Parameter:
    if parameter.type_ != Parameter.Type.INTEGER:
        return parameter
    return Parameter(parameter.name, Parameter.Type.DOUBLE, float(parameter.value))


def _is_kept(node: Node, parameter: Parameter) -> bool:
    """Return whether a parameter is read-only and has this value already."""
    if not node.has_parameter(parameter.name):
        return False
    current = node.get_parameter(parameter.name)
    return (
        node.describe_parameter(parameter.name).read_only
        and current.type_ == parameter.type_
        and current.value == parameter.value
    )


def _node_names(path: Path) -> Iterator[str]:
    """Yield the node names of a parameter file; rcl has read it before and reports its errors."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            return
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    yield from _names_in(content, "")


def _names_in(content: Any, prefix: str) -> Iterator[str]:
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if key == _PARAMETERS_KEY:
            yield prefix
        else:
            yield from _names_in(value, f"{prefix}/{str(key).strip('/')}")


def _matches(pattern: str, full_name: str) -> bool:
    """Return whether a node name of a file, with the wildcards * and **, is that of a node."""
    parts = ["(/[^/]+)*" if p == "**" else f"/{_part(p)}" for p in pattern.strip("/").split("/")]
    return re.fullmatch("".join(parts), full_name) is not None


def _part(pattern: str) -> str:
    return "[^/]+" if pattern == "*" else re.escape(pattern)
