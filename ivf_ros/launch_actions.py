"""Shared functions of the launch files, which turn launch arguments into actions.

An empty argument is not passed on, so that the value of params_file is used.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, List  # noqa: UP035  # launch knows the type of a list by this name

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnShutdown
from launch.events import Shutdown as ShutdownEvent
from launch.events import matches_action
from launch.events.process import ShutdownProcess
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage
from rclpy.exceptions import NameValidationException
from rclpy.validate_namespace import validate_namespace
from rclpy.validate_node_name import validate_node_name
from rclpy.validate_topic_name import validate_topic_name

from ivf_core.bags.info import BagInfo, TopicInfo
from ivf_core.bags.reader import BagReader
from ivf_core.replay.settings import ReplaySettings
from ivf_core.replay.topic_choice import choose_topics
from ivf_ros import player_node
from ivf_ros.launch_arguments import NODE_NAME, LaunchArgument
from ivf_ros.parameters import PARAMETERS, Parameter, Value, reason_to_reject
from ivf_ros.transport import environment, profile_path, reason_not_applied

__all__ = [
    "START_SECONDS",
    "apply_profile",
    "bag_topics",
    "check_arguments",
    "declare",
    "end",
    "existing",
    "fusion_node",
    "given",
    "in_namespace",
    "player",
    "rate",
    "recorder_node",
    "replay_report",
    "require_package",
    "rviz",
    "switch",
    "view_node",
]

START_SECONDS = 300.0
"""Longest time for the fusion node to load its weights, while the player waits for it."""

_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_CAMERAS = ("rgb", "thermal")
_RATE = next(parameter for parameter in player_node.PARAMETERS if parameter.name == "rate")

# Set by the actions of launch_ros (SetParameter, PushROSNamespace, SetRemap and so on).
_OF_LAUNCH_ROS = ("ros_", "global_")


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


def check_arguments(
    context: LaunchContext, arguments: Iterable[LaunchArgument], launch_file: str
) -> list[Action]:
    """Check all launch arguments, before anything is started.

    A name that is not declared is an error on the command line of this launch file. In a
    file that includes it, other names are that file's own: one that looks like a mistyped
    one of ours is reported in the log.

    Args:
        context: context of the launch file.
        arguments: declarations of its arguments.
        launch_file: its path.

    Returns:
        The actions that log the warnings.

    Raises:
        FileNotFoundError: params_file does not exist.
        ValueError: an argument is unknown, has the wrong type or is out of range, or needs a
            package that is not installed; names it.
    """
    names = [argument.name for argument in arguments]
    values = {p.name: _typed(context, p) for p in PARAMETERS if given(context, p.name)}
    # params_file may have the other percentile. The node itself finds its weights.
    limits = {"low_percentile": 0.0, "high_percentile": 100.0}
    reason = reason_to_reject({**limits, **values}, values.keys() - {"weights"})
    if reason is not None:
        raise ValueError(reason)
    if given(context, "rate"):
        rate(context)
    for name in {"loop", "rviz", "use_sim_time"}.intersection(names):
        switch(context, name)
    if "view_port" in names:
        _view_port(context)
    if "rviz" in names and switch(context, "rviz"):
        require_package("rviz2", "rviz:=true")
    existing(context, "params_file")
    for name, validate in _NAMES.items():
        if name in names and given(context, name):
            try:
                validate(given(context, name))
            except NameValidationException as error:
                reason = str(error).splitlines()[0].rstrip(":")
                raise ValueError(f"{name}:={given(context, name)}: {reason}") from None
    return _report_unknown(context, names, Path(launch_file).name)


def rate(context: LaunchContext) -> float:
    """Return the factor of the recorded speed.

    Args:
        context: context of the launch file.

    Raises:
        ValueError: it is not a number or out of range; names the argument.
    """
    value = _typed(context, _RATE)
    low, high = _RATE.minimum, _RATE.maximum
    if not low <= value <= high:
        raise ValueError(f"rate:={given(context, 'rate')}: expected {low:g} to {high:g}")
    return float(value)


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


def bag_topics(context: LaunchContext, bag: str) -> dict[str, TopicInfo]:
    """Find the topics of both cameras in a bag: those that arguments name, or by guessing.

    Args:
        context: context of the launch file.
        bag: path of the bag.

    Returns:
        The image topics as "rgb" and "thermal"; the calibrations in the same namespaces,
        if the bag has them, as "rgb_info" and "thermal_info".

    Raises:
        ivf_core.bags.info.BagError: the bag cannot be read, has no such topic or no message
            on it, or the cameras cannot be identified.
    """
    with BagReader(bag) as reader:
        info = reader.info
        named = {f"{camera}_topic": _named_topic(context, camera, info) for camera in _CAMERAS}
        # Labels and other results in the bag are of no interest here.
        chosen = choose_topics(reader, ReplaySettings(**named))  # type: ignore[arg-type]
    by_name = {topic.name: topic for topic in info.topics}
    cameras = {"rgb": chosen.rgb, "thermal": chosen.thermal}
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
        topics: topics of the bag that is played, from `bag_topics`.
        **fixed: parameters that the launch file itself sets.

    Raises:
        FileNotFoundError: params_file does not exist.
    """
    remappings, transports = _sources(context, topics or {})
    if topics and in_namespace(context):
        remappings.append(("/clock", "clock"))  # that of the player of the same namespace
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


