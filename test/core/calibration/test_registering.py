"""`ivf register` on folders, bags and videos."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from shaken_scenes import ShakenScene, pairs, pattern, thermal_view

from ivf_core.bags.writer import BagWriter
from ivf_core.calibration.recordings import nearest_pairs, open_recording
from ivf_core.cli import main
from ivf_core.images.files import write_image
from ivf_core.images.registration import Registration
from ivf_core.images.videos import VideoWriter
from ivf_core.rigs.rig import Rig
from ivf_core.rigs.rig_files import read_rig, write_rig

KNOWN = np.array([[2.1, 0.03, -6.0], [-0.02, 2.0, 4.0], [0.0, 0.0, 1.0]])
THERMAL = (160, 120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs")
    for number, (rgb, thermal) in enumerate(pairs(KNOWN, THERMAL, 4)):
        write_image(path / f"visible/{number}.png", rgb)
        write_image(path / f"infrared/{number}.png", thermal)
    return path


def run(*words: object) -> int:
    return main([str(word) for word in words])


def corners(matrix: object) -> np.ndarray:
    points = np.array([[[10, 10], [150, 10], [10, 110], [150, 110], [80, 60]]], np.float64)
    return cv2.perspectiveTransform(points, np.reshape(matrix, (3, 3)))[0]


def test_folder_of_pairs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert run("register", folder, "--output", output) == 0
    rig = read_rig(output / "rig.yaml")
    assert (rig.rgb_size, rig.thermal_size) == ((320, 240), THERMAL)
    assert np.abs(corners(rig.homography.homography) - corners(KNOWN)).mean() < 1.5
    summary = json.loads((output / "summary.json").read_text())
    assert summary["outputs"] == ["index.html", "rig.yaml", "summary.json"]
    assert summary["confidence"] > 0.5
    assert summary["holdout_error_pixels"] < 3
    page = (output / "index.html").read_text()
    assert page.count("data:image/jpeg") == 4 * 7  # two of them blink
    assert "4 pairs, confidence" in capsys.readouterr().out


def test_rig_is_refined(folder: Path, tmp_path: Path) -> None:
    off = KNOWN + np.array([[0, 0, 8], [0, 0, -6], [0, 0, 0]])
    write_rig(
        Rig(homography=Registration(tuple(off.ravel()), THERMAL, (320, 240))),
        tmp_path / "old.yaml",
    )
    output = tmp_path / "out"
    assert run("register", folder, "--rig", tmp_path / "old.yaml", "--output", output) == 0
    found = read_rig(output / "rig.yaml").homography.homography
    assert np.abs(corners(found) - corners(KNOWN)).mean() < 1.5


def test_unsure_result_is_not_written_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):  # two cameras in two places
        rgb = np.repeat(pattern(seed)[..., None], 3, axis=2)
        write_image(tmp_path / f"rgb/{seed}.png", rgb)
        thermal = thermal_view(pattern(70 + seed), KNOWN, THERMAL, seed)
        write_image(tmp_path / f"thermal/{seed}.png", thermal)
    sources = (tmp_path / "rgb", tmp_path / "thermal")
    output = tmp_path / "out"
    assert run("register", *sources, "--output", output) == 3
    assert not (output / "rig.yaml").exists()
    assert "No rig file was written" in (output / "index.html").read_text()
    assert "below 0.5" in capsys.readouterr().err
    assert run("register", *sources, "--output", output, "--write-unsure") == 0
    assert (output / "rig.yaml").is_file()


def test_bag_and_videos_with_a_time_offset(tmp_path: Path) -> None:
    scene, offset = ShakenScene(6), 0.06
    times = np.arange(0, 6, 1 / 15)
    with BagWriter(tmp_path / "drive") as bag:
        for t in times:
            bag.write_image("/rgb/image_raw", round(1e18 + t * 1e9), scene.rgb(t), "rgb8", "rgb")
            bag.write_image(
                "/thermal/image_raw",
                round(1e18 + t * 1e9),
                scene.thermal(t + offset),
                "mono8",
                "ir",
            )
    with VideoWriter(tmp_path / "rgb.mp4", 15, (240, 320)) as video:
        for t in times:
            video.write(scene.rgb(t))
    with VideoWriter(tmp_path / "ir.mp4", 15, (120, 160)) as video:
        for t in times:
            video.write(np.repeat(scene.thermal(t + offset)[..., None], 3, axis=2))
    for sources in ((tmp_path / "drive",), (tmp_path / "rgb.mp4", tmp_path / "ir.mp4")):
        output = tmp_path / f"out{len(sources)}"
        assert run("register", *sources, "--output", output, "--pairs", 2) == 0
        rig = read_rig(output / "rig.yaml")
        assert abs(rig.time_offset_seconds - offset) < 0.005
        found = corners(rig.homography.homography)[:, 0].mean()
        assert found == pytest.approx(48 + 1.4 * 80, abs=2)


def test_foreign_files_are_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rig.yaml").write_text("mine")
    assert run("register", folder, "--output", tmp_path) == 1
    assert (tmp_path / "rig.yaml").read_text() == "mine"
    assert run("register", folder, "--output", folder) == 1


def test_nearest_pairs() -> None:
    rgb = np.array([0.0, 0.1, 0.2, 0.3])
    assert nearest_pairs(rgb, np.array([0.09, 0.12, 0.31, 0.9]), 0.05) == [(1, 0), (3, 2)]
    assert nearest_pairs(rgb, np.array([]), 0.05) == []
    assert nearest_pairs(np.array([0.5]), np.array([0.5]), 0.05) == [(0, 0)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("missing",), "no such file"),
        (("visible", "rgb.mp4"), "two folders of images or two videos"),
        (("visible", "empty"), "no two have the same name"),
    ],
)
def test_unusable_sources_are_named(
    folder: Path, tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    (tmp_path / "visible").symlink_to(folder / "visible")
    (tmp_path / "empty").mkdir()
    (tmp_path / "rgb.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        open_recording([tmp_path / name for name in names])
