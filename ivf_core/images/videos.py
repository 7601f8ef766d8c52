"""Video files: read their frames and frame times, write them as MP4."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ivf_core.images.files import ImageFileError, warn_if_colored
from ivf_core.system.atomic import atomic_path

__all__ = [
    "VIDEO_SUFFIXES",
    "VideoTiming",
    "VideoWriter",
    "announced_frames",
    "open_capture",
    "open_video",
    "to_grey_frame",
    "video_frames",
    "video_timing",
]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")


_GREY16 = b"Y1\x00\x10"  # FFmpeg's tag of gray16le
_PROBED_FRAMES = 60
_SNAP_SECONDS = 0.0015  # Matroska rounds frame times to milliseconds
_LARGEST_RATE_HZ = 500.0  # a header that states more gives the unit of its times
_SAME_RATE = 0.02


class VideoTiming(NamedTuple):
    """Frame times of a video, from its first frames.

    Attributes:
        rate_hz: frames per second: what the header states where the frame times agree, else
            their mean.
        constant: true if the frame times are multiples of a period.
    """

    rate_hz: float
    constant: bool


@contextmanager
def open_video(path: Path, *, keep_depth: bool = False) -> Iterator[cv2.VideoCapture]:
    """Open a video for reading, and release it at the end of the block.

    Args:
        path: file that OpenCV can decode.
        keep_depth: frames of 16-bit grey stay H x W uint16; other frames of more than
            8 bits a channel are an error, since OpenCV cuts them.

    Yields:
        OpenCV's capture at the first frame.

    Raises:
        ImageFileError: the file is missing, damaged or not a video, or deeper than can be kept.
    """
    video = open_capture(path, keep_depth=keep_depth)
    try:
        yield video
    finally:
        video.release()


def open_capture(path: Path, *, keep_depth: bool = False) -> cv2.VideoCapture:
    """Open a video as `open_video` does; the caller releases it."""
    if not path.is_file():
        raise ImageFileError(f"video '{path}': no such file")
    # FFmpeg takes a relative name with a colon for the address of a server.
    name = str(path.absolute())
    video = cv2.VideoCapture(name)
    if not video.isOpened():
        raise ImageFileError(f"video '{path}': damaged or not a video that OpenCV can read")
    tag = int(video.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)).to_bytes(8, "little", signed=True)[:4]
    if not keep_depth or not _is_deep(tag):
        return video
    video.release()
    if tag == _GREY16:
        video = cv2.VideoCapture(name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_CONVERT_RGB, 0])
        if video.isOpened():
            return video
    raise ImageFileError(
        f"video '{path}': its frames have more than 8 bits in a format of which OpenCV reads only "
        "the upper 8; expected 8 bits or 16-bit grey, or a folder of 16-bit PNG images"
    )


def _is_deep(tag: bytes) -> bool:
    """Return whether FFmpeg's tag of a pixel format says more than 8 bits a channel."""
    if tag[:3] in (b"RGB", b"BGR"):
        return tag[3] in (48, 64)
    # The last byte is the depth, or the first one where bytes are big-endian.
    return any(8 < depth <= 16 for depth in (tag[0], tag[3]))


def to_grey_frame(frame: np.ndarray) -> np.ndarray:
    """Return a frame of a thermal video as H x W, of the depth it has.

    Args:
        frame: H x W x 3 uint8 BGR, or H x W.
    """
    return frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)


