"""Launch files: they load, declare the arguments of the tables, and start the nodes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import PERIOD_NS, START_NS, smooth_image, write_pairs

from ivf_core.bags.writer import BagWriter
from ivf_ros.compat import profile_variables
from ivf_ros.launch_arguments import (
    FUSION_ARGUMENTS,
    LIFECYCLE_ARGUMENTS,
    REPLAY_ARGUMENTS,
    TWO_RIGS_ARGUMENTS,
)
from ivf_ros.transport import USERS_OWN, profile_path

# Not `launch`: our own folder of that name would be imported.
pytest.importorskip("launch_ros", reason="launch_ros is not installed")

from launch import LaunchContext, LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

LAUNCH = Path(__file__).resolve().parents[2] / "launch"

# Replaces the executables: writes the arguments of its start, then ends.
SPY = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
import yaml
arguments = sys.argv[1:]
parameters = {{}}
for flag, value in zip(arguments, arguments[1:]):
    if flag == "--params-file":
        for block in yaml.safe_load(Path(value).read_text()).values():
            parameters.update(block["ros__parameters"])
    elif flag == "-p":
        name, _, text = value.partition(":=")
        parameters[name] = yaml.safe_load(text)
report = {{
    "arguments": arguments,
    "parameters": parameters,
    "environment": {{k: v for k, v in os.environ.items() if k.startswith("FAST")}},
}}
if Path(sys.argv[0]).name == "rviz2":
    report["layout"] = Path(arguments[1]).read_text()
names = [word[6:] for word in arguments if word.startswith("__ns:=")]
space = "".join(names).replace("/", ".") if os.environ.get("REPORT_NAMESPACES") else ""
report_file = Path(os.environ["REPORTS"], Path(sys.argv[0]).name + space + ".json")
report_file.with_suffix(".part").write_text(json.dumps(report))
report_file.with_suffix(".part").rename(report_file)
print("recording /fusion/fused/image (sensor_msgs/msg/Image)", flush=True)
if os.environ.get("WAIT_FOR"):  # another executable's start
    import time
    while not Path(os.environ["REPORTS"], os.environ["WAIT_FOR"] + ".json").exists():
        time.sleep(0.05)
if Path(sys.argv[0]).name not in ("player_node", "ivf"):  # these are ended by launch
    import signal
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
    signal.alarm(int(os.environ["LIFETIME"]))
    signal.pause()
"""


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an install space whose executables report the arguments of their start."""
    reports = tmp_path / "reports"
    reports.mkdir()
    for name in ("fusion_node", "player_node", "recorder_node", "view_node", "ivf"):
        install_spy(tmp_path, "ivf_ros", name)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))
    monkeypatch.setenv("REPORTS", str(reports))
    monkeypatch.setenv("LIFETIME", "1")
    for name in (*USERS_OWN, "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def install_spy(folder: Path, package: str, executable: str) -> None:
    """Add an executable that reports the arguments of its start to the install space."""
    index = folder / "prefix" / "share" / "ament_index" / "resource_index" / "packages"
    executables = folder / "prefix" / "lib" / package
    for path in (index, executables):
        path.mkdir(parents=True, exist_ok=True)
    (index / package).touch()
    (executables / executable).write_text(SPY)
    (executables / executable).chmod(0o755)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    path = tmp_path / "drive"
    with BagWriter(path) as writer:
        writer.write_image(
            "/front/color/image_raw", 10**9, np.zeros((4, 6, 3), np.uint8), "rgb8", "a"
        )
        writer.write_compressed(
            "/front/thermal/image_raw/compressed", 10**9, np.zeros((4, 6), np.uint8), "mono8", "a"
        )
    return path


def description(name: str) -> LaunchDescription:
    source = PythonLaunchDescriptionSource(str(LAUNCH / f"{name}.launch.py"))
    return source.get_launch_description(LaunchContext())


def launch(
    prefix: Path, file: str, /, *, argv: Sequence[str] = (), **arguments: object
) -> tuple[int, dict[str, dict]]:
    """Launch a file; return the exit status and the report of each executable."""
    environment = dict(os.environ)
    service = LaunchService(argv=list(argv), noninteractive=True)
    service.include_launch_description(
        LaunchDescription(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(LAUNCH / f"{file}.launch.py")),
                    launch_arguments=[(k, str(v)) for k, v in arguments.items()],
                )
            ]
        )
    )
    try:
        status = service.run()
    finally:
        os.environ.clear()
        os.environ.update(environment)
    reports = (prefix / "reports").glob("*.json")
    return status, {report.stem: json.loads(report.read_text()) for report in reports}


def remappings(report: dict) -> dict[str, str]:
    arguments = report["arguments"]
    pairs = [b for a, b in pairwise(arguments) if a == "-r"]
    return dict(pair.split(":=") for pair in pairs)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("fusion", FUSION_ARGUMENTS),
        ("replay", REPLAY_ARGUMENTS),
        ("lifecycle", LIFECYCLE_ARGUMENTS),
        ("two_rigs", TWO_RIGS_ARGUMENTS),
    ],
)
def test_declared_arguments_are_those_of_the_table(name: str, table: tuple) -> None:
    declared = {argument.name: argument for argument in description(name).get_launch_arguments()}
    assert list(declared) == [argument.name for argument in table]
    for argument in table:
        assert declared[argument.name].description.startswith(argument.description)
        default = declared[argument.name].default_value
        assert (default is None) == (argument.default is None)
        if default:
            assert default[0].text == argument.default


def test_values_come_from_params_file_without_arguments(prefix: Path) -> None:
    status, reports = launch(prefix, "fusion")
    assert status == 0
    assert list(reports) == ["fusion_node"]
    shipped = yaml.safe_load(profile_path().with_name("fusion.yaml").read_text())
    assert reports["fusion_node"]["parameters"] == shipped["/**"]["ros__parameters"]
    assert remappings(reports["fusion_node"]) == {"__node": "fusion"}
    profile = reports["fusion_node"]["environment"]
    assert profile == dict.fromkeys(profile_variables(), str(profile_path()))


def test_arguments_override_with_the_type_of_the_parameter(prefix: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {palette: turbo, queue_size: 7, autostart: false}\n")
    _, reports = launch(
        prefix,
        "fusion",
        params_file=file,
        name="night",
        namespace="front",
        queue_size="20",
        tolerance_seconds="0",
        weights="123",
        use_sim_time="True",
        log_level="debug",
        fastdds_profile="false",
        rgb_topic="camera/color/image_raw",
        thermal_topic="/lepton/image_raw/compressed",
    )
    report = reports["fusion_node"]
    expected = {
        "palette": "turbo",
        "queue_size": 20,
        "autostart": False,
        "tolerance_seconds": 0.0,
        "weights": "123",
        "use_sim_time": True,
        "thermal_transport": "compressed",
    }
    assert report["parameters"] == expected
    assert {k: type(v) for k, v in report["parameters"].items()} == {
        k: type(v) for k, v in expected.items()
    }
    assert remappings(report) == {
        "__node": "night",
        "__ns": "/front",
        "rgb/image_raw": "camera/color/image_raw",
        "rgb/image_raw/compressed": "camera/color/image_raw/compressed",
        "rgb/camera_info": "camera/color/camera_info",
        "thermal/image_raw": "/lepton/image_raw",
        "thermal/image_raw/compressed": "/lepton/image_raw/compressed",
        "thermal/camera_info": "/lepton/camera_info",
    }
    assert "--log-level" in report["arguments"]
    assert report["environment"] == {}


def test_transport_of_the_user_takes_precedence(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    _, reports = launch(prefix, "fusion")
    environment = reports["fusion_node"]["environment"]
    assert environment == {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}


@pytest.fixture
def player_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the node live until the player has started: its end ends the launch."""
    monkeypatch.setenv("WAIT_FOR", "player_node")


