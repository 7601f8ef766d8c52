"""Tests of the video writer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images import videos
from ivf_core.images.files import ImageFileError
from ivf_core.images.videos import VideoWriter


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (47, 63)])
def test_written_video_holds_colour_and_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), (200, 60, 30), np.uint8)
    with VideoWriter(tmp_path / "new" / "out.mp4", 25, size) as video:
        for _ in range(5):
            video.write(image)
        assert not (tmp_path / "new" / "out.mp4").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "new" / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    frame = capture.read()[1][..., ::-1]
    assert frame.shape == (48, 64, 3)
    assert np.abs(frame.reshape(-1, 3).mean(axis=0) - (200, 60, 30)).max() < 6
    assert np.abs(frame[-1, -1].astype(int) - (200, 60, 30)).max() < 12  # padding repeats


def test_interrupted_video_leaves_nothing(tmp_path: Path) -> None:
    video = VideoWriter(tmp_path / "out.mp4", 25, (48, 64))
    with pytest.raises(RuntimeError, match="stop"), video:  # noqa: PT012
        video.write(np.zeros((48, 64, 3), np.uint8))
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ImageFileError, match="is not open"):
        video.write(np.zeros((48, 64, 3), np.uint8))


def test_video_without_frames_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ImageFileError, match="no frames"),
        VideoWriter(tmp_path / "out.mp4", 25, (48, 64)),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_wrong_frames_and_options_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"\.mp4"):
        VideoWriter(tmp_path / "out.gif", 25, (48, 64))
    with pytest.raises(ImageFileError, match="rate_hz"):
        VideoWriter(tmp_path / "out.mp4", 0, (48, 64))
    with pytest.raises(ImageFileError, match="size"):
        VideoWriter(tmp_path / "out.mp4", 25, (0, 64))
    with VideoWriter(tmp_path / "out.mp4", 25, (48, 64)) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))
        with pytest.raises(ImageFileError, match=r"frame is \(64, 48, 3\)"):
            video.write(np.zeros((64, 48, 3), np.uint8))


def test_missing_codec_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # "????" is no codec: OpenCV answers as it does where MPEG-4 is not built in.
    monkeypatch.setattr(videos.cv2.VideoWriter, "fourcc", lambda *_: 0x3F3F3F3F, raising=False)
    with pytest.raises(ImageFileError, match="cannot write MP4"):
        VideoWriter(tmp_path / "out.mp4", 25, (48, 64)).__enter__()
    assert not list(tmp_path.iterdir())
