"""Health of both cameras as it is reported, without ROS nodes."""

from __future__ import annotations

import json

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.logging import get_logger

from ivf_ros.health_monitor import HealthMonitor

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SIZE = (48, 64)


def textured(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(90, 110, SIZE, np.uint8).repeat(4, 0).repeat(4, 1)


def monitor() -> tuple[HealthMonitor, list[str]]:
    published: list[str] = []
    return HealthMonitor(get_logger("test"), published.append), published


def test_before_the_first_image() -> None:
    health, _ = monitor()
    level, text, values = health.add_to("rgb", (OK, "receiving", {"topic": "/rgb"}))
    assert (level, text) == (OK, "receiving")
    assert values == {"topic": "/rgb", "health": "not examined yet"}
    assert health.finding("fuse")[:2] == (OK, "both cameras")
    assert json.loads(health.to_json())["thermal"]["severity"] == "ok"


def test_symptoms_add_to_the_findings_and_are_published_on_change() -> None:
    health, published = monitor()
    for k in range(30):
        health.examine("thermal", textured(k), k / 10)
    assert published == []
    for k in range(30, 60):
        health.examine("thermal", np.full(SIZE, 255, np.uint8), k / 10)
    assert len(published) == 1
    report = json.loads(published[0])
    assert report["cameras"] == "both"
    assert [s["name"] for s in report["thermal"]["symptoms"]] == ["saturated"]
    assert report["rgb"]["symptoms"] == []
    assert health.unusable() == {"thermal"}
    level, text, values = health.add_to("thermal", (WARN, "5% lost", {}))
    assert level == ERROR
    assert text.startswith("5% lost; saturated: 100% white (lower exposure")
    assert values["health"] == "saturated"
    assert health.add_to("rgb", (OK, "receiving", {}))[:2] == (OK, "receiving")
    level, text, _ = health.finding("stop")
    assert (level, text) == (WARN, "both cameras are needed: thermal is saturated: 100% white")


def test_cameras_in_use_are_published_on_change() -> None:
    health, published = monitor()
    health.set_cameras("", frozenset())
    assert published == []
    for _ in range(2):
        health.set_cameras("rgb", frozenset({"thermal"}))
    assert len(published) == 1
    report = json.loads(published[0])
    assert report["cameras"] == "rgb only"
    assert report["thermal"]["severity"] == "unusable"
    assert health.finding("fuse")[1] == "single camera: rgb only: thermal is silent"
    health.set_cameras("", frozenset())
    assert json.loads(published[1])["cameras"] == "both"


def test_silent_cameras_are_an_error_where_nothing_comes_out() -> None:
    health, published = monitor()
    health.set_cameras("", frozenset({"thermal"}))
    assert health.finding("stop")[:2] == (ERROR, "both cameras are needed: thermal is silent")
    for alone in ("", "rgb"):
        health.set_cameras(alone, frozenset({"rgb", "thermal"}))
        level, text, _ = health.finding("fuse")
        assert (level, text) == (ERROR, "no camera delivers: rgb is silent, thermal is silent")
    report = json.loads(published[-1])
    assert report["rgb"]["severity"] == report["thermal"]["severity"] == "unusable"