def player(
    context: LaunchContext, bag: str, topics: Mapping[str, TopicInfo], **parameters: Value
) -> Node:
    """Create the player of a bag, which waits for the fusion node.

    It publishes under the bag's own topic names, in the namespace of the launch file.

    Args:
        context: context of the launch file.
        bag: path of the bag.
        topics: topics of the bag, from `bag_topics`.
        **parameters: further parameters of the player.
    """
    node = given(context, "name") or NODE_NAME
    values = {
        "bag": bag,
        "camera_topics": [topics[camera].name for camera in _CAMERAS],
        "progress_topic": f"{node}/rgb_frames_done",
        "wait_for_node": node,
        "wait_for_subscribers_seconds": START_SECONDS,
        **parameters,
    }
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


def view_node(context: LaunchContext, topics: Mapping[str, TopicInfo] | None = None) -> list[Node]:
    """Create the node that shows the fusion node in a browser, if `view` asks for it.

    Args:
        context: context of the launch file.
        topics: topics of the bag that is played, from `bag_topics`.
    """
    if not switch(context, "view"):
        return []
    remappings, _ = _sources(context, topics or {})
    values = {
        "node": given(context, "name") or NODE_NAME,
        "host": given(context, "view_host"),
        "port": _view_port(context),
    }
    return [_node(context, "view_node", "view", values, log_level="info", remappings=remappings)]


def replay_report(
    context: LaunchContext, bag: str, topics: Mapping[str, TopicInfo], output: Path
) -> ExecuteProcess:
    """Create the process of `ivf replay` on the results that are recorded in `output`/bag.

    Args:
        context: context of the launch file.
        bag: path of the bag that was played.
        topics: topics of the bag, from `bag_topics`.
        output: folder of the results.
    """
    ivf = ExecutableInPackage(executable="ivf", package="ivf_ros")
    options = ["--recorded", str(output / "bag"), "--output", str(output)]
    if in_namespace(context):  # the node has recorded other names than the bag's
        for camera in _CAMERAS:
            options += [f"--{camera}-topic", topics[camera].name]
    return ExecuteProcess(cmd=[ivf, "replay", bag, *options], output="screen", emulate_tty=True)


def require_package(package: str, purpose: str) -> None:
    """Raise if a package is not installed that an argument or a launch file needs.

    Args:
        package: name of the package.
        purpose: what needs it, such as "rviz:=true".

    Raises:
        ValueError: it is not installed; says how to install it.
    """
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        distribution = os.environ.get("ROS_DISTRO", "DISTRIBUTION")
        name = package.replace("_", "-")
        raise ValueError(
            f"{purpose}: the package {package} is not installed "
            f"(sudo apt install ros-{distribution}-{name})"
        ) from None


def rviz(context: LaunchContext, topics: Mapping[str, TopicInfo] | None = None) -> list[Action]:
    """Start RViz with config/fusion.rviz if the argument `rviz` is true.

    The topics in a copy of the layout are those of this launch; the copy is removed at the end.

    Args:
        context: context of the launch file.
        topics: topics of the bag that is played, from `bag_topics`.
    """
    if not switch(context, "rviz"):
        return []
    remappings, transports = _sources(context, topics or {})
    renamed = dict(remappings)
    space = "/".join(
        part.strip("/")
        for part in (
            context.launch_configurations.get("ros_namespace", ""), given(context, "namespace")
        )
        if part.strip("/")
    )  # fmt: skip
    space = f"/{space}/" if space else "/"

    def topic(match: re.Match[str]) -> str:
        name = match[2].lstrip("/")
        camera = name.partition("/")[0]
        if camera in _CAMERAS:
            transport = transports.get(f"{camera}_transport") or given(
                context, f"{camera}_transport"
            )
            if transport == "compressed":
                name += "/compressed"
            name = renamed.get(name, name)
        else:
            name = re.sub(f"^{NODE_NAME}/", f"{given(context, 'name') or NODE_NAME}/", name)
        return match[1] + (name if name.startswith("/") else space + name)

    layout = profile_path().with_name("fusion.rviz").read_text(encoding="utf-8")
    folder = Path(tempfile.mkdtemp(prefix="ivf_ros_rviz_"))
    copy = folder / "fusion.rviz"
    copy.write_text(re.sub(r"(?m)^( +Value: )(/\S+)$", topic, layout), encoding="utf-8")

    def remove(event: ShutdownEvent, context: LaunchContext) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    return [
        RegisterEventHandler(OnShutdown(on_shutdown=remove)),
        Node(
            package="rviz2",
            executable="rviz2",
            name="rviz",
            arguments=["-d", str(copy)],
            parameters=[{"use_sim_time": switch(context, "use_sim_time")}],
        ),
    ]


