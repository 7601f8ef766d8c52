"""Fuse every pair of a bag and record the results: player, fusion node and recorder.

ros2 launch ivf_ros replay.launch.py bag:=drive.mcap output:=fused_drive
"""

from __future__ import annotations

import re
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import OpaqueFunction, RegisterEventHandler, Shutdown, TimerAction
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events.process import ProcessExited, ProcessIO

from ivf_ros.launch_actions import (
    apply_profile,
    bag_topics,
    declare,
    existing,
    fusion_node,
    given,
    player,
    recorder_node,
)
from ivf_ros.launch_arguments import REPLAY_ARGUMENTS

RECORDING = re.compile(rb"recording \S*/fused/image")
"""What the recorder logs once it has subscribed."""

START_SECONDS = 300.0
"""The node may take this long to load its weights."""

DELIVERY_SECONDS = 2.0
"""The player ends when the last pair is done; this is for its results to reach the recorder."""


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declare(REPLAY_ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    bag = existing(context, "bag")
    stem = Path(bag).with_suffix("") if Path(bag).is_file() else bag
    output = Path(given(context, "output") or f"{stem}_fused").expanduser().absolute()
    if output.exists():
        raise FileExistsError(f"output:={output}: exists already")
    named = given(context, "rgb_topic") and given(context, "thermal_topic")
    fusion = fusion_node(context, {} if named else bag_topics(bag), mode="replay", autostart=True)
    recorder = recorder_node(context, str(output))
    source = player(context, bag, as_fast_as_taken=True, wait_for_subscribers_seconds=START_SECONDS)
    heard = bytearray()

    def recording(event: ProcessIO) -> list[Action] | None:
        """Start the player, once, when the recorder has found the node: nothing is missed."""
        before = RECORDING.search(heard)
        heard.extend(event.text)
        return [source] if before is None and RECORDING.search(heard) else None

    def played(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if event.returncode != 0:
            return [Shutdown(reason="the player failed")]
        return [TimerAction(period=DELIVERY_SECONDS, actions=[Shutdown(reason="bag played")])]

    return [
        *apply_profile(context),
        RegisterEventHandler(
            OnProcessIO(target_action=recorder, on_stdout=recording, on_stderr=recording)
        ),
        RegisterEventHandler(OnProcessExit(target_action=source, on_exit=played)),
        *(
            RegisterEventHandler(
                OnProcessExit(target_action=node, on_exit=[Shutdown(reason=f"{what} ended")])
            )
            for node, what in ((fusion, "the fusion node"), (recorder, "the recorder"))
        ),
        fusion,
        recorder,
    ]
