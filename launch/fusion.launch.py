"""Launch file of the fusion node and, on request, the player of a bag or a pair of videos.

ros2 launch ivf_ros fusion.launch.py rgb_topic:=/camera/image_raw thermal_topic:=/lepton/image_raw
ros2 launch ivf_ros fusion.launch.py bag:=drive.mcap palette:=ironbow
ros2 launch ivf_ros fusion.launch.py visible:=rgb.mp4 infrared:=thermal.mp4 loop:=true
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
    declare,
    existing,
    fusion_node,
    given,
    player,
    switch,
)
from ivf_ros.launch_arguments import FUSION_ARGUMENTS


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` creates the actions."""
    return LaunchDescription([*declare(FUSION_ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """Create the actions from the arguments."""
    bag, visible, infrared = (existing(context, name) for name in ("bag", "visible", "infrared"))
    if bool(visible) != bool(infrared):
        raise ValueError("visible and infrared belong together: give both videos")
    if bag and visible:
        raise ValueError("give either bag or visible and infrared, not both")
    actions = apply_profile(context)
    if visible:
        return [*actions, *play_videos(context, visible, infrared)]
    if bag:
        return [*actions, *play(context, bag)]
    return [*actions, fusion_node(context)]


def play(context: LaunchContext, bag: str) -> list[Action]:
    """Create the fusion node and the player of a bag."""
    simulated = switch(context, "use_sim_time")
    named = given(context, "rgb_topic") and given(context, "thermal_topic")
    topics = {} if named else bag_topics(bag)
    source = player(
        context,
        bag,
        rate=float(given(context, "rate")),
        loop=switch(context, "loop"),
        restamp=not simulated,
        publish_clock=simulated,
    )
    return [fusion_node(context, topics), source]


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
