"""Launch file that plays a bag into the fusion node, records the results and reports them.

ros2 launch ivf_ros replay.launch.py bag:=drive.mcap output:=drive_replay
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
    check_arguments,
    declare,
    end,
    existing,
    fusion_node,
    given,
    player,
    rate,
    recorder_node,
    replay_report,
    switch,
)
from ivf_ros.launch_arguments import REPLAY_ARGUMENTS

RECORDING = re.compile(rb"recording \S*/fused/image")
"""Log line of the recorder once it has subscribed."""

DELIVERY_SECONDS = 2.0
"""Time for the last results to reach the recorder, after the player has ended."""


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `start` creates the actions."""
    return LaunchDescription([*declare(REPLAY_ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """Create the actions from the arguments."""
    warnings = check_arguments(context, REPLAY_ARGUMENTS, __file__)
    bag = existing(context, "bag")
    stem = Path(bag).with_suffix("") if Path(bag).is_file() else bag
    output = Path(given(context, "output") or f"{stem}_replay").expanduser().absolute()
    if output.exists():
        raise FileExistsError(f"output:={output}: already exists")
    topics = bag_topics(context, bag)
    live = bool(given(context, "rate"))
    fusion = fusion_node(context, topics, mode="live" if live else "replay", autostart=True)
    recorder = recorder_node(context, str(output / "bag"))
    pace = {"rate": rate(context), "restamp": True} if live else {"as_fast_as_taken": True}
    source = player(context, bag, topics, **pace)
    report = replay_report(context, bag, topics, output)
    heard = bytearray()
    played: list[bool] = []

    def recording(event: ProcessIO) -> list[Action] | None:
        """Start the player once the recorder has found the node, so that it misses nothing."""
        before = RECORDING.search(heard)
        heard.extend(event.text)
        return [source] if before is None and RECORDING.search(heard) else None

    # The processes end one after the other, so that the recorder gets the last diagnostics.

    def on_played(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if event.returncode != 0:
            return [Shutdown(reason="the player failed")]
        played.append(True)
        return [TimerAction(period=DELIVERY_SECONDS, actions=[end(fusion)])]

    def on_fused(event: ProcessExited, context: LaunchContext) -> list[Action]:
        return [end(recorder)] if played else [Shutdown(reason="the fusion node ended")]

    def on_recorded(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if not played or event.returncode != 0:
            return [Shutdown(reason="the recorder ended")]
        return [report if switch(context, "report") else Shutdown(reason="bag played")]

    def on_reported(event: ProcessExited, context: LaunchContext) -> list[Action]:
        failed = " without its report" if event.returncode != 0 else ""
        return [Shutdown(reason=f"bag played{failed}")]

    return [
        *warnings,
        *apply_profile(context),
        RegisterEventHandler(
            OnProcessIO(target_action=recorder, on_stdout=recording, on_stderr=recording)
        ),
        *(
            RegisterEventHandler(OnProcessExit(target_action=process, on_exit=then))
            for process, then in (
                (source, on_played),
                (fusion, on_fused),
                (recorder, on_recorded),
                (report, on_reported),
            )
        ),
        fusion,
        recorder,
    ]
