"""Fast DDS profile: found, applied unless the user chose a transport, and effective."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2's rclpy is not installed")

from ivf_ros.compat import profile_variables
from ivf_ros.transport import USERS_OWN, environment, profile_path, reason_not_applied

FRAMES = 60

# Publishes FRAMES images of 640 x 480 x 3 at 30 Hz, best effort, once a reader is there.
PUBLISHER = f"""
import array, time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("camera")
publisher = node.create_publisher(Image, "image_raw", qos_profile_sensor_data)
message = Image(height=480, width=640, step=1920, encoding="rgb8")
message.data = array.array("B", bytes(640 * 480 * 3))
deadline = time.monotonic() + 30
while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
    time.sleep(0.05)
time.sleep(0.5)
for _ in range({FRAMES}):
    publisher.publish(message)
    time.sleep(1 / 30)
time.sleep(1.0)
"""

# Ends when the publisher has ended, and prints the number of received images.
SUBSCRIBER = """
import time
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("reader")
seen = []
node.create_subscription(Image, "image_raw", seen.append, qos_profile_sensor_data)
deadline, met = time.monotonic() + 60, False
while time.monotonic() < deadline:
    rclpy.spin_once(node, timeout_sec=0.1)
    publishers = node.count_publishers("image_raw")
    met = met or publishers > 0
    if met and publishers == 0:
        break
print(sum(len(message.data) == 640 * 480 * 3 for message in seen))
"""


def bare_environment() -> dict[str, str]:
    """Return the environment of this process without any choice of a transport."""
    choices = (*USERS_OWN, "RMW_IMPLEMENTATION")
    return {name: value for name, value in os.environ.items() if name not in choices}


def test_profile_is_found_and_is_the_default_one() -> None:
    path = profile_path()
    tree = ElementTree.parse(path)
    texts = {element.tag.rpartition("}")[2]: element.text for element in tree.iter()}
    assert int(texts["segment_size"] or 0) == 32 * 2**20
    assert texts["useBuiltinTransports"] == "false"
    participants = [e for e in tree.iter() if e.tag.endswith("}participant")]
    assert [e.get("is_default_profile") for e in participants] == ["true"]
    defined = [e.text for e in tree.iter() if e.tag.endswith("}transport_id")]
    assert sorted(defined[:2]) == sorted(defined[2:])


def test_profile_is_found_in_an_install_space(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.12" / "site-packages" / "ivf_ros"
    share = tmp_path / "share" / "ivf_ros" / "config"
    site.mkdir(parents=True)
    share.mkdir(parents=True)
    (site / "__init__.py").touch()
    for module in ("compat", "transport"):
        source = Path(sys.modules[f"ivf_ros.{module}"].__file__ or "")
        (site / source.name).write_bytes(source.read_bytes())
    (share / "fastdds.xml").write_bytes(profile_path().read_bytes())
    output = subprocess.run(
        [sys.executable, "-c", "from ivf_ros.transport import *; print(profile_path())"],
        env={**os.environ, "PYTHONPATH": str(site.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(output.stdout.strip()) == (share / "fastdds.xml").resolve()


def test_environment_applies_the_profile() -> None:
    result = environment({"HOME": "/home/robot"})
    assert result == {
        "HOME": "/home/robot",
        **dict.fromkeys(profile_variables(), str(profile_path())),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FASTRTPS_DEFAULT_PROFILES_FILE", "/etc/mine.xml"),
        ("FASTDDS_DEFAULT_PROFILES_FILE", "/etc/mine.xml"),
        ("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
        ("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp"),
    ],
)
def test_environment_keeps_the_choice_of_the_user(name: str, value: str) -> None:
    assert environment({name: value}) == {name: value}
    assert reason_not_applied({name: value}) == f"{name}={value}"


def test_environment_applies_the_profile_if_fast_dds_is_chosen() -> None:
    result = environment({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"})
    assert result[profile_variables()[0]] == str(profile_path())


def test_environment_rejects_a_missing_profile(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.xml"):
        environment({}, tmp_path / "nowhere.xml")


@pytest.mark.dds
def test_images_reach_another_process_under_the_profile() -> None:
    """Count the images that arrive; without the profile it is about one in ten."""
    domain = {**environment(bare_environment()), "ROS_DOMAIN_ID": str(os.getpid() % 90 + 10)}
    subscriber = subprocess.Popen(
        [sys.executable, "-c", SUBSCRIBER], env=domain, stdout=subprocess.PIPE, text=True
    )
    try:
        subprocess.run([sys.executable, "-c", PUBLISHER], env=domain, check=True, timeout=60)
        output, _ = subscriber.communicate(timeout=60)
    finally:
        subscriber.kill()
        subscriber.wait()
    assert int(output) >= 0.95 * FRAMES
