"""Image and video files in and out, and pairs of them as one sequence."""

from __future__ import annotations

import math
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ivf_core.system.atomic import atomic_path

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ImageFileError",
    "PairFrame",
    "PairSource",
    "VideoWriter",
    "list_images",
    "open_pairs",
    "read_four_channels",
    "read_infrared",
    "read_labels",
    "read_visible",
    "write_image",
]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")

# Suffixes that keep a dtype without loss.
_WRITABLE = {
    "uint8": IMAGE_SUFFIXES,
    "uint16": (".png", ".tif", ".tiff"),
    "float32": (".tif", ".tiff"),
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_END = 33
_PNG_PALETTE = 3
# Relative. 29.97 and 30 Hz differ by 1e-3 and part by a frame in half a minute.
_RATE_TOLERANCE = 5e-4

_PathLike = str | os.PathLike[str]


class ImageFileError(ValueError):
    """A picture, folder or video that is missing, damaged or of the wrong kind."""


def read_visible(path: _PathLike) -> np.ndarray:
    """Read a colour or grey picture.

    Returns:
        H x W x 3 uint8 RGB; of deeper files the upper eight bits.

    Raises:
        ImageFileError: names the file and what is wrong.
    """
    return cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_infrared(path: _PathLike) -> np.ndarray:
    """Read a thermal picture at its own depth.

    Returns:
        H x W uint8, uint16 or float32; of pictures in three channels the luma.

    Raises:
        ImageFileError: names the file and what is wrong.
    """
    # Unlike IMREAD_UNCHANGED, these heed the orientation that cameras write, as
    # IMREAD_COLOR does: both pictures of a pair then stand upright.
    image = _read(path, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageFileError(
            f"thermal picture '{path}': pixels are {image.dtype}, "
            "expected 8 or 16 bit unsigned or 32 bit float"
        )
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def read_four_channels(path: _PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read a picture whose fourth channel is the thermal one, as MFNet stores its pairs.

    Returns:
        H x W x 3 uint8 RGB and H x W uint8.

    Raises:
        ImageFileError: names the file and what is wrong.
    """
    image = _read(path, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        raise ImageFileError(
            f"picture '{path}': {' x '.join(map(str, image.shape))} {image.dtype}, "
            "expected four 8-bit channels, RGB and thermal"
        )
    return cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB), image[..., 3].copy()


def read_labels(path: _PathLike) -> np.ndarray:
    """Read a picture of class ids as they are stored, neither scaled nor coloured.

    Of a PNG with a palette these are the indices.

    Returns:
        H x W uint8.

    Raises:
        ImageFileError: names the file and what is wrong.
    """
    data = _read_bytes(path)
    stored, factor = _without_palette(data)
    ids = _decode(path, stored, cv2.IMREAD_UNCHANGED)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ImageFileError(f"labels '{path}': expected a single-channel 8-bit picture of ids")
    return ids // np.uint8(factor)


def write_image(path: _PathLike, image: np.ndarray) -> None:
    """Write a picture, in the format of its suffix, under a temporary name first.

    Args:
        path: ends in one of `IMAGE_SUFFIXES`; missing folders are made.
        image: H x W x 3 RGB or H x W, uint8; for PNG and TIFF also uint16, for
            TIFF also float32.

    Raises:
        ImageFileError: the suffix is unknown or cannot hold the picture.
    """
    path = Path(path)
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
        raise ImageFileError(f"'{path}': shape {image.shape}, expected H x W or H x W x 3")
    suffixes = _WRITABLE.get(image.dtype.name, ())
    if path.suffix.lower() not in suffixes:
        raise ImageFileError(
            f"'{path}': {image.dtype} cannot be written to '{path.suffix}', "
            f"expected {', '.join(suffixes) or 'uint8, uint16 or float32'}"
        )
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        _, encoded = cv2.imencode(path.suffix.lower(), image)
    except cv2.error as error:
        raise ImageFileError(f"'{path}': cannot be encoded: {error}") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def list_images(folder: _PathLike) -> dict[str, Path]:
    """The pictures in a folder by stem, sorted. Hidden files and other types are left out.

    Raises:
        ImageFileError: not a folder, or two pictures share a stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageFileError(f"'{folder}': no such folder")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if not path.is_file():
            continue
        if path.stem in images:
            raise ImageFileError(
                f"'{folder}': {images[path.stem].name} and {path.name} share a stem"
            )
        images[path.stem] = path
    return dict(sorted(images.items()))


@dataclass(frozen=True)
class PairFrame:
    """One visible and one thermal picture of the same moment.

    Attributes:
        name: stem of the file, or the frame number in six digits.
        seconds: time since the start of the video; None for pictures.
        visible: H x W x 3 uint8 RGB.
        infrared: H' x W' uint8, uint16 or float32.
    """

    name: str
    seconds: float | None
    visible: np.ndarray
    infrared: np.ndarray


class PairSource(ABC):
    """A sequence of pairs, as `open_pairs` makes it; can be iterated again.

    Frames are read one at a time: memory does not grow with the length.

    Attributes:
        kind: "picture", "folder" or "video".
        length: number of pairs, or None where a video does not say. It is what
            the file announces; see `unmatched`.
        rate_hz: frame rate of a video, otherwise None.
        unmatched: what has no partner, one line each. For videos it is known
            after iterating to the end.
    """

    kind: str
    length: int | None
    rate_hz: float | None = None
    unmatched: list[str]

    def __iter__(self) -> Iterator[PairFrame]:
        return self.frames()

    @abstractmethod
    def frames(
        self, on_error: Callable[[ImageFileError], None] | None = None
    ) -> Iterator[PairFrame]:
        """Read the pairs in order.

        Args:
            on_error: called with the error where a picture cannot be read; its
                pair is left out. Without it the error is raised.

        Raises:
            ImageFileError: a picture cannot be read and there is no `on_error`,
                or a video cannot be opened.
        """


def open_pairs(visible: _PathLike, infrared: _PathLike) -> PairSource:
    """Two pictures, two folders (matched by stem) or two videos (frame by frame).

    Raises:
        ImageFileError: something is missing or unreadable, the two are of
            different kinds, no stems match, or the videos' frame rates differ.
    """
    visible, infrared = Path(visible), Path(infrared)
    kinds = _kind(visible), _kind(infrared)
    if kinds[0] != kinds[1]:
        raise ImageFileError(
            f"'{visible}' is a {kinds[0]} but '{infrared}' is a {kinds[1]}: "
            "expected two pictures, two folders or two videos"
        )
    if kinds[0] == "folder":
        return _FolderPairs(visible, infrared)
    if kinds[0] == "video":
        return _VideoPairs(visible, infrared)
    return _PicturePairs("picture", {visible.stem: (visible, infrared)}, [])


class VideoWriter:
    """Writes RGB frames to an MP4 file (MPEG-4 part 2), as a context manager.

    The file appears under its name when the block ends without an exception.
    The format needs even sizes: an odd last column or row is repeated once.

    Args:
        path: ends in .mp4; missing folders are made.
        rate_hz: frames per second.
        size: (height, width) of the frames.

    Raises:
        ImageFileError: wrong suffix, rate or size; on entry, OpenCV lacks the
            codec; on exit, no frames or the disk is full.
    """

    def __init__(self, path: _PathLike, rate_hz: float, size: tuple[int, int]) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ImageFileError(f"video '{path}': expected a name that ends in .mp4")
        if not 0 < rate_hz <= 1000:
            raise ImageFileError(f"video '{path}': rate_hz is {rate_hz}, expected 0 to 1000")
        if min(size) < 1:
            raise ImageFileError(f"video '{path}': size is {size}, expected (height, width)")
        self.rate_hz = rate_hz
        self.size = (int(size[0]), int(size[1]))
        self._padding = (self.size[0] % 2, self.size[1] % 2)
        self._stack = ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._written = 0

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            height, width = (s + p for s, p in zip(self.size, self._padding, strict=True))
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(temporary), codec, self.rate_hz, (width, height))
            if not writer.isOpened():
                raise ImageFileError(
                    f"video '{self.path}': this OpenCV cannot write MP4 (codec mp4v)"
                )

            def finish(kind: object, *_: object) -> None:
                writer.release()
                if kind is None:
                    self._check_complete(temporary)

            stack.push(finish)
            self._writer, self._written = writer, 0
            self._stack = stack.pop_all()
        return self

    def write(self, image: np.ndarray) -> None:
        """Append a frame.

        Args:
            image: H x W x 3 uint8 RGB of the writer's size.

        Raises:
            ImageFileError: another shape or dtype, or outside the with block.
        """
        if self._writer is None:
            raise ImageFileError(f"video '{self.path}': is not open, write inside a with block")
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise ImageFileError(
                f"video '{self.path}': frame is {image.shape} {image.dtype}, "
                f"expected {(*self.size, 3)} uint8"
            )
        frame = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if any(self._padding):
            bottom, right = self._padding
            frame = cv2.copyMakeBorder(frame, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        self._writer.write(frame)
        self._written += 1

    def __exit__(self, *exception: Any) -> bool | None:
        self._writer = None
        return self._stack.__exit__(*exception)

    def _check_complete(self, path: Path) -> None:
        """OpenCV reports no failed write, so count what arrived in the file."""
        if not self._written:
            raise ImageFileError(f"video '{self.path}': no frames were written")
        with _open_video(path) as video:
            stored = _frame_count(video)
        if stored != self._written:
            raise ImageFileError(
                f"video '{self.path}': {stored} of {self._written} frames arrived on disk; "
                "is it full?"
            )


class _PicturePairs(PairSource):
    def __init__(
        self, kind: str, pairs: dict[str, tuple[Path, Path]], unmatched: list[str]
    ) -> None:
        self.kind = kind
        self.length = len(pairs)
        self.unmatched = unmatched
        self._pairs = pairs

    def frames(
        self, on_error: Callable[[ImageFileError], None] | None = None
    ) -> Iterator[PairFrame]:
        for name, (visible, infrared) in self._pairs.items():
            try:
                frame = PairFrame(name, None, read_visible(visible), read_infrared(infrared))
            except ImageFileError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            yield frame


class _FolderPairs(_PicturePairs):
    def __init__(self, visible: Path, infrared: Path) -> None:
        first, second = list_images(visible), list_images(infrared)
        pairs = {stem: (first[stem], second[stem]) for stem in first if stem in second}
        if not pairs:
            raise ImageFileError(
                f"'{visible}' ({len(first)} pictures) and '{infrared}' ({len(second)} pictures): "
                "no two have the same name"
            )
        lonely = [path for stem, path in (first | second).items() if stem not in pairs]
        super().__init__("folder", pairs, [f"{path}: no partner" for path in lonely])


class _VideoPairs(PairSource):
    kind = "video"

    def __init__(self, visible: Path, infrared: Path) -> None:
        self._paths = (visible, infrared)
        self.unmatched = []
        rates, counts = [], []
        for path in self._paths:
            with _open_video(path) as video:
                rates.append(video.get(cv2.CAP_PROP_FPS))
                counts.append(_frame_count(video))
            if not 0 < rates[-1] < math.inf:
                raise ImageFileError(f"video '{path}': does not give its frame rate")
        if abs(rates[0] - rates[1]) > _RATE_TOLERANCE * max(rates):
            raise ImageFileError(
                f"'{visible}' has {rates[0]:g} frames a second but '{infrared}' {rates[1]:g}: "
                "expected the same rate"
            )
        self.rate_hz = self._rate_hz = float(rates[0])
        self.length = min(counts) if min(counts) > 0 else None
        self._announced = counts

    def frames(
        self, on_error: Callable[[ImageFileError], None] | None = None
    ) -> Iterator[PairFrame]:
        # Of a video whatever cannot be decoded is its end, see `_missing`.
        index = 0
        with _open_video(self._paths[0]) as visible, _open_video(self._paths[1]) as infrared:
            while True:
                frames = visible.read()[1], infrared.read()[1]
                if frames[0] is None or frames[1] is None:
                    break
                yield PairFrame(
                    f"{index:06d}",
                    index / self._rate_hz,
                    cv2.cvtColor(frames[0], cv2.COLOR_BGR2RGB),
                    cv2.cvtColor(frames[1], cv2.COLOR_BGR2GRAY),
                )
                index += 1
        self.unmatched = self._missing(index, frames)

    def _missing(
        self, index: int, frames: tuple[np.ndarray | None, np.ndarray | None]
    ) -> list[str]:
        """What was left when the first of the videos ended, `frames` being the last read."""
        lines = []
        for path, announced, frame in zip(self._paths, self._announced, frames, strict=True):
            if frame is not None:
                lines.append(f"{path}: goes on after frame {index}, where the other one ends")
            elif index < announced:
                lines.append(f"{path}: ends after {index} of the {announced} frames it announces")
        return lines


def _kind(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise ImageFileError(f"'{path}': no such file or folder")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "picture"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    raise ImageFileError(
        f"'{path}': neither a picture ({', '.join(IMAGE_SUFFIXES)}) "
        f"nor a video ({', '.join(VIDEO_SUFFIXES)})"
    )


@contextmanager
def _open_video(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise ImageFileError(f"video '{path}': no such file")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ImageFileError(f"video '{path}': damaged or not a video that OpenCV can read")
        yield video
    finally:
        video.release()


def _frame_count(video: cv2.VideoCapture) -> int:
    """What the file announces; 0 or less where it says nothing."""
    return int(video.get(cv2.CAP_PROP_FRAME_COUNT))


def _read(path: _PathLike, flags: int) -> np.ndarray:
    """Decode a picture: H x W or H x W x 3 in OpenCV's order."""
    return _decode(path, _read_bytes(path), flags)


def _read_bytes(path: _PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageFileError(f"picture '{path}': no such file") from error
    except OSError as error:
        raise ImageFileError(f"picture '{path}': cannot be read: {error}") from error


def _decode(path: _PathLike, data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        image = None
    if image is None or _is_cut_jpeg(data):
        raise ImageFileError(f"picture '{path}': damaged or not a picture")
    return image


def _without_palette(data: bytes) -> tuple[bytes, int]:
    """A PNG as one of grey values, and what OpenCV multiplies these by.

    OpenCV puts the palette's colours in place of indices, and spreads 1, 2 and 4
    bits over 0 to 255.
    """
    if data[:8] != _PNG or len(data) < _PNG_HEADER_END:
        return data, 1
    bits, color_type = data[24], data[25]
    if color_type == _PNG_PALETTE:
        header = data[12:25] + b"\0" + data[26:29]  # 0: grey
        chunks = [data[:12], header, zlib.crc32(header).to_bytes(4, "big")]
        start = _PNG_HEADER_END
        while start < len(data):
            end = start + 12 + int.from_bytes(data[start : start + 4], "big")
            if data[start + 4 : start + 8] in (b"IDAT", b"IEND"):
                chunks.append(data[start:end])
            start = end
        data = b"".join(chunks)
    return data, 255 // (2**bits - 1) if bits in (1, 2, 4) else 1


def _is_cut_jpeg(data: bytes) -> bool:
    """Whether a JPEG lacks its end marker; libjpeg fills what is missing with grey.

    Neither marker can occur in compressed data, and a thumbnail, which has both,
    comes before the picture.
    """
    start_of_scan, end = b"\xff\xda", b"\xff\xd9"
    return data.startswith(b"\xff\xd8") and data.rfind(end) < data.rfind(start_of_scan)