def test_bag_is_played_into_the_node(prefix: Path, bag: Path, player_first: None) -> None:
    _, reports = launch(prefix, "fusion", bag=bag, rate="2", loop="true")
    assert reports["player_node"]["parameters"] == {
        "bag": str(bag),
        "camera_topics": ["/front/color/image_raw", "/front/thermal/image_raw/compressed"],
        "progress_topic": "fusion/rgb_frames_done",
        "wait_for_node": "fusion",
        "wait_for_subscribers_seconds": 300.0,
        "rate": 2.0,
        "loop": True,
        "restamp": True,
        "publish_clock": False,
    }
    node = reports["fusion_node"]
    assert remappings(node)["rgb/image_raw"] == "/front/color/image_raw"
    assert remappings(node)["thermal/image_raw/compressed"] == "/front/thermal/image_raw/compressed"
    assert node["parameters"]["rgb_transport"] == "raw"
    assert node["parameters"]["thermal_transport"] == "compressed"


def test_bag_is_played_in_the_namespace(prefix: Path, bag: Path, player_first: None) -> None:
    _, reports = launch(
        prefix,
        "fusion",
        bag=bag,
        namespace="/left/",
        name="night",
        use_sim_time="true",
        rgb_topic="/front/color/image_raw",
        thermal_topic="front/thermal/image_raw",
    )
    names = remappings(reports["fusion_node"])
    assert names["__ns"] == remappings(reports["player_node"])["__ns"] == "/left"
    # Relative names: in the namespace, as those of the player.
    assert names["rgb/image_raw"] == "front/color/image_raw"
    assert names["thermal/image_raw/compressed"] == "front/thermal/image_raw/compressed"
    assert names["/clock"] == "clock"
    player = reports["player_node"]["parameters"]
    assert player["wait_for_node"] == "night"
    assert player["camera_topics"][1] == "/front/thermal/image_raw/compressed"