def video_timing(path: Path) -> VideoTiming:
    """Measure the frame times of a video at its beginning.

    Args:
        path: the video.

    Raises:
        ImageFileError: the video cannot be read, or gives neither frame times nor a rate.
    """
    times: list[float] = []
    with open_video(path) as video:
        stated = float(video.get(cv2.CAP_PROP_FPS))
        while len(times) < _PROBED_FRAMES and video.grab():
            times.append(video.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
    usable = math.isfinite(stated) and 0 < stated <= _LARGEST_RATE_HZ
    steps = np.diff(times)
    if not len(steps) or (steps <= 0).any():
        if not usable:
            raise ImageFileError(f"video '{path}': gives neither a frame rate nor frame times")
        return VideoTiming(stated, True)
    measured = len(steps) / (times[-1] - times[0])
    if usable and (len(steps) < 3 or abs(measured - stated) <= _SAME_RATE * stated):
        grid = np.array(times) * stated
        off = np.abs(grid - np.round(grid)) / stated
        return VideoTiming(stated, bool((off <= _SNAP_SECONDS).all()))
    period = float(np.median(steps))
    return VideoTiming(measured, bool((np.abs(steps - period) <= _SNAP_SECONDS).all()))


def video_frames(
    path: Path, timing: VideoTiming, *, infrared: bool, start: int = 0
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the frames of a video with their times in seconds since its start.

    At a constant rate, times within a millisecond of a multiple of the period are that
    multiple; where a video gives no times, they are counted by its rate.

    Args:
        path: the video.
        timing: from `video_timing`.
        infrared: yield thermal frames, H x W uint8 or uint16; else H x W x 3 uint8 RGB.
        start: number of the period of the first frame, of a video at a constant rate.

    Raises:
        ImageFileError: the video cannot be opened.
    """
    first = (start - 0.5) / timing.rate_hz
    with open_video(path, keep_depth=infrared) as video:
        index, last = start if _seek(video, start, timing) else 0, -1.0
        while (frame := video.read()[1]) is not None:
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            nearest = round(seconds * timing.rate_hz) / timing.rate_hz
            if timing.constant and abs(seconds - nearest) <= _SNAP_SECONDS:
                seconds = nearest
            if seconds <= last:
                seconds = index / timing.rate_hz if index / timing.rate_hz > last else last
            last = seconds
            if start and seconds < first:
                index += 1
                continue
            if not infrared:
                yield seconds, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            else:
                if index == 0 and frame.ndim == 3:
                    warn_if_colored(frame, path)
                yield seconds, to_grey_frame(frame)
            index += 1


def _seek(video: cv2.VideoCapture, start: int, timing: VideoTiming) -> bool:
    """Move a video to a frame, or one before it, and return whether it moved.

    OpenCV seeks by the number of the frame, and in some files comes out after it: these are
    read from their beginning.
    """
    if not start:
        return False
    video.set(cv2.CAP_PROP_POS_FRAMES, start)
    if video.grab() and video.get(cv2.CAP_PROP_POS_MSEC) / 1e3 < (start + 0.5) / timing.rate_hz:
        video.set(cv2.CAP_PROP_POS_FRAMES, start)
        return True
    video.set(cv2.CAP_PROP_POS_FRAMES, 0)
    return False


def announced_frames(video: cv2.VideoCapture) -> int:
    """Return the number of frames that a video's header states, 0 or less if it states none."""
    return int(video.get(cv2.CAP_PROP_FRAME_COUNT))


class VideoWriter:
    """Writer of RGB frames to an MP4 file (MPEG-4 part 2), used as a context manager.

    The file appears under its name when the block ends without an exception.
    The format needs even sizes: an odd last column or row is repeated once.

    Args:
        path: ends in .mp4; missing folders are created.
        rate_hz: frames per second.
        size: (height, width) of the frames.

    Raises:
        ImageFileError: wrong suffix, rate or size; on entry, OpenCV lacks the
            codec; on exit, no frames or the disk is full.
    """

    def __init__(self, path: str | os.PathLike[str], rate_hz: float, size: tuple[int, int]) -> None:
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
            # FFmpeg takes a relative name with a colon for the address of a server.
            name = str(temporary.absolute())
            writer = cv2.VideoWriter(name, codec, self.rate_hz, (width, height))
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
            ImageFileError: another shape or dtype, or a call outside the with block.
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
        """Count the frames in the file, since OpenCV reports no failed write."""
        if not self._written:
            raise ImageFileError(f"video '{self.path}': no frames were written")
        with open_video(path) as video:
            stored = announced_frames(video)
        if stored != self._written:
            raise ImageFileError(
                f"video '{self.path}': {stored} of {self._written} frames arrived on disk; "
                "is it full?"
            )
