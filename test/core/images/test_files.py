"""Tests of image files: reading, writing and listing."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from ivf_core.images.files import (
    ImageFileError,
    list_images,
    read_infrared,
    read_labels,
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


def tiff(images: list[dict[int, int]], data: bytes) -> bytes:
    """Write a TIFF of one strip of pixels that all its directories share."""
    content = bytearray(b"II*\0\0\0\0\0" + data)
    link = 4
    for tags in images:
        at = len(content)
        content[link : link + 4] = at.to_bytes(4, "little")
        entries = {**tags, 273: 8, 279: len(data)}
        content += len(entries).to_bytes(2, "little")
        for tag, value in sorted(entries.items()):
            content += struct.pack("<HHII", tag, 4, 1, value)
        link = len(content)
        content += bytes(4)
    return bytes(content)


def grey(bits: int, kind: int = 1, **more: int) -> dict[int, int]:
    tags = {256: 4, 257: 3, 258: bits, 259: 1, 262: 1, 277: 1, 278: 3, 339: kind}
    return tags | {int(tag[1:]): value for tag, value in more.items()}


class TestKindsOfTiff:
    def test_several_pages_are_an_error_and_each_saved_as_a_file_is_read(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "stack.tif"
        pages = [np.full((5, 6), level, np.uint16) for level in (1000, 2000, 3000)]
        cv2.imwritemulti(str(path), pages)
        for read in (read_infrared, read_visible, read_labels):
            with pytest.raises(ImageFileError, match=r"stack\.tif.*holds 3 images .*as a file"):
                read(path)
        for number, page in enumerate(pages):
            write_image(tmp_path / "pages" / f"{number}.png", page)
        found = [read_infrared(file) for file in list_images(tmp_path / "pages").values()]
        np.testing.assert_array_equal(found, pages)

    def test_thumbnail_is_no_page(self, tmp_path: Path) -> None:
        data = bytes(range(12))
        (tmp_path / "a.tif").write_bytes(tiff([grey(8), grey(8, _254=1)], data))
        assert read_infrared(tmp_path / "a.tif").tobytes() == data

    @pytest.mark.parametrize(
        ("bits", "kind", "words"), [(16, 3, "16-bit float"), (24, 3, "24-bit float")]
    )
    def test_pixels_that_cannot_be_decoded_are_named(
        self, tmp_path: Path, bits: int, kind: int, words: str
    ) -> None:
        (tmp_path / "a.tif").write_bytes(tiff([grey(bits, kind)], bytes(12 * bits // 8)))
        with pytest.raises(ImageFileError, match=f"a.tif': its pixels are {words}, .*expected"):
            read_infrared(tmp_path / "a.tif")

    def test_signed_pixels_are_read_as_float(self, tmp_path: Path) -> None:
        values = np.arange(-6, 6, dtype="<i2").reshape(3, 4)
        (tmp_path / "a.tif").write_bytes(tiff([grey(16, 2)], values.tobytes()))
        image = read_infrared(tmp_path / "a.tif")
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, values)

    def test_float_colours_are_no_visible_image(self, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((4, 4, 3), np.float32))
        with pytest.raises(ImageFileError, match=r"32-bit float, .*expected 8 or 16 bit"):
            read_visible(tmp_path / "a.tif")


def test_animations_are_an_error(tmp_path: Path) -> None:
    _, encoded = cv2.imencode(".png", np.zeros((4, 5), np.uint8))
    data = encoded.tobytes()
    body = b"acTL" + struct.pack(">II", 7, 0)
    chunk = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(ImageFileError, match=r"holds 7 images \(pages, or frames"):
        read_infrared(tmp_path / "a.png")
    frames = b"".join(struct.pack("<4sI", b"ANMF", 4) + bytes(4) for _ in range(3))
    head = b"RIFF" + struct.pack("<I", 4 + len(frames)) + b"WEBP"
    (tmp_path / "a.webp").write_bytes(head + frames)
    with pytest.raises(ImageFileError, match="holds 3 images"):
        read_visible(tmp_path / "a.webp")


def test_images_over_the_limit_of_the_decoder(tmp_path: Path) -> None:
    _, encoded = cv2.imencode(".png", np.zeros((4, 5), np.uint8))
    data = bytearray(encoded.tobytes())
    data[16:24] = struct.pack(">II", 40_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageFileError, match="40000 x 30000 pixels, expected at most 1073741824"):
        read_infrared(tmp_path / "a.png")
    _, encoded = cv2.imencode(".jpg", np.zeros((40, 50, 3), np.uint8))
    data = bytearray(encoded.tobytes())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", 65_000, 65_000)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageFileError, match="more pixels than OpenCV decodes"):
        read_visible(tmp_path / "a.jpg")


def test_false_colours_of_a_thermal_image_are_said_once_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (20, 1))
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO))
    cv2.imwrite(str(tmp_path / "grey.jpg"), cv2.cvtColor(ramp, cv2.COLOR_GRAY2BGR))
    read_infrared(tmp_path / "grey.jpg")
    assert not caplog.records
    for name in ("a", "b"):
        read_infrared(tmp_path / f"{name}.png")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"thermal image '{tmp_path / 'a.png'}'"
    ]
