"""Arguments of the launch files beyond the node's parameters; read by them and by the docs.

Nothing here needs `launch`, so that the docs are made where it is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ivf_ros.parameters import PARAMETERS, Parameter

__all__ = ["FUSION_ARGUMENTS", "NODE_NAME", "REPLAY_ARGUMENTS", "LaunchArgument", "text_of"]


@dataclass(frozen=True)
class LaunchArgument:
    """One launch argument.

    Attributes:
        name: as in `name:=value`.
        default: as text; None where the argument must be given.
        description: one sentence.
        choices: allowed texts; empty allows any.
    """

    name: str
    default: str | None
    description: str
    choices: tuple[str, ...] = ()


def text_of(value: object) -> str:
    """A parameter's value as one writes it on the command line; 'empty' for nothing."""
    if isinstance(value, list):
        return ", ".join(value) or "empty"
    return (str(value).lower() if isinstance(value, bool) else str(value)) or "empty"


def _of_parameters(parameters: Iterable[Parameter]) -> tuple[LaunchArgument, ...]:
    """Arguments that override params_file; empty, the default, leaves a parameter to it."""
    return tuple(
        LaunchArgument(
            parameter.name,
            "",
            f"{parameter.description} Empty: from params_file, as shipped {text_of(parameter.default)}.",
            ("", *parameter.choices) if parameter.choices else (),
        )
        for parameter in parameters
    )


NODE_NAME = "fusion"
"""The fusion node's own name, which launch files may replace."""

_COMMON = (
    LaunchArgument("namespace", "", "Namespace of the nodes."),
    LaunchArgument("params_file", "", "YAML file with parameters; empty takes the package's config/fusion.yaml."),
    LaunchArgument("rgb_topic", "", "Topic of the RGB images; one that ends in /compressed sets rgb_transport as well. Empty: rgb/image_raw, or the bag's own."),
    LaunchArgument("thermal_topic", "", "Topic of the thermal images; one that ends in /compressed sets thermal_transport as well. Empty: thermal/image_raw, or the bag's own."),
    LaunchArgument("rgb_camera_info_topic", "", "Topic of the RGB camera's calibration. Empty: rgb/camera_info, or camera_info beside rgb_topic."),
    LaunchArgument("thermal_camera_info_topic", "", "Topic of the thermal camera's calibration. Empty: thermal/camera_info, or camera_info beside thermal_topic."),
    LaunchArgument("log_level", "info", "Severity from which messages are logged.", ("debug", "info", "warn", "error", "fatal")),
    LaunchArgument("fastdds_profile", "true", "true applies config/fastdds.xml, false none, a path another profile. It gives way to a profile, transport or middleware chosen in the environment."),
)  # fmt: skip

FUSION_ARGUMENTS = (
    LaunchArgument("name", NODE_NAME, "Name of the fusion node."),
    *_COMMON,
    LaunchArgument("use_sim_time", "", "true takes the time from /clock; with a bag, the player publishes it. Empty: from params_file, else false."),
    LaunchArgument("bag", "", "Bag to play into the node (rosbag2 or rosbag1). Stamps become those of now, unless use_sim_time is set."),
    LaunchArgument("visible", "", "Video of the RGB camera, converted to a bag and played; with infrared."),
    LaunchArgument("infrared", "", "Video of the thermal camera, converted to a bag and played; with visible."),
    LaunchArgument("rate", "1.0", "Factor of the recorded speed at which a bag or video is played."),
    LaunchArgument("loop", "false", "Play the bag or video until interrupted."),
    *_of_parameters(PARAMETERS),
)  # fmt: skip
"""Arguments of launch/fusion.launch.py."""

REPLAY_ARGUMENTS = (
    LaunchArgument("bag", None, "Bag to fuse (rosbag2 or rosbag1)."),
    LaunchArgument("output", "", "Folder of the results, must not exist: bag, and what `ivf replay` writes beside it. Empty: the bag's path without its suffix, and _replay."),
    LaunchArgument("rate", "", "Factor of the recorded speed; the node then works as it would live, and counts the pairs that it has no time for. Empty: every pair, as fast as the node takes them."),
    LaunchArgument("report", "true", "false writes the bag only.", ("true", "false")),
    *_COMMON,
    *_of_parameters(p for p in PARAMETERS if p.name not in ("mode", "autostart")),
)  # fmt: skip
"""Arguments of launch/replay.launch.py."""
