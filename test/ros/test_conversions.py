from __future__ import annotations

import array
import struct
import warnings
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs", reason="ROS 2's sensor_msgs is not installed")

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from ivf_ros.conversions import (
    INFRARED_ENCODINGS,
    VISIBLE_ENCODINGS,
    MessageError,
    shrink_camera_info,
    to_image,
    to_infrared,
    to_visible,
)

BAYER_TILES = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


def image(encoding, data, height, width, step, is_bigendian=0):
    message = Image(encoding=encoding, height=height, width=width, step=step)
    message.is_bigendian = is_bigendian
    message.data = array.array("B", bytes(data))
    return message


def pack(pixels, encoding, *, padding=0, big_endian=False):
    """Make a message with `padding` bytes of 0xEE after every row."""
    pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = [row.tobytes() + b"\xee" * padding for row in pixels]
    return image(encoding, b"".join(rows), *pixels.shape[:2], len(rows[0]), int(big_endian))


def compressed(pixels, extension, format_):
    ok, data = cv2.imencode(extension, pixels)
    assert ok
    return CompressedImage(format=format_, data=data.tobytes())


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth_rgb(height=40, width=48):
    """Make an image of three different ramps, which demosaicking restores well."""
    y, x = np.mgrid[:height, :width]
    return np.dstack((40 + 3 * x, 60 + 2 * y, 200 - 2 * x)).astype(np.uint8)


def mosaic(rgb, tile):
    """Return the record of a sensor with this 2 x 2 tile of filters, by rows."""
    raw = np.empty(rgb.shape[:2], rgb.dtype)
    for index, name in enumerate(tile):
        y, x = divmod(index, 2)
        raw[y::2, x::2] = rgb[y::2, x::2, "RGB".index(name)]
    return raw


# Visible


@pytest.mark.parametrize("padding", [0, 1, 5, 16])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", [0, 1, 2]),
        ("bgr8", [2, 1, 0]),
        ("8UC3", [2, 1, 0]),
        ("rgba8", [0, 1, 2]),
        ("bgra8", [2, 1, 0]),
        ("8UC4", [2, 1, 0]),
        ("mono8", None),
        ("8UC1", None),
    ],
)
def test_visible_8_bit_encodings(encoding, order, padding):
    channels = 1 if order is None else 4 if "4" in encoding or "a" in encoding else 3
    pixels = noise(5, 7, channels)
    rgb = to_visible(pack(pixels, encoding, padding=padding))
    expected = pixels[..., order] if order else np.repeat(pixels, 3, axis=2)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0]), ("bgra16", [2, 1, 0]), ("16UC3", [2, 1, 0])],
)
def test_visible_16_bit_colour_is_scaled(encoding, order, big_endian, padding):
    pixels = noise(4, 6, 4 if "a" in encoding else 3, dtype=np.uint16)
    rgb = to_visible(pack(pixels, encoding, padding=padding, big_endian=big_endian))
    np.testing.assert_array_equal(rgb, np.round(pixels[..., order] / 257).astype(np.uint8))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_visible_16_bit_grey_by_hand(encoding):
    data = struct.pack(">4H", 0, 257, 0x8000, 0xFFFF)
    rgb = to_visible(image(encoding, data, 2, 2, 4, is_bigendian=1))
    np.testing.assert_array_equal(rgb[..., 0], [[0, 1], [128, 255]])
    np.testing.assert_array_equal(rgb[..., 0], rgb[..., 2])


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", BAYER_TILES)
def test_bayer_patterns_restore_the_image(pattern, bits, big_endian):
    rgb = smooth_rgb()
    raw = mosaic(rgb, BAYER_TILES[pattern]).astype(f"uint{bits}")
    if bits == 16:
        raw *= 257
    message = pack(raw, f"bayer_{pattern}{bits}", padding=4, big_endian=big_endian)
    restored = to_visible(message).astype(int)[2:-2, 2:-2]
    assert np.abs(restored - rgb[2:-2, 2:-2]).max() <= 3


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
def test_yuv422_by_hand(encoding, order):
    # Studio-range BT.601: red is Y 81, U 90, V 240 and blue Y 41, U 240, V 110.
    red, blue = {"Y": 81, "U": 90, "V": 240}, {"Y": 41, "U": 240, "V": 110}
    data = bytes(color[name] for color in (red, blue) for name in order) + b"\xee" * 3
    message = image(encoding, data * 2, 2, 4, 11)
    rgb = to_visible(message).astype(int)
    expected = np.array([[255, 0, 0]] * 2 + [[0, 0, 255]] * 2)
    assert np.abs(rgb - expected).max() <= 3
    np.testing.assert_array_equal(to_infrared(message), [[81, 81, 41, 41]] * 2)


