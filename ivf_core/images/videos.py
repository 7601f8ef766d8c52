"""Video files: open them for reading, write them as MP4."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ivf_core.images.files import ImageFileError
from ivf_core.system.atomic import atomic_path

__all__ = ["VIDEO_SUFFIXES", "VideoWriter", "announced_frames", "open_video"]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")


@contextmanager
def open_video(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video for reading, and release it at the end of the block.

    Args:
        path: file that OpenCV can decode.

    Yields:
        OpenCV's capture at the first frame.

    Raises:
        ImageFileError: the file is missing, damaged or not a video.
    """
    if not path.is_file():
        raise ImageFileError(f"video '{path}': no such file")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ImageFileError(f"video '{path}': damaged or not a video that OpenCV can read")
        yield video
    finally:
        video.release()


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