def test_end_of_the_node_ends_the_launch(
    prefix: Path, bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = prefix / "prefix" / "lib" / "ivf_ros" / "player_node"
    player.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(600)\n")
    status, _ = launch(prefix, "fusion", bag=bag)
    assert status == 0  # long before the player's end


def test_page_is_shown_when_asked_for(prefix: Path) -> None:
    _, reports = launch(prefix, "fusion")
    assert "view_node" not in reports
    arguments = {"view": "true", "view_port": "0", "name": "night", "namespace": "left"}
    _, reports = launch(prefix, "fusion", rgb_topic="/cam/image_raw", **arguments)
    page = reports["view_node"]
    assert page["parameters"] == {"node": "night", "host": "127.0.0.1", "port": 0}
    names = remappings(page)
    assert (names["__ns"], names["__node"]) == ("/left", "view")
    assert names["rgb/image_raw"] == "/cam/image_raw"


def test_enclaves(prefix: Path, bag: Path, player_first: None) -> None:
    _, reports = launch(prefix, "fusion", bag=bag, enclave="/ivf_ros")
    for name in ("fusion", "player"):
        arguments = reports[f"{name}_node"]["arguments"]
        assert arguments[arguments.index("--enclave") + 1] == f"/ivf_ros/{name}"


def topics_shown(report: dict) -> list[str]:
    layout = yaml.safe_load(report["layout"])
    return [display["Topic"]["Value"] for display in layout["Visualization Manager"]["Displays"]]


def test_rviz_shows_the_topics_of_this_launch(
    prefix: Path, bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_spy(prefix, "rviz2", "rviz2")
    _, reports = launch(prefix, "fusion", rviz="true")
    assert topics_shown(reports["rviz2"]) == [
        "/rgb/image_raw",
        "/thermal/image_raw",
        "/fusion/fused/image",
        "/fusion/overlay/image",
    ]
    layout = Path(reports["rviz2"]["arguments"][1])
    assert reports["rviz2"]["arguments"][0] == "-d"
    assert not layout.parent.exists()  # it was removed at the end
    monkeypatch.setenv("WAIT_FOR", "rviz2")
    _, reports = launch(
        prefix, "fusion", bag=bag, namespace="left", name="night", rviz="True", use_sim_time="true"
    )
    assert topics_shown(reports["rviz2"]) == [
        "/left/front/color/image_raw",
        "/left/front/thermal/image_raw/compressed",
        "/left/night/fused/image",
        "/left/night/overlay/image",
    ]
    assert reports["rviz2"]["parameters"]["use_sim_time"] is True


def test_two_rigs_have_their_own_names(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPORT_NAMESPACES", "1")
    file = tmp_path / "rigs.yaml"
    file.write_text("/**/fusion:\n  ros__parameters: {queue_size: 7}\n")
    _, reports = launch(
        prefix,
        "two_rigs",
        rigs="front, rear",
        outer_namespace="/robot",
        params_file=file,
        mask_interval=2,
        rgb_topic="camera/image_raw",
    )
    assert set(reports) == {"fusion_node.robot.front", "fusion_node.robot.rear"}
    for rig in ("front", "rear"):
        report = reports[f"fusion_node.robot.{rig}"]
        names = remappings(report)
        assert (names["__ns"], names["__node"]) == (f"/robot/{rig}", "fusion")
        assert names["rgb/image_raw"] == "camera/image_raw"  # in the namespace
        assert report["parameters"] == {"queue_size": 7, "mask_interval": 2}
        assert report["environment"] == dict.fromkeys(profile_variables(), str(profile_path()))


def test_lifecycle_manager_manages_the_node(prefix: Path) -> None:
    install_spy(prefix, "nav2_lifecycle_manager", "lifecycle_manager")
    _, reports = launch(prefix, "lifecycle", namespace="left", name="night", weights="clear")
    node, manager = reports["fusion_node"], reports["lifecycle_manager"]
    assert node["parameters"]["autostart"] is False
    assert node["parameters"]["weights"] == "clear"
    assert remappings(node)["__ns"] == remappings(manager)["__ns"] == "/left"
    assert manager["parameters"] == {
        "node_names": ["night"],
        "autostart": True,
        "bond_timeout": 0.0,
        "service_timeout": 60.0,
    }


def test_replay_records_every_pair_and_reports(
    prefix: Path, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFETIME", "60")  # they run until launch ends them
    out = tmp_path / "out"
    status, reports = launch(prefix, "replay", bag=bag, output=out, device="cpu")
    assert status == 0
    assert set(reports) == {"fusion_node", "player_node", "recorder_node", "ivf"}
    assert reports["fusion_node"]["parameters"]["mode"] == "replay"
    assert reports["fusion_node"]["parameters"]["device"] == "cpu"
    assert reports["player_node"]["parameters"]["as_fast_as_taken"] is True
    assert reports["player_node"]["parameters"]["progress_topic"] == "fusion/rgb_frames_done"
    assert reports["recorder_node"]["parameters"]["output"] == str(out / "bag")
    command = ["replay", str(bag), "--recorded", str(out / "bag"), "--output", str(out)]
    assert reports["ivf"]["arguments"] == command


def test_replay_at_the_recorded_speed_uses_live_mode(
    prefix: Path, bag: Path, tmp_path: Path
) -> None:
    _, reports = launch(
        prefix, "replay", bag=bag, output=tmp_path / "out", rate="0.5", report="false"
    )
    assert "ivf" not in reports
    assert reports["fusion_node"]["parameters"]["mode"] == "live"
    player = reports["player_node"]["parameters"]
    assert (player["rate"], player["restamp"]) == (0.5, True)
    assert "as_fast_as_taken" not in player


@pytest.fixture
def real_nodes(prefix: Path) -> Path:
    for name, module in (
        ("fusion_node", "ivf_ros.fusion_node"),
        ("player_node", "ivf_ros.player_node"),
        ("recorder_node", "ivf_ros.recorder_node"),
        ("ivf", "ivf_core.cli"),
    ):
        script = f"#!{sys.executable}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
        (prefix / "prefix" / "lib" / "ivf_ros" / name).write_text(script)
    return prefix


@pytest.mark.dds
@pytest.mark.parametrize(("rate", "namespace"), [("", ""), ("0.5", ""), ("", "left/front")])
def test_replay_ends_with_the_report(
    real_nodes: Path, tmp_path: Path, tiny_weights: Path, rate: str, namespace: str
) -> None:
    frames = [(smooth_image(168, 192, k), smooth_image(168, 192, 50 + k)[..., 0]) for k in range(8)]
    drive = write_pairs(tmp_path / "pairs", frames)
    out = tmp_path / "out"
    launch(
        real_nodes,
        "replay",
        bag=drive,
        output=out,
        rate=rate,
        namespace=namespace,
        weights=tiny_weights,
        engine="torch",
        device="cpu",
        precision="fp32",
    )
    assert (out / "report.html").stat().st_size > 10_000
    summary = json.loads((out / "summary.json").read_text())
    live = summary["live"]
    assert live["mode"] == ("live" if rate else "replay")
    assert live["pairs_in"] == live["pairs_out"] + sum(live["dropped"].values())
    if not rate:
        assert live["pairs_out"] == 8
    assert live["latency_from"] == ("stamp" if rate else "arrival")
    assert live["processor"]["node_cores"] > 0
    assert summary["settings"]["weights"] == str(tiny_weights)
    rows = (out / "frames.csv").read_text().splitlines()[1:]
    assert len(rows) == live["pairs_out"]
    stamps = {int(row.split(",")[1]) for row in rows}
    assert stamps <= {START_NS + k * PERIOD_NS for k in range(8)}


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("fusion", {"palette": "rainbow"}, "rainbow"),
        ("fusion", {"queue_size": "many"}, "queue_size:=many: expected int"),
        ("fusion", {"queue_size": "0"}, "queue_size is 0, expected 1"),
        ("fusion", {"tolerance_seconds": "nan"}, "tolerance_seconds is nan, expected 0"),
        ("fusion", {"low_percentile": "60", "high_percentile": "40"}, "low_percentile (60.0)"),
        ("fusion", {"loop": "perhaps", "bag": "{bag}"}, "loop:=perhaps: expected true or false"),
        ("fusion", {"rate": "fast", "bag": "{bag}"}, "rate:=fast: expected float"),
        ("fusion", {"rate": "0", "bag": "{bag}"}, "rate:=0: expected 0.01 to 100"),
        ("fusion", {"rate": "inf", "bag": "{bag}"}, "rate:=inf: expected 0.01 to 100"),
        ("fusion", {"view_port": "99999"}, "view_port:=99999: expected a port"),
        ("fusion", {"params_file": "/nowhere.yaml"}, "params_file:=/nowhere.yaml"),
        ("fusion", {"fastdds_profile": "/nowhere.xml"}, "/nowhere.xml"),
        ("fusion", {"bag": "/nowhere"}, "bag:=/nowhere: no such file or folder"),
        ("fusion", {"bag": "{bag}", "rgb_topic": "/rear"}, "no topic /rear; its image topics: /fr"),
        ("fusion", {"visible": "{bag}"}, "visible and infrared belong together"),
        ("fusion", {"visible": "{bag}", "infrared": "{bag}", "rgb_topic": "/a"}, "rgb_topic: vid"),
        ("fusion", {"visible": "{bag}", "infrared": "{bag}", "rate": "fast"}, "rate:=fast"),
        ("fusion", {"visible": "{bag}", "infrared": "{bag}", "use_sim_time": "no"}, "use_sim_time"),
        ("fusion", {"name": "night-cam"}, "name:=night-cam: Invalid node name"),
        ("fusion", {"namespace": "2nd"}, "namespace:=2nd: Invalid namespace"),
        ("fusion", {"thermal_topic": "/a b"}, "thermal_topic:=/a b: Invalid topic name"),
        ("fusion", {"rviz": "yes"}, "rviz:=yes: expected true or false"),
        ("fusion", {"rviz": "true"}, "rviz:=true: the package rviz2 is not installed (sudo apt"),
        ("two_rigs", {"rigs": "front,front"}, "rigs:=front,front: expected names that differ"),
        ("two_rigs", {"rigs": ""}, "rigs:=: expected names that differ"),
        ("two_rigs", {"rigs": "2nd"}, "namespace:=2nd: Invalid namespace"),
        ("lifecycle", {}, "the package nav2_lifecycle_manager is not installed"),
        ("replay", {}, "bag"),
        ("replay", {"bag": "{bag}", "output": "{bag}"}, "already exists"),
        ("replay", {"bag": "{bag}", "rate": "fast"}, "rate:=fast: expected float"),
        ("replay", {"bag": "{bag}", "report": "maybe"}, "maybe"),
    ],
)
def test_wrong_arguments_end_the_launch(
    prefix: Path,
    bag: Path,
    name: str,
    arguments: dict[str, str],
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    filled = {key: value.format(bag=bag) for key, value in arguments.items()}
    status, reports = launch(prefix, name, **filled)
    assert status != 0
    assert not reports
    assert text in caplog.text


def test_unknown_argument_on_the_command_line_ends_the_launch(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["pallete:=ironbow"]
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "ivf_ros", "fusion.launch.py", *words])
    status, reports = launch(prefix, "fusion", argv=words, pallete="ironbow")
    assert status != 0
    assert not reports
    assert "no argument of this name; did you mean palette?" in caplog.text


def test_names_of_an_including_file_are_its_own(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["robot:=atlas"]
    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "robot", "robot.launch.py", *words])
    others = {"robot": "atlas", "ros_namespace": "/atlas", "pallete": "ironbow"}
    status, reports = launch(prefix, "fusion", argv=words, **others)
    assert status == 0
    assert set(reports) == {"fusion_node"}
    output = caplog.text
    assert "launch argument pallete" in output  # in the log only: it may be that file's
    assert "launch argument ro" not in output