def test_rgb8_is_not_copied():
    message = pack(noise(4, 4, 3), "rgb8")
    assert np.shares_memory(to_visible(message), np.frombuffer(message.data, np.uint8))


def test_last_row_may_lack_its_padding():
    pixels = noise(3, 4, 3)
    message = pack(pixels, "rgb8", padding=8)
    message.data = message.data[:-8]
    np.testing.assert_array_equal(to_visible(message), pixels)


@pytest.mark.parametrize("container", [bytes, np.array], ids=["bytes", "numpy"])
def test_data_of_other_readers(container):
    class Message:  # as `rosbags` deserialises: other classes, data as a NumPy array
        encoding, height, width, step, is_bigendian = "bgr8", 2, 2, 6, False
        data = container(bytearray(range(12)))

    np.testing.assert_array_equal(to_visible(Message()), np.arange(12).reshape(2, 2, 3)[..., ::-1])


@pytest.mark.parametrize("encoding", VISIBLE_ENCODINGS)
def test_agrees_with_rosbags_image(encoding):
    rosbags_image = pytest.importorskip("rosbags.image", reason="rosbags-image is not installed")
    message = _plain_message(encoding)
    try:
        expected = rosbags_image.message_to_cvimage(message, "rgb8")
    except rosbags_image.ImageConversionError:
        pytest.skip(f"rosbags-image does not convert {encoding}")
    _assert_same_image(to_visible(message), expected, encoding)


@pytest.mark.parametrize("encoding", VISIBLE_ENCODINGS)
def test_agrees_with_cv_bridge(encoding):
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    message = _plain_message(encoding)
    try:
        expected = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
    except cv_bridge.CvBridgeError:
        pytest.skip(f"cv_bridge does not convert {encoding}")
    _assert_same_image(to_visible(message), expected, encoding)


def _plain_message(encoding):
    """Make a message without padding, in little endian, which every reader understands."""
    dtype = np.uint16 if "16" in encoding else np.uint8
    channels = next((n for key, n in (("C4", 4), ("C3", 3)) if key in encoding), 1)
    if encoding.startswith(("rgb", "bgr")):
        channels = 4 if "a" in encoding else 3
    elif encoding.startswith(("yu", "uy")):
        channels = 2
    return pack(noise(6, 8, channels, dtype=dtype), encoding)


def _assert_same_image(rgb, expected, encoding):
    if "UC" in encoding and expected.ndim == 3:  # left in BGR by readers that only cast
        expected = expected[..., 2::-1]
    if expected.ndim == 2:
        expected = np.dstack([expected] * 3)
    assert np.abs(rgb.astype(int) - expected.astype(int)).max() <= ("16" in encoding)


# Infrared


