"""Tables of the launch files' arguments, for the launch files and for the docs.

This module does not import `launch`, so that the docs can be generated without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ivf_ros.parameters import PARAMETERS, Parameter

__all__ = [
    "FUSION_ARGUMENTS",
    "LIFECYCLE_ARGUMENTS",
    "NODE_NAME",
    "REPLAY_ARGUMENTS",
    "TWO_RIGS_ARGUMENTS",
    "LaunchArgument",
    "text_of",
]


@dataclass(frozen=True)
class LaunchArgument:
    """Declaration of one launch argument.

    Attributes:
        name: name, as in `name:=value`.
        default: default value as text; None if the argument must be given.
        description: text for `ros2 launch --show-args` and the docs.
        choices: allowed texts; empty allows any.
    """

    name: str
    default: str | None
    description: str
    choices: tuple[str, ...] = ()


def text_of(value: object) -> str:
    """Return a parameter's value as it is written on the command line, or "empty".

    Args:
        value: value of the parameter.
    """
    if isinstance(value, list):
        return ", ".join(value) or "empty"
    return (str(value).lower() if isinstance(value, bool) else str(value)) or "empty"


def _of_parameters(parameters: Iterable[Parameter]) -> tuple[LaunchArgument, ...]:
    """Return the arguments that override params_file; empty, the default, does not."""
    return tuple(
        LaunchArgument(
            parameter.name,
            "",
            f"{parameter.description} If empty, the value comes from params_file, whose default is {text_of(parameter.default)}.",
            ("", *parameter.choices) if parameter.choices else (),
        )
        for parameter in parameters
    )


NODE_NAME = "fusion"
"""Default name of the fusion node, which the argument `name` replaces."""

_COMMON = (
    LaunchArgument("namespace", "", "Namespace of the nodes, and of the topics of a bag that is played."),
    LaunchArgument("params_file", "", "YAML file with parameters; if empty, the package's config/fusion.yaml."),
    LaunchArgument("rgb_topic", "", "Topic of the RGB images; a name that ends in /compressed also sets rgb_transport. If empty, rgb/image_raw, or the topic in the bag."),
    LaunchArgument("thermal_topic", "", "Topic of the thermal images; a name that ends in /compressed also sets thermal_transport. If empty, thermal/image_raw, or the topic in the bag."),
    LaunchArgument("rgb_camera_info_topic", "", "Topic of the RGB camera's calibration. If empty, rgb/camera_info, or camera_info in the namespace of rgb_topic."),
    LaunchArgument("thermal_camera_info_topic", "", "Topic of the thermal camera's calibration. If empty, thermal/camera_info, or camera_info in the namespace of thermal_topic."),
    LaunchArgument("log_level", "info", "Lowest severity of the messages that are logged.", ("debug", "info", "warn", "error", "fatal")),
    LaunchArgument("enclave", "", "Path of the SROS2 enclaves: /ivf_ros gives /ivf_ros/fusion, /ivf_ros/player, /ivf_ros/recorder and /ivf_ros/view, those of config/sros2_policy.xml. If empty, all nodes use the enclave /."),
    LaunchArgument("fastdds_profile", "true", "true applies config/fastdds.xml, false applies no profile, a path applies that profile. A profile, transport or middleware chosen in the environment takes precedence."),
)  # fmt: skip

FUSION_ARGUMENTS = (
    LaunchArgument("name", NODE_NAME, "Name of the fusion node."),
    *_COMMON,
    LaunchArgument("use_sim_time", "", "true uses the time on /clock; with a bag, the player publishes it. If empty, the value comes from params_file, otherwise false."),
    LaunchArgument("bag", "", "Bag to play into the node (rosbag2 or rosbag1). Its stamps are moved to the present time, unless use_sim_time is set."),
    LaunchArgument("visible", "", "Video of the RGB camera, which is converted to a bag and played; requires infrared."),
    LaunchArgument("infrared", "", "Video of the thermal camera, which is converted to a bag and played; requires visible."),
    LaunchArgument("rate", "1.0", "Factor of the recorded speed at which the bag or video is played."),
    LaunchArgument("loop", "false", "true repeats the bag or video until interrupted."),
    LaunchArgument("rviz", "false", "true starts RViz with config/fusion.rviz: both cameras, the fused image and the overlay, under the names of this launch. It needs the package rviz2."),
    LaunchArgument("view", "false", "true shows the results in a browser: a node `view` serves the page at view_host and view_port.", ("true", "false")),
    LaunchArgument("view_host", "127.0.0.1", "Address of the page. The default shows it on this machine only, 0.0.0.0 to everybody in the network."),
    LaunchArgument("view_port", "8642", "Port of the page; 0 takes a free one, which the log names."),
    *_of_parameters(PARAMETERS),
)  # fmt: skip
"""Arguments of launch/fusion.launch.py."""

REPLAY_ARGUMENTS = (
    LaunchArgument("bag", None, "Bag to fuse (rosbag2 or rosbag1)."),
    LaunchArgument("output", "", "Folder of the results, which must not exist: the recorded bag, and the files of `ivf replay`. If empty, the path of the bag without its suffix, followed by _replay."),
    LaunchArgument("rate", "", "Factor of the recorded speed; the node then runs in live mode and counts the pairs that it has no time for. If empty, every pair is processed, as fast as the node can."),
    LaunchArgument("report", "true", "true writes the report of `ivf replay`; false writes only the bag.", ("true", "false")),
    *_COMMON,
    *_of_parameters(p for p in PARAMETERS if p.name not in ("mode", "autostart")),
)  # fmt: skip
"""Arguments of launch/replay.launch.py."""

LIFECYCLE_ARGUMENTS = (
    LaunchArgument("manager", "lifecycle_manager_fusion", "Name of the lifecycle manager."),
    LaunchArgument("service_timeout", "60.0", "Longest time of a transition in seconds: configuring loads the weights. Managers before Kilted wait without limit, and have no such parameter."),
)  # fmt: skip
"""Arguments of launch/lifecycle.launch.py, beside those of launch/fusion.launch.py."""

TWO_RIGS_ARGUMENTS = (
    LaunchArgument("rigs", "front,rear", "Namespaces of the rigs, one or more, with commas between them; each has a fusion node and the topics of its cameras."),
    LaunchArgument("outer_namespace", "", "Namespace of all rigs."),
)  # fmt: skip
"""Arguments of launch/two_rigs.launch.py, beside those of launch/fusion.launch.py."""