def in_namespace(context: LaunchContext) -> bool:
    """Return whether the nodes are in a namespace: the argument's, or an including file's.

    Args:
        context: context of the launch file.
    """
    outer = context.launch_configurations.get("ros_namespace", "")
    return any(name.strip("/") for name in (given(context, "namespace"), outer))


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
                key: ParameterValue(value, value_type=kind) if kind else value
                for key, value in values.items()
                for kind in [_TEXTS.get(type(value))]
            }
        )
    arguments = ["--log-level", log_level or given(context, "log_level")]
    if given(context, "enclave"):
        part = executable.removesuffix("_node")
        arguments += ["--enclave", f"{_absolute(given(context, 'enclave')).rstrip('/')}/{part}"]
    return Node(
        package="ivf_ros",
        executable=executable,
        name=name,
        namespace=given(context, "namespace").rstrip("/") or None,
        parameters=parameters,
        ros_arguments=arguments,
        output="screen",
        emulate_tty=True,
        **kwargs,
    )


_TEXTS: dict[type, Any] = {str: str, list: List[str]}  # noqa: UP006
"""Types that launch_ros knows, of the values that it would parse as YAML."""


def _absolute(name: str) -> str:
    """Return a name with a slash in front."""
    return "/" + name.strip("/")


_NAMES: dict[str, Callable[[str], Any]] = {
    "name": validate_node_name,
    "namespace": lambda name: validate_namespace(_absolute(name)),
    "enclave": lambda name: validate_namespace(_absolute(name)),
    **{
        f"{camera}_{kind}": validate_topic_name
        for camera in _CAMERAS
        for kind in ("topic", "camera_info_topic")
    },
}
"""Functions that raise where the name that an argument gives is not valid in ROS."""


def _report_unknown(context: LaunchContext, names: list[str], file: str) -> list[Action]:
    """Raise or warn about arguments that are not declared: see `check_arguments`."""
    warnings: list[Action] = []
    on_command_line = {word.partition(":=")[0] for word in context.argv if ":=" in word}
    outermost = file in {Path(word).name for word in sys.argv}
    unknown = {
        name: difflib.get_close_matches(name, names, 1, 0.75)
        for name in sorted({*context.launch_configurations, *on_command_line} - {*names})
        if not name.startswith(_OF_LAUNCH_ROS)
    }
    for name, similar in unknown.items():
        hint = f"; did you mean {similar[0]}?" if similar else ""
        text = f"launch argument {name}: {file} has no argument of this name{hint}"
        if outermost and name in on_command_line:
            raise ValueError(f"{text} (ros2 launch with --show-args lists all)")
        if similar:
            warnings.append(LogInfo(msg=f"{text} It is ignored."))
    return warnings


def _named_topic(context: LaunchContext, camera: str, info: BagInfo) -> str | None:
    """Return the topic of a bag that an argument names, None without one.

    The name may lack the slash in front, or be that of the images that are compressed in
    the bag.
    """
    name = given(context, f"{camera}_topic")
    if not name:
        return None
    images = {topic.name for topic in info.topics if topic.is_image}
    candidates = [name, _absolute(name), f"{_absolute(name)}/compressed"]
    return next((candidate for candidate in candidates if candidate in images), name)


def _typed(context: LaunchContext, parameter: Parameter) -> Value:
    """Return the value of an argument, with the type of the parameter that it overrides."""
    kind, text = type(parameter.default), given(context, parameter.name)
    if kind is bool:
        return switch(context, parameter.name)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{parameter.name}:={text}: expected {kind.__name__}") from None


def _view_port(context: LaunchContext) -> int:
    """Return the port of the page, or raise ValueError."""
    text = given(context, "view_port")
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"view_port:={text}: expected a port, 0 to 65535")
    return int(text)


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
    # The player publishes in its namespace; a relative name leads to the same one.
    local = (lambda name: name.lstrip("/")) if in_namespace(context) else lambda name: name
    for camera in _CAMERAS:
        image = given(context, f"{camera}_topic")
        info = given(context, f"{camera}_camera_info_topic")
        compressed = image.endswith("/compressed")
        if camera in topics:
            image, compressed = local(topics[camera].name), topics[camera].type == _COMPRESSED
            beside = topics.get(f"{camera}_info")
            info = local(info or (beside.name if beside else ""))
        elif image:
            info = info or _info_beside(image)
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