@pytest.mark.parametrize("padding", [0, 2, 3])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [("mono8", "uint8"), ("8UC1", "uint8"), ("mono16", "uint16"), ("16UC1", "uint16")],
)
def test_infrared_counts_as_sent(encoding, dtype, big_endian, padding):
    pixels = noise(5, 6, dtype=np.dtype(dtype))
    counts = to_infrared(pack(pixels, encoding, padding=padding, big_endian=big_endian))
    assert counts.dtype == np.dtype(dtype)
    assert counts.dtype.isnative
    assert counts.flags.c_contiguous
    np.testing.assert_array_equal(counts, pixels)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("big_endian", [False, True])
def test_infrared_floats_keep_values_that_are_not_finite(big_endian, padding):
    pixels = np.array([[-40.5, np.nan], [np.inf, 1e-3], [300, 0]], np.float32)
    values = to_infrared(pack(pixels, "32FC1", padding=padding, big_endian=big_endian))
    assert values.dtype == np.float32
    assert values.dtype.isnative
    np.testing.assert_array_equal(values, pixels)


def test_infrared_signed_counts_become_exact_floats():
    pixels = np.array([[-32768, -1], [0, 32767]], np.int16)
    values = to_infrared(pack(pixels, "16SC1", big_endian=True))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["rgb", "bgr", "rgba", "bgra"])
def test_grey_sent_as_colour_is_exact(name, dtype):
    grey = noise(16, 16, dtype=dtype)
    pixels = np.repeat(grey[..., None], len(name), axis=2)
    message = pack(pixels, f"{name}{8 * grey.itemsize}", padding=2)
    np.testing.assert_array_equal(to_infrared(message), grey)


def test_infrared_luma_tells_red_from_blue():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert to_infrared(pack(red, "rgb8"))[0, 0] == 76
    assert to_infrared(pack(red, "bgr8"))[0, 0] == 29


def test_counts_are_not_copied():
    message = pack(noise(4, 4, dtype=np.uint16), "mono16")
    assert np.shares_memory(to_infrared(message), np.frombuffer(message.data, np.uint8))


# Compressed


@pytest.mark.parametrize(
    ("extension", "format_"),
    [
        (".png", "png"),
        (".png", ""),
        (".png", "rgb8; png compressed bgr8"),
        (".png", "bgr8; png compressed bgr8"),
        (".png", "bgr8; png compressed "),
        (".tiff", "bgr8; tiff compressed "),
    ],
)
def test_lossless_images_are_decoded_to_rgb(extension, format_):
    rgb = noise(6, 9, 3)
    message = compressed(rgb[..., ::-1], extension, format_)
    decoded = to_visible(message)
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, rgb)


@pytest.mark.parametrize(
    ("extension", "format_"),
    [(".png", "bgr8; png compressed rgb8"), (".tiff", "rgb8; tiff compressed ")],
)
def test_codecs_that_received_rgb(extension, format_):
    rgb = noise(6, 9, 3)
    np.testing.assert_array_equal(to_visible(compressed(rgb, extension, format_)), rgb)


@pytest.mark.parametrize("format_", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg"])
def test_jpeg(format_):
    rgb = smooth_rgb()
    decoded = to_visible(compressed(rgb[..., ::-1], ".jpg", format_))
    assert np.abs(decoded.astype(int) - rgb).mean() < 2


def test_png_with_alpha_16_bits_and_grey():
    bgra = noise(5, 5, 4)
    np.testing.assert_array_equal(to_visible(compressed(bgra, ".png", "png")), bgra[..., [2, 1, 0]])
    bgr = noise(5, 5, 3, dtype=np.uint16)
    np.testing.assert_array_equal(
        to_visible(compressed(bgr, ".png", "rgb16; png compressed bgr16")),
        np.round(bgr[..., ::-1] / 257).astype(np.uint8),
    )
    grey = noise(5, 5)
    np.testing.assert_array_equal(
        to_visible(compressed(grey, ".png", "mono8; png compressed "))[..., 1], grey
    )


@pytest.mark.parametrize("pattern", BAYER_TILES)
def test_mosaics_in_png_are_restored_and_grey_jpeg_is_not(pattern):
    rgb = smooth_rgb()
    raw = mosaic(rgb, BAYER_TILES[pattern])
    restored = to_visible(compressed(raw, ".png", f"bayer_{pattern}8; png compressed "))
    assert np.abs(restored.astype(int) - rgb)[2:-2, 2:-2].max() <= 3
    grey = rgb[..., 1]
    decoded = to_visible(compressed(grey, ".jpg", f"bayer_{pattern}8; jpeg compressed mono8"))
    assert np.abs(decoded.astype(int) - grey[..., None]).mean() < 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_infrared_png(dtype):
    counts = noise(7, 5, dtype=dtype)
    decoded = to_infrared(compressed(counts, ".png", f"{8 * counts.itemsize}UC1; png compressed "))
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, counts)


