"""Launch file of two rigs or more, each with a fusion node in a namespace of its own.

ros2 launch ivf_ros two_rigs.launch.py rigs:=front,rear
ros2 launch ivf_ros two_rigs.launch.py rgb_topic:=camera/image_raw thermal_topic:=lepton/image_raw

All arguments of fusion.launch.py are accepted, and hold for every rig: relative topics are in the
rig's namespace, so that the second command subscribes to /front/camera/image_raw and so on. What
differs between the rigs is in one params_file, under /front/fusion and /rear/fusion.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource

from ivf_ros.launch_actions import declare, given
from ivf_ros.launch_arguments import TWO_RIGS_ARGUMENTS

FUSION = str(Path(__file__).with_name("fusion.launch.py"))


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` creates the actions."""
    return LaunchDescription([*declare(TWO_RIGS_ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """Include fusion.launch.py once for each rig, whose arguments end with its group."""
    rigs = [name.strip(" /") for name in given(context, "rigs").split(",")]
    if not all(rigs) or len(set(rigs)) < len(rigs):
        text = f"rigs:={given(context, 'rigs')}: expected names that differ, such as front,rear"
        raise ValueError(text)
    outer = given(context, "outer_namespace").strip("/")
    return [
        GroupAction(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(FUSION),
                    launch_arguments=[("namespace", f"{outer}/{rig}" if outer else rig)],
                )
            ]
        )
        for rig in rigs
    ]
