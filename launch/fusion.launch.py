"""Launch file of the fusion node and, on request, the player of a bag or a pair of videos.

ros2 launch ivf_ros fusion.launch.py rgb_topic:=/camera/image_raw thermal_topic:=/lepton/image_raw
ros2 launch ivf_ros fusion.launch.py bag:=drive.mcap palette:=ironbow rviz:=true
ros2 launch ivf_ros fusion.launch.py visible:=rgb.mp4 infrared:=thermal.mp4 loop:=true
ros2 launch ivf_ros fusion.launch.py bag:=drive.mcap loop:=true view:=true
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import ExecuteProcess, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit, OnShutdown
from launch.events import Shutdown as ShutdownEvent
from launch.events.process import ProcessExited
from launch_ros.substitutions import ExecutableInPackage

from ivf_ros.launch_actions import (
    apply_profile,
    bag_topics,
    check_arguments,
    declare,
    existing,
    fusion_node,
    given,
    player,
    rate,
    rviz,
    switch,
    view_node,
)
from ivf_ros.launch_arguments import FUSION_ARGUMENTS

CAMERA_TOPICS = [argument.name for argument in FUSION_ARGUMENTS if argument.name.endswith("_topic")]
"""Arguments that name topics of the cameras."""


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` creates the actions."""
    return LaunchDescription([*declare(FUSION_ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """Create the actions from the arguments."""
    warnings = check_arguments(context, FUSION_ARGUMENTS, __file__)
    bag, visible, infrared = (existing(context, name) for name in ("bag", "visible", "infrared"))
    if bool(visible) != bool(infrared):
        raise ValueError("visible and infrared belong together: give both videos")
    if bag and visible:
        raise ValueError("give either bag or visible and infrared, not both")
    if visible and (named := [name for name in CAMERA_TOPICS if given(context, name)]):
        raise ValueError(f"{' and '.join(named)}: videos are played under fixed topic names")
    actions = [*warnings, *apply_profile(context)]
    if visible:
        return [*actions, *play_videos(context, visible, infrared)]
    if bag:
        return [*actions, *play(context, bag)]
    return [*actions, fusion_node(context), *rviz(context), *view_node(context)]


def play(context: LaunchContext, bag: str) -> list[Action]:
    """Create the fusion node and the player of a bag, which waits for the node."""
    simulated = switch(context, "use_sim_time")
    topics = bag_topics(context, bag)
    fusion = fusion_node(context, topics)
    source = player(
        context,
        bag,
        topics,
        rate=rate(context),
        loop=switch(context, "loop"),
        restamp=not simulated,
        publish_clock=simulated,
    )
    ended = Shutdown(reason="the fusion node ended")
    return [
        RegisterEventHandler(OnProcessExit(target_action=fusion, on_exit=[ended])),
        fusion,
        source,
        *rviz(context, topics),
        *view_node(context, topics),
    ]


def play_videos(context: LaunchContext, visible: str, infrared: str) -> list[Action]:
    """Convert two videos to a temporary bag, play it, and remove it when everything ends."""
    folder = Path(tempfile.mkdtemp(prefix="ivf_ros_"))
    bag = str(folder / "bag")
    ivf = ExecutableInPackage(executable="ivf", package="ivf_ros")
    options = ["--visible", visible, "--infrared", infrared, "--output", bag]
    convert = ExecuteProcess(cmd=[ivf, "bag", "from-video", *options], output="screen")

    def converted(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if event.returncode != 0:
            return [Shutdown(reason="the videos could not be converted")]
        return play(context, bag)

    def remove(event: ShutdownEvent, context: LaunchContext) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    return [
        RegisterEventHandler(OnProcessExit(target_action=convert, on_exit=converted)),
        RegisterEventHandler(OnShutdown(on_shutdown=remove)),
        convert,
    ]