def test_infrared_tiff_and_colour_jpeg():
    values = np.array([[-4.5, 300.25], [0, 1e6]], np.float32)
    decoded = to_infrared(compressed(values, ".tiff", "32FC1; tiff compressed "))
    np.testing.assert_array_equal(decoded, values)
    grey = np.repeat(smooth_rgb()[..., :1], 3, axis=2)
    luma = to_infrared(compressed(grey, ".jpg", "bgr8; jpeg compressed bgr8"))
    assert luma.ndim == 2
    assert np.abs(luma.astype(int) - grey[..., 0]).mean() < 2


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_truncated_images_are_rejected(extension):
    message = compressed(noise(64, 64, 3), extension, "jpeg")
    whole = bytes(message.data)
    for length in (0, 1, 4, len(whole) // 4, len(whole) // 2, len(whole) - 12, len(whole) - 10):
        message.data = array.array("B", whole[:length])
        with pytest.raises(MessageError) as error:
            to_visible(message)
        assert error.value.reason == "undecodable"
        assert f"{length} bytes" in str(error.value)


def test_jpeg_may_be_padded_and_a_thumbnail_does_not_hide_a_cut():
    message = compressed(smooth_rgb(), ".jpg", "jpeg")
    whole = bytes(message.data)
    message.data = array.array("B", whole + bytes(4096))
    assert to_visible(message).shape == (40, 48, 3)
    # An APP1 segment that holds a whole small JPEG, as cameras write it.
    thumbnail = bytes(compressed(noise(8, 8, 3), ".jpg", "").data)
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    message.data = array.array("B", whole[:2] + segment + whole[2:])
    assert to_visible(message).shape == (40, 48, 3)
    message.data = message.data[: -len(whole) // 4]
    with pytest.raises(MessageError, match="cut off"):
        to_visible(message)


def test_damaged_and_foreign_data_are_rejected():
    message = compressed(noise(16, 16, 3), ".png", "png")
    message.data[40:60] = array.array("B", b"\x5a" * 20)
    for data in (message.data, array.array("B", b"not an image at all" * 9)):
        with pytest.raises(MessageError) as error:
            to_infrared(CompressedImage(format="h264", data=data))
        assert error.value.reason == "undecodable"
        assert "h264" in str(error.value)


def test_compressed_depth_is_rejected():
    message = compressed(noise(4, 4, dtype=np.uint16), ".png", "16UC1; compressedDepth png")
    with pytest.raises(MessageError, match="compressedDepth is not supported") as error:
        to_infrared(message)
    assert error.value.reason == "unknown_encoding"


def test_float_images_are_no_visible_images():
    values = np.ones((4, 4), np.float32)
    with pytest.raises(MessageError, match="'32FC1'") as error:
        to_visible(compressed(values, ".tiff", "32FC1; tiff compressed "))
    assert error.value.reason == "unknown_encoding"


# Malformed


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "length", "reason", "text"),
    [
        ("rgb8", 0, 4, 12, 0, "zero_size", "4 x 0"),
        ("rgb8", 4, 0, 0, 0, "zero_size", "0 x 4"),
        ("rgb8", 4, 4, 11, 48, "bad_step", "at least 12, got 11"),
        ("rgb8", 4, 4, 0, 48, "bad_step", "got 0"),
        ("mono16", 4, 4, 4, 32, "bad_step", "at least 8, got 4"),
        ("rgb8", 4, 4, 12, 47, "short_data", "at least 48 bytes, got 47"),
        ("rgb8", 4, 4, 16, 59, "short_data", "at least 60 bytes, got 59"),
        ("rgb8", 4, 4, 12, 0, "short_data", "got 0"),
        ("rgb8", 2**32 - 1, 2**32 - 1, 2**32 - 1, 64, "bad_step", "got 4294967295"),
        ("mono8", 2**32 - 1, 2**32 - 1, 2**32 - 1, 64, "short_data", "18446744065119617025"),
        ("yuv422", 2, 3, 6, 12, "odd_width", "3 x 2"),
        ("rgb9", 4, 4, 12, 48, "unknown_encoding", "expected one of mono8, rgb8"),
        ("", 4, 4, 12, 48, "unknown_encoding", "''"),
        ("32FC1", 1, 1, 4, 4, "unknown_encoding", "'32FC1'"),
    ],
)
def test_malformed_images_are_rejected_with_a_reason(
    encoding, height, width, step, length, reason, text
):
    with pytest.raises(MessageError) as error:
        to_visible(image(encoding, bytes(length), height, width, step))
    assert error.value.reason == reason
    assert text in str(error.value)


