"""Launch file of the fusion node under nav2's lifecycle manager, which configures and activates it.

ros2 launch ivf_ros lifecycle.launch.py rgb_topic:=/camera/image_raw thermal_topic:=/lepton/raw

All arguments of fusion.launch.py are accepted. The manager does not watch the node with a bond:
bonds exist in C++ only (bondcpp), and the manager would wait for one, and abort.
"""

from __future__ import annotations

from pathlib import Path
from typing import List  # noqa: UP035  # launch knows the type of a list by this name

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from ivf_ros.launch_actions import declare, given, require_package
from ivf_ros.launch_arguments import LIFECYCLE_ARGUMENTS, NODE_NAME

FUSION = str(Path(__file__).with_name("fusion.launch.py"))


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` creates the actions."""
    return LaunchDescription([*declare(LIFECYCLE_ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """Include fusion.launch.py without its autostart, and create the manager beside the node."""
    require_package("nav2_lifecycle_manager", "lifecycle.launch.py")
    try:
        seconds = float(given(context, "service_timeout"))
    except ValueError:
        text = f"service_timeout:={given(context, 'service_timeout')}: expected float"
        raise ValueError(text) from None
    names = [given(context, "name") or NODE_NAME]
    manager = Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name=given(context, "manager"),
        namespace=given(context, "namespace").rstrip("/") or None,
        parameters=[
            {
                "node_names": ParameterValue(names, value_type=List[str]),  # noqa: UP006
                "autostart": True,
                "bond_timeout": 0.0,
                "service_timeout": seconds,
            }
        ],
        output="screen",
    )
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(FUSION), launch_arguments=[("autostart", "false")]
    )
    return [node, manager]
