"""Shared functions of the launch files, which turn launch arguments into actions.

An empty argument is not passed on, so that the value of params_file is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launch import LaunchContext
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    SetEnvironmentVariable,
)
from launch.events import matches_action
from launch.events.process import ShutdownProcess
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage

from ivf_core.bags.info import TopicInfo
from ivf_core.bags.reader import BagReader
from ivf_core.bags.topics import first_kinds, guess_camera_topics
from ivf_ros.launch_arguments import NODE_NAME, LaunchArgument
from ivf_ros.parameters import PARAMETERS, Parameter, Value
from ivf_ros.transport import environment, profile_path, reason_not_applied

__all__ = [
    "apply_profile",
    "bag_topics",
    "declare",
    "end",
    "existing",
    "fusion_node",
    "given",
    "player",
    "recorder_node",
    "replay_report",
    "switch",
]

_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_CAMERAS = ("rgb", "thermal")


def declare(arguments: Iterable[LaunchArgument]) -> list[DeclareLaunchArgument]:
    """Declare the arguments of a table.

    Args:
        arguments: declarations.
    """
    return [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in arguments
    ]


def given(context: LaunchContext, name: str) -> str:
    """Return the value of a launch argument; empty if it is not given or not declared.

    Args:
        context: context of the launch file.
        name: name of the argument.
    """
    return context.launch_configurations.get(name, "")


def switch(context: LaunchContext, name: str) -> bool:
    """Return the value of an argument that is true or false; empty is false.

    Args:
        context: context of the launch file.
        name: name of the argument.

    Raises:
        ValueError: the value is another one; names the argument.
    """
    text = given(context, name).lower()
    if text not in ("", "true", "false"):
        raise ValueError(f"{name}:={given(context, name)}: expected true or false")
    return text == "true"


def existing(context: LaunchContext, name: str) -> str:
    """Return the absolute path that an argument names; empty if it is not given.

    The path is absolute because the processes may run in another folder than the command.

    Args:
        context: context of the launch file.
        name: name of the argument.

    Raises:
        FileNotFoundError: the path does not exist; names the argument.
    """
    if not given(context, name):
        return ""
    path = Path(given(context, name)).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(f"{name}:={given(context, name)}: no such file or folder")
    return str(path)


def apply_profile(context: LaunchContext) -> list[Action]:
    """Set the Fast DDS profile for everything that is launched afterwards.

    Args:
        context: context of the launch file.

    Raises:
        FileNotFoundError: the profile does not exist.
    """
    choice = given(context, "fastdds_profile")
    if choice.lower() == "false":
        return []
    reason = reason_not_applied(context.environment)
    if reason is not None:
        return [LogInfo(msg=f"Fast DDS profile not applied: {reason}")]
    profile = None if choice.lower() in ("", "true") else choice
    changed = set(environment(context.environment, profile).items()) - set(
        context.environment.items()
    )
    return [SetEnvironmentVariable(name, value) for name, value in sorted(changed)]


def bag_topics(bag: str) -> dict[str, TopicInfo]:
    """Find the topics of both cameras in a bag.

    Args:
        bag: path of the bag.

    Returns:
        The image topics as "rgb" and "thermal"; the calibrations in the same namespaces,
        if the bag has them, as "rgb_info" and "thermal_info".

    Raises:
        ivf_core.bags.info.BagError: the bag cannot be read, or the cameras cannot be
            identified.
    """
    with BagReader(bag) as reader:
        by_name = {topic.name: topic for topic in reader.topics}
        kinds = first_kinds(reader, reader.topics)
    cameras = dict(zip(_CAMERAS, guess_camera_topics(by_name.values(), kinds), strict=True))
    found = {camera: by_name[name] for camera, name in cameras.items()}
    for camera, name in cameras.items():
        if _info_beside(name) in by_name:
            found[f"{camera}_info"] = by_name[_info_beside(name)]
    return found


def fusion_node(
    context: LaunchContext,
    topics: Mapping[str, TopicInfo] | None = None,
    **fixed: Value,
) -> Node:
    """Create the fusion node from the launch arguments.

    Args:
        context: context of a launch file that declares the common arguments.
        topics: topics of the bag, from `bag_topics`; used if no argument names a topic.
        **fixed: parameters that the launch file itself sets.

    Raises:
        FileNotFoundError: params_file does not exist.
    """
    remappings, transports = _sources(context, topics or {})
    overrides: dict[str, Value] = {**transports}
    for parameter in PARAMETERS:
        if given(context, parameter.name):
            overrides[parameter.name] = _typed(context, parameter)
    if given(context, "use_sim_time"):
        overrides["use_sim_time"] = switch(context, "use_sim_time")
    params_file = existing(context, "params_file") or str(profile_path().with_name("fusion.yaml"))
    return _node(
        context,
        "fusion_node",
        given(context, "name") or NODE_NAME,
        {**overrides, **fixed},
        params_file=params_file,
        remappings=remappings,
    )


def player(context: LaunchContext, bag: str, **parameters: Value) -> Node:
    """Create the player of a bag, which publishes under the bag's own topic names.

    Args:
        context: context of the launch file.
        bag: path of the bag.
        **parameters: further parameters of the player.
    """
    progress = f"{given(context, 'name') or NODE_NAME}/rgb_frames_done"
    values = {"bag": bag, "progress_topic": progress, **parameters}
    return _node(context, "player_node", "player", values)


def recorder_node(context: LaunchContext, output: str) -> Node:
    """Create the recorder of the fusion node's topics.

    It logs the topics that it records, regardless of log_level, and has half a minute to
    finish its bag.

    Args:
        context: context of the launch file.
        output: path of the bag.
    """
    return _node(
        context,
        "recorder_node",
        "recorder",
        {"output": output},
        log_level="info",
        sigterm_timeout="30",
    )


def replay_report(bag: str, output: Path) -> ExecuteProcess:
    """Create the process of `ivf replay` on the results that are recorded in `output`/bag.

    Args:
        bag: path of the bag that was played.
        output: folder of the results.
    """
    ivf = ExecutableInPackage(executable="ivf", package="ivf_ros")
    options = ["--recorded", str(output / "bag"), "--output", str(output)]
    return ExecuteProcess(cmd=[ivf, "replay", bag, *options], output="screen", emulate_tty=True)


def end(process: ExecuteProcess) -> Action:
    """Interrupt a process; launch terminates or kills it if that does not end it.

    Args:
        process: process to end.
    """
    return EmitEvent(event=ShutdownProcess(process_matcher=matches_action(process)))


def _node(
    context: LaunchContext,
    executable: str,
    name: str,
    values: Mapping[str, Value],
    params_file: str = "",
    log_level: str = "",
    **kwargs: Any,
) -> Node:
    """Create a node of this package, whose `values` override `params_file`."""
    parameters: list[Any] = [params_file] if params_file else []
    if values:
        # launch_ros would parse bare strings as YAML: '1' as a number.
        parameters.append(
            {
                key: ParameterValue(value, value_type=str) if isinstance(value, str) else value
                for key, value in values.items()
            }
        )
    return Node(
        package="ivf_ros",
        executable=executable,
        name=name,
        namespace=given(context, "namespace") or None,
        parameters=parameters,
        ros_arguments=["--log-level", log_level or given(context, "log_level")],
        output="screen",
        emulate_tty=True,
        **kwargs,
    )


def _typed(context: LaunchContext, parameter: Parameter) -> Value:
    """Return the value of an argument, with the type of the parameter that it overrides."""
    kind, text = type(parameter.default), given(context, parameter.name)
    if kind is bool:
        return switch(context, parameter.name)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{parameter.name}:={text}: expected {kind.__name__}") from None


def _info_beside(image_topic: str) -> str:
    """Return the topic `camera_info` in the image's namespace, as image_transport names it."""
    base, slash, _ = image_topic.removesuffix("/compressed").rpartition("/")
    return f"{base}{slash}camera_info"


def _sources(
    context: LaunchContext, topics: Mapping[str, TopicInfo]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the remappings of the inputs, and the transports that they imply."""
    remappings: list[tuple[str, str]] = []
    transports: dict[str, str] = {}
    for camera in _CAMERAS:
        image = given(context, f"{camera}_topic")
        info = given(context, f"{camera}_camera_info_topic")
        compressed = image.endswith("/compressed")
        if image:
            info = info or _info_beside(image)
        elif camera in topics:
            image, compressed = topics[camera].name, topics[camera].type == _COMPRESSED
            beside = topics.get(f"{camera}_info")
            info = info or (beside.name if beside else "")
        if image:
            raw = image.removesuffix("/compressed")
            remappings += [
                (f"{camera}/image_raw", raw),
                (f"{camera}/image_raw/compressed", image if compressed else f"{raw}/compressed"),
            ]
        if compressed or camera in topics:
            transports[f"{camera}_transport"] = "compressed" if compressed else "raw"
        if info:
            remappings.append((f"{camera}/camera_info", info))
    return remappings, transports