def test_one_row_with_an_absurd_step():
    message = image("bgr8", range(6), 1, 2, 2**32 - 1)
    np.testing.assert_array_equal(to_visible(message), [[[2, 1, 0], [5, 4, 3]]])


raw_garbage = st.builds(
    image,
    encoding=st.sampled_from([*INFRARED_ENCODINGS, "nv21", "64FC1"]) | st.text(max_size=12),
    data=st.binary(max_size=400),
    height=st.integers(0, 6) | st.integers(0, 2**32 - 1),
    width=st.integers(0, 6) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 40) | st.integers(0, 2**32 - 1),
    is_bigendian=st.sampled_from([0, 1, 255]),
)


@settings(max_examples=400, deadline=None)
@given(raw_garbage)
def test_any_raw_message_gives_its_size_or_a_message_error(message):
    size = (message.height, message.width)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with suppress(MessageError):
            visible = to_visible(message)
            assert visible.shape == (*size, 3)
            assert visible.dtype == np.uint8
        with suppress(MessageError):
            infrared = to_infrared(message)
            assert infrared.shape == size
            assert infrared.dtype in (np.uint8, np.uint16, np.float32)


headers = st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM", b"GIF89a"])


@settings(max_examples=150, deadline=None)
@given(headers, st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd9", b"IEND"]), st.text())
def test_any_compressed_message_gives_an_array_or_a_message_error(head, body, tail, format_):
    message = CompressedImage(format=format_.replace("\0", ""), data=head + body + tail)
    with suppress(MessageError):
        assert to_visible(message).ndim == 3
    with suppress(MessageError):
        assert to_infrared(message).ndim == 2


# Out


@pytest.mark.parametrize(
    ("encoding", "array_"),
    [
        ("rgb8", noise(4, 6, 3)),
        ("mono8", noise(4, 6)),
        ("mono16", noise(4, 6, dtype=np.uint16)),
        ("16UC1", noise(4, 6, dtype=np.uint16)),
        ("32FC1", np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)),
    ],
)
def test_images_survive_a_round_trip(encoding, array_):
    header = Header(stamp=Time(sec=12, nanosec=34), frame_id="rgb_optical_frame")
    message = to_image(array_, encoding, header)
    assert message.header == header
    assert (message.height, message.width, message.encoding) == (4, 6, encoding)
    assert message.step * message.height == len(message.data)
    assert isinstance(message.data, array.array)
    read = to_visible if encoding == "rgb8" else to_infrared
    np.testing.assert_array_equal(read(message), array_)


