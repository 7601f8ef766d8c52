"""Tests of pairs of images, folders and videos as one sequence."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images.files import ImageFileError, write_image
from ivf_core.images.pair_sources import open_pairs
from ivf_core.images.videos import VideoWriter

DATA = Path(os.environ.get("IVF_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "msrs").is_dir(), reason=f"no MSRS pairs at {DATA} (set IVF_DATA)"
)


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _write_video(path: Path, count: int, rate_hz: float = 20.0, level: int = 0) -> Path:
    with VideoWriter(path, rate_hz, (48, 64)) as video:
        for index in range(count):
            video.write(np.full((48, 64, 3), level + 4 * index, np.uint8))
    return path


def test_pair_of_images(tmp_path: Path) -> None:
    visible, infrared = _noise(37, 53), np.full((19, 27), 20_000, np.uint16)
    write_image(tmp_path / "v.png", visible)
    write_image(tmp_path / "i.png", infrared)
    source = open_pairs(tmp_path / "v.png", tmp_path / "i.png")
    (frame,) = source
    assert (source.kind, source.length, source.rate_hz, source.unmatched) == (
        "image",
        1,
        None,
        [],
    )
    assert (frame.name, frame.seconds) == ("v", None)
    np.testing.assert_array_equal(frame.visible, visible)
    np.testing.assert_array_equal(frame.infrared, infrared)


def test_folders_match_by_stem_and_report_the_rest(tmp_path: Path) -> None:
    for index, name in enumerate(
        ("v/2.png", "v/1.jpg", "v/3.png", "i/1.png", "i/2.png", "i/4.png")
    ):
        write_image(tmp_path / name, _noise(12, 15, seed=index))
    source = open_pairs(tmp_path / "v", tmp_path / "i")
    assert (source.kind, source.length) == ("folder", 2)
    assert [frame.name for frame in source] == ["1", "2"]
    assert [frame.name for frame in source] == ["1", "2"]  # can be iterated again
    assert sorted(line.split(":")[0] for line in source.unmatched) == [
        str(tmp_path / "i" / "4.png"),
        str(tmp_path / "v" / "3.png"),
    ]


def test_folders_without_a_match_are_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "v" / "a.png", _noise(4, 4))
    write_image(tmp_path / "i" / "b.png", _noise(4, 4))
    with pytest.raises(ImageFileError, match=r"\(1 images\).*no two have the same name"):
        open_pairs(tmp_path / "v", tmp_path / "i")


def test_damaged_image_in_a_folder_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "v" / "a.png", _noise(4, 4))
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "a.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ImageFileError, match=r"i/a\.png.*damaged"):
        list(open_pairs(tmp_path / "v", tmp_path / "i"))


def test_mixed_kinds_are_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "v" / "a.png", _noise(4, 4))
    with pytest.raises(ImageFileError, match=r"folder .* and image"):
        open_pairs(tmp_path / "v", tmp_path / "v" / "a.png")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ImageFileError, match=r"x\.txt.*neither an image"):
        open_pairs(tmp_path / "x.txt", tmp_path / "x.txt")
    with pytest.raises(ImageFileError, match="no such file or folder"):
        open_pairs(tmp_path / "nowhere", tmp_path / "v")


def test_pair_of_videos(tmp_path: Path) -> None:
    visible = _write_video(tmp_path / "v.mp4", 20, level=20)
    infrared = _write_video(tmp_path / "i.mp4", 20, level=100)
    source = open_pairs(visible, infrared)
    assert (source.kind, source.length, source.rate_hz) == ("video", 20, pytest.approx(20))
    for _ in range(2):
        frames = list(source)
        assert len(frames) == 20
        assert source.unmatched == []
    assert [frame.name for frame in frames[:2]] == ["000000", "000001"]
    for index, frame in enumerate(frames):
        assert frame.seconds == pytest.approx(index / 20)
        assert frame.visible.shape == (48, 64, 3)
        assert frame.infrared.shape == (48, 64)
        assert frame.visible.mean() == pytest.approx(20 + 4 * index, abs=4)
        assert frame.infrared.mean() == pytest.approx(100 + 4 * index, abs=4)


def test_longer_video_is_reported(tmp_path: Path) -> None:
    visible = _write_video(tmp_path / "v.mp4", 8)
    infrared = _write_video(tmp_path / "i.mp4", 12)
    source = open_pairs(visible, infrared)
    assert source.length == 8
    assert len(list(source)) == 8
    assert source.unmatched == [f"{infrared}: continues after frame 8, where the other one ends"]


def test_video_that_ends_before_what_it_announces_is_reported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("v.avi", "i.avi"):
        writer = cv2.VideoWriter(
            str(tmp_path / name), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48)
        )
        if not writer.isOpened():
            pytest.skip("this OpenCV cannot write MJPG")
        for _ in range(20):
            writer.write(rng.integers(0, 256, (48, 64, 3)).astype(np.uint8))
        writer.release()
    data = (tmp_path / "i.avi").read_bytes()
    (tmp_path / "i.avi").write_bytes(data[: len(data) // 2])
    source = open_pairs(tmp_path / "v.avi", tmp_path / "i.avi")
    count = len(list(source))
    assert 0 < count < 20
    assert any("v.avi: continues after frame" in line for line in source.unmatched)


def test_different_frame_rates_are_an_error(tmp_path: Path) -> None:
    visible = _write_video(tmp_path / "v.mp4", 4, rate_hz=30)
    infrared = _write_video(tmp_path / "i.mp4", 4, rate_hz=9)
    with pytest.raises(ImageFileError, match=r"30 frames a second but .* 9"):
        open_pairs(visible, infrared)


def test_damaged_video_is_named(tmp_path: Path) -> None:
    visible = _write_video(tmp_path / "v.mp4", 4)
    (tmp_path / "i.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(ImageFileError, match=r"i\.mp4.*damaged"):
        open_pairs(visible, tmp_path / "i.mp4")


@needs_data
@pytest.mark.data
def test_real_folders() -> None:
    source = open_pairs(DATA / "msrs" / "visible", DATA / "msrs" / "infrared")
    assert source.length == 280
    assert source.unmatched == []
    frame = next(iter(source))
    assert frame.visible.shape == (480, 640, 3)
    assert frame.infrared.shape == (480, 640)
    assert frame.infrared.std() > 5


@needs_data
@pytest.mark.data
def test_real_videos() -> None:
    folder = DATA / "m3svd"
    source = open_pairs(folder / "0111_1716_visible.mp4", folder / "0111_1716_infrared.mp4")
    assert source.rate_hz == pytest.approx(30)
    frames = iter(source)
    shown = [next(frames) for _ in range(3)]
    frames.close()
    assert [frame.seconds for frame in shown] == pytest.approx([0, 1 / 30, 2 / 30])
    assert shown[0].visible.shape == (480, 640, 3)
    assert shown[0].infrared.dtype == np.uint8


def _write_matroska(path: Path, times_ms: list[int], levels: list[int], deep: bool) -> None:
    """Write frames of one level each with their own times: uncompressed, in Matroska."""

    def element(identity: str, content: bytes) -> bytes:
        return bytes.fromhex(identity) + (len(content) | 1 << 56).to_bytes(8, "big") + content

    def number(identity: str, value: int) -> bytes:
        return element(identity, value.to_bytes(4, "big"))

    code = b"Y1\x00\x10" if deep else b"Y800"
    header = element(
        "1a45dfa3",
        number("4286", 1) + number("42f7", 1) + number("42f2", 4) + number("42f3", 8)
        + element("4282", b"matroska") + number("4287", 4) + number("4285", 2),
    )  # fmt: skip
    video = element("e0", number("b0", 64) + number("ba", 48) + element("2eb524", code))
    track = element(
        "ae",
        number("d7", 1) + number("73c5", 1) + number("83", 1)
        + element("86", b"V_UNCOMPRESSED") + video,
    )  # fmt: skip
    info = element("1549a966", number("2ad7b1", 1_000_000))
    blocks = b"".join(
        element(
            "a3",
            b"\x81" + at.to_bytes(2, "big") + b"\x80"
            + np.full((48, 64), level, np.uint16 if deep else np.uint8).tobytes(),
        )
        for at, level in zip(times_ms, levels, strict=True)
    )  # fmt: skip
    cluster = element("1f43b675", number("e7", 0) + blocks)
    path.write_bytes(header + element("18538067", info + element("1654ae6b", track) + cluster))


def test_videos_without_a_constant_rate_are_paired_by_their_times(tmp_path: Path) -> None:
    visible = [0, 40, 61, 105, 131, 166, 210, 300, 333, 370]
    infrared = [0, 40, 105, 131, 166, 208, 250, 303, 333]  # lacks the third, has one more
    _write_matroska(tmp_path / "v.mkv", visible, list(range(10)), False)
    _write_matroska(tmp_path / "i.mkv", infrared, list(range(100, 109)), False)
    source = open_pairs(tmp_path / "v.mkv", tmp_path / "i.mkv")
    assert not source.constant_rate
    assert source.length is None
    assert source.rate_hz == pytest.approx(8 / 0.333, rel=0.05)
    frames = list(source)
    assert [round(frame.seconds * 1e3) for frame in frames] == [
        0, 40, 105, 131, 166, 210, 300, 333,
    ]  # fmt: skip
    assert [round(frame.infrared_seconds * 1e3) for frame in frames] == [
        0, 40, 105, 131, 166, 208, 303, 333,
    ]  # fmt: skip
    assert [int(frame.infrared[0, 0]) for frame in frames] == [
        100, 101, 102, 103, 104, 105, 107, 108,
    ]  # fmt: skip
    assert any("v.mkv: 1 frames have no partner" in line for line in source.unmatched)
    assert any("i.mkv: 1 frames have no partner" in line for line in source.unmatched)


def test_depth_of_a_thermal_video_is_kept(tmp_path: Path) -> None:
    times = [0, 33, 67, 100, 133]
    levels = [29_500, 29_501, 29_502, 29_900, 7]
    _write_matroska(tmp_path / "i.mkv", times, levels, True)
    _write_matroska(tmp_path / "v.mkv", times, [1, 2, 3, 4, 5], False)
    frames = list(open_pairs(tmp_path / "v.mkv", tmp_path / "i.mkv"))
    assert [frame.infrared.dtype for frame in frames] == [np.uint16] * 5
    assert [int(frame.infrared[3, 4]) for frame in frames] == levels


@pytest.mark.parametrize("name", ["2024-01-01T12:30:05.v.mp4", "a%02d.mp4", "#?.mp4", "-x.mp4"])
def test_any_name_of_a_video(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write_video(Path(name), 5)
    assert len(list(open_pairs(Path(name), Path(name)))) == 5
