"""Tests of image files: reading, writing and listing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images.files import (
    ImageFileError,
    list_images,
    read_infrared,
    read_visible,
    write_image,
)


def _rgb(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".ppm"])
@pytest.mark.parametrize("size", [(37, 53), (1, 1), (48, 64)])
def test_lossless_round_trip(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    image = _rgb(*size)
    path = tmp_path / f"image{suffix}"
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


def test_grey_thermal_image_in_three_channels_is_its_luma(tmp_path: Path) -> None:
    gray = _rgb(37, 53)[..., 0]
    write_image(tmp_path / "gray3.png", np.repeat(gray[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_infrared(tmp_path / "gray3.png"), gray)
    with_alpha = np.dstack((gray, gray, gray, np.full_like(gray, 255)))
    cv2.imwrite(str(tmp_path / "gray4.png"), with_alpha)
    np.testing.assert_array_equal(read_infrared(tmp_path / "gray4.png"), gray)


def test_grey_visible_image_becomes_rgb(tmp_path: Path) -> None:
    gray = _rgb(37, 53)[..., 0]
    write_image(tmp_path / "gray.png", gray)
    np.testing.assert_array_equal(read_visible(tmp_path / "gray.png")[..., 1], gray)


@pytest.mark.parametrize("read", [read_visible, read_infrared])
def test_unreadable_images_are_named(tmp_path: Path, read) -> None:
    with pytest.raises(ImageFileError, match=r"nowhere\.png.*no such file"):
        read(tmp_path / "nowhere.png")
    for name, content in (("empty.png", b""), ("text.jpg", b"not an image")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFileError, match=f"{name}.*damaged or not an image"):
            read(tmp_path / name)
    with pytest.raises(ImageFileError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files_are_rejected(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"truncated{suffix}"
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


def test_thermal_image_of_other_depth_is_rejected(tmp_path: Path) -> None:
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
def test_image_that_the_format_cannot_hold_is_rejected(
    tmp_path: Path, name: str, image: np.ndarray, message: str
) -> None:
    with pytest.raises(ImageFileError, match=message):
        write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


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