def test_to_image_takes_views():
    pixels = noise(8, 8, 3)
    view = pixels[::2, ::-1, ::-1]
    np.testing.assert_array_equal(to_visible(to_image(view, "rgb8", Header())), view)


def test_to_image_owns_its_data():
    pixels = np.zeros((2, 2), np.uint8)
    message = to_image(pixels, "mono8", Header())
    pixels[:] = 9
    assert set(message.data) == {0}


@pytest.mark.parametrize(
    ("encoding", "array_", "text"),
    [
        ("bgr8", noise(2, 2, 3), "expected one of"),
        ("rgb8", noise(2, 2), "needs H x W x 3 uint8, got"),
        ("rgb8", noise(2, 2, 4), "needs H x W x 3 uint8, got"),
        ("mono8", noise(2, 2, 1), "needs H x W uint8, got"),
        ("mono8", noise(4), "needs H x W uint8, got"),
        ("mono16", noise(2, 2), "needs H x W uint16, got"),
        ("mono16", np.zeros((2, 2), ">u2"), "needs H x W uint16, got"),
        ("32FC1", np.zeros((2, 2)), "needs H x W float32, got"),
    ],
)
def test_to_image_rejects_arrays_that_do_not_match(encoding, array_, text):
    with pytest.raises(ValueError, match=text):
        to_image(array_, encoding, Header())


def project(info, point):
    """Return the pixel of the image, of the region if there is one, in which a point is seen."""
    offsets = np.array((info.roi.x_offset, info.roi.y_offset))
    pixels = []
    for matrix, vector in ((info.k.reshape(3, 3), point), (info.p.reshape(3, 4), (*point, 1.0))):
        x, y, z = matrix @ vector
        pixels.append(np.array((x, y)) / z - offsets)
    return pixels


@pytest.mark.parametrize("offset", [(0, 0), (20, 30), (21, 33)])
@pytest.mark.parametrize("stride", [2, 3])
def test_shrunk_calibration_sees_points_in_the_same_place(offset, stride):
    info = CameraInfo(width=100, height=80, distortion_model="plumb_bob", d=[0.1, 0.2])
    info.k = np.array([90.0, 0.5, 48.2, 0, 80.0, 39.1, 0, 0, 1])
    info.p = np.array([91.0, 0, 47.2, -12.5, 0, 82.0, 38.1, 3.5, 0, 0, 1, 0])
    if any(offset):
        info.roi = RegionOfInterest(
            x_offset=offset[0], y_offset=offset[1], width=61, height=41, do_rectify=True
        )
    before = info.k.copy(), info.p.copy()
    shrunk = shrink_camera_info(info, stride)
    assert (shrunk.width, shrunk.height) == (100 // stride, 80 // stride)
    assert (shrunk.roi.width, shrunk.roi.height) == (
        info.roi.width // stride,
        info.roi.height // stride,
    )
    assert shrunk.roi.do_rectify == info.roi.do_rectify
    assert list(shrunk.d) == [0.1, 0.2]
    for point in ((0.1, 0.2, 1.0), (-0.3, 0.25, 2.5)):
        for pixel, other in zip(project(info, point), project(shrunk, point), strict=True):
            # The edges of the blocks: stride pixels from -0.5 on become one pixel from -0.5 on.
            np.testing.assert_allclose((pixel + 0.5) / stride, other + 0.5, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(info.k, before[0])
    np.testing.assert_array_equal(info.p, before[1])
    assert info.width == 100


def test_shrunk_calibration_that_is_missing_stays_so():
    shrunk = shrink_camera_info(CameraInfo(width=640, height=480), 2)
    assert not shrunk.k.any()
    assert not shrunk.p.any()
    assert (shrunk.width, shrunk.height) == (320, 240)
