"""Pictures, folders and videos on disk, and pairs of them."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images import files
from ivf_core.images.files import (
    ImageFileError,
    VideoWriter,
    list_images,
    open_pairs,
    read_infrared,
    read_visible,
    write_image,
)
from ivf_core.system.atomic import atomic_path

DATA = Path(os.environ.get("IVF_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "msrs").is_dir(), reason=f"no shared images at {DATA} (set IVF_DATA)"
)


def _rgb(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4)


def _write_video(path: Path, count: int, rate_hz: float = 20.0, level: int = 0) -> Path:
    with VideoWriter(path, rate_hz, (48, 64)) as video:
        for index in range(count):
            video.write(np.full((48, 64, 3), level + 4 * index, np.uint8))
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".ppm"])
@pytest.mark.parametrize("size", [(37, 53), (1, 1), (48, 64)])
def test_lossless_round_trip(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    image = _rgb(*size)
    path = tmp_path / f"picture{suffix}"
    write_image(path, image)
    np.testing.assert_array_equal(read_visible(path), image)


def test_channel_order_on_disk(tmp_path: Path) -> None:
    write_image(tmp_path / "red.ppm", np.full((1, 1, 3), (255, 0, 0), np.uint8))
    assert (tmp_path / "red.ppm").read_bytes().endswith(b"\xff\x00\x00")


def test_16_bit_and_float_keep_their_depth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 65536, (37, 53)).astype(np.uint16)
    kelvin = rng.normal(295, 5, (37, 53)).astype(np.float32)
    for name, image in (("a.png", counts), ("b.tif", counts), ("c.tiff", kelvin)):
        write_image(tmp_path / name, image)
        again = read_infrared(tmp_path / name)
        assert again.dtype == image.dtype
        np.testing.assert_array_equal(again, image)


def test_grey_thermal_picture_in_three_channels_is_its_luma(tmp_path: Path) -> None:
    gray = _rgb(37, 53)[..., 0]
    write_image(tmp_path / "gray3.png", np.repeat(gray[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_infrared(tmp_path / "gray3.png"), gray)
    with_alpha = np.dstack((gray, gray, gray, np.full_like(gray, 255)))
    cv2.imwrite(str(tmp_path / "gray4.png"), with_alpha)
    np.testing.assert_array_equal(read_infrared(tmp_path / "gray4.png"), gray)


def test_grey_visible_picture_becomes_rgb(tmp_path: Path) -> None:
    gray = _rgb(37, 53)[..., 0]
    write_image(tmp_path / "gray.png", gray)
    np.testing.assert_array_equal(read_visible(tmp_path / "gray.png")[..., 1], gray)


@pytest.mark.parametrize("read", [read_visible, read_infrared])
def test_unreadable_pictures_are_named(tmp_path: Path, read) -> None:
    with pytest.raises(ImageFileError, match=r"nowhere\.png.*no such file"):
        read(tmp_path / "nowhere.png")
    for name, content in (("empty.png", b""), ("text.jpg", b"not a picture")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFileError, match=f"{name}.*damaged or not a picture"):
            read(tmp_path / name)
    with pytest.raises(ImageFileError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_cut_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    write_image(path, _rgb(101, 75))
    read_visible(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageFileError, match="damaged"):
        read_visible(path)


def test_jpeg_with_bytes_after_its_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trailer.jpg"
    write_image(path, _rgb(37, 53))
    image = read_visible(path)
    path.write_bytes(path.read_bytes() + b"maker's note")
    np.testing.assert_array_equal(read_visible(path), image)


def test_thermal_picture_of_other_depth_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "double.tif"), np.zeros((4, 4), np.float64))
    with pytest.raises(ImageFileError, match=r"double\.tif.*float64"):
        read_infrared(tmp_path / "double.tif")


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.xyz", np.zeros((4, 4), np.uint8), r"a\.xyz.*'\.xyz'"),
        ("a", np.zeros((4, 4), np.uint8), "expected .*png"),
        ("a.jpg", np.zeros((4, 4), np.uint16), "uint16 cannot be written to '.jpg'"),
        ("a.png", np.zeros((4, 4), np.float32), "float32 cannot be written"),
        ("a.png", np.zeros((4, 4), np.int64), "int64 cannot be written"),
        ("a.png", np.zeros((4, 4, 2), np.uint8), "shape"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path, name: str, image: np.ndarray, message: str
) -> None:
    with pytest.raises(ImageFileError, match=message):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


def test_atomic_path_keeps_the_old_file_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.png").mkdir()
    assert list(list_images(tmp_path)) == ["a", "b"]
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageFileError, match=r"a\.JPG and a\.png"):
        list_images(tmp_path)
    with pytest.raises(ImageFileError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def test_pair_of_pictures(tmp_path: Path) -> None:
    visible, infrared = _rgb(37, 53), np.full((19, 27), 20_000, np.uint16)
    write_image(tmp_path / "v.png", visible)
    write_image(tmp_path / "i.png", infrared)
    source = open_pairs(tmp_path / "v.png", tmp_path / "i.png")
    (frame,) = source
    assert (source.kind, source.length, source.rate_hz, source.unmatched) == (
        "picture",
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
        write_image(tmp_path / name, _rgb(12, 15, seed=index))
    source = open_pairs(tmp_path / "v", tmp_path / "i")
    assert (source.kind, source.length) == ("folder", 2)
    assert [frame.name for frame in source] == ["1", "2"]
    assert [frame.name for frame in source] == ["1", "2"]  # can be iterated again
    assert sorted(line.split(":")[0] for line in source.unmatched) == [
        str(tmp_path / "i" / "4.png"),
        str(tmp_path / "v" / "3.png"),
    ]


def test_folders_without_a_match_are_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "v" / "a.png", _rgb(4, 4))
    write_image(tmp_path / "i" / "b.png", _rgb(4, 4))
    with pytest.raises(ImageFileError, match=r"\(1 pictures\).*no two have the same name"):
        open_pairs(tmp_path / "v", tmp_path / "i")


def test_damaged_picture_in_a_folder_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "v" / "a.png", _rgb(4, 4))
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "a.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ImageFileError, match=r"i/a\.png.*damaged"):
        list(open_pairs(tmp_path / "v", tmp_path / "i"))


def test_mixed_kinds_are_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "v" / "a.png", _rgb(4, 4))
    with pytest.raises(ImageFileError, match=r"is a folder but .* is a picture"):
        open_pairs(tmp_path / "v", tmp_path / "v" / "a.png")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ImageFileError, match=r"x\.txt.*neither a picture"):
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
    assert source.unmatched == [f"{infrared}: goes on after frame 8, where the other one ends"]


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
    assert any("v.avi: goes on after frame" in line for line in source.unmatched)


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


def test_wrong_frames_and_options_are_refused(tmp_path: Path) -> None:
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
    monkeypatch.setattr(files.cv2.VideoWriter, "fourcc", lambda *_: 0x3F3F3F3F, raising=False)
    with pytest.raises(ImageFileError, match="cannot write MP4"):
        VideoWriter(tmp_path / "out.mp4", 25, (48, 64)).__enter__()
    assert not list(tmp_path.iterdir())


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
