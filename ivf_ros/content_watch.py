"""Watch on the kind of a camera's images: colour where heat is expected, or the reverse."""

from __future__ import annotations

import re
from typing import Any

from ivf_core.images.content import message_encoding
from ivf_core.images.encodings import ENCODINGS
from ivf_ros.conversions import MessageError, to_visible
from ivf_ros.diagnostics import OK, WARN

__all__ = ["SWAPPED", "ContentWatch"]

SWAPPED = (
    "the cameras look swapped: exchange the topics of rgb/image_raw and thermal/image_raw "
    "(rgb_topic and thermal_topic of the launch files)"
)

_PERIOD_SECONDS = 2.0
_DEPTH_WORDS = {"depth", "disparity"}
_COLOURED_LEVELS = 24  # between the channels; JPEG leaves about 5 where the image is grey
_COLOURED_SHARE = 0.01
_SAMPLED_ROWS = 40


class ContentWatch:
    """Watch on what the images of one camera show, by their encoding and their colours.

    An image is examined every two seconds. Only the executor's thread may use it.

    Args:
        camera: "rgb" or "thermal".
        topic: resolved name of the image topic.

    Attributes:
        encoding: encoding of the image examined last, "" before the first.
        suits_other: true if it is one that the other camera would send.
    """

    def __init__(self, camera: str, topic: str) -> None:
        self._camera = camera
        self._topic = topic
        self._next = 0.0
        self._finding: tuple[bytes, str] = (OK, "")
        self.encoding = ""
        self.suits_other = False

    def image(self, message: Any, now: float) -> None:
        """Examine an image if it is time to.

        Args:
            message: image message.
            now: monotonic time of its arrival in seconds.
        """
        if now < self._next:
            return
        self._next = now + _PERIOD_SECONDS
        self.encoding = message_encoding(message)
        self.suits_other = False
        check = self._check_rgb if self._camera == "rgb" else self._check_thermal
        self._finding = check(message)

    def finding(self) -> tuple[bytes, str]:
        """Return level and message; the message is empty where nothing contradicts."""
        return self._finding

    def _check_rgb(self, _message: Any) -> tuple[bytes, str]:
        encoding = ENCODINGS.get(self.encoding)
        if encoding is None or encoding.dtype == "uint8" or encoding.order.to_luma is not None:
            return OK, ""
        self.suits_other = True
        return WARN, (
            f"{self._topic} carries {self.encoding}: thermal or depth images, expected those of "
            "a colour camera; name its topic in rgb/image_raw"
        )

    def _check_thermal(self, message: Any) -> tuple[bytes, str]:
        if set(re.findall("[a-z]+", self._topic.lower())) & _DEPTH_WORDS:
            return WARN, (
                f"{self._topic} is a depth topic by its name, and carries {self.encoding}: name "
                "the thermal camera's topic in thermal/image_raw"
            )
        encoding = ENCODINGS.get(self.encoding)
        if encoding is not None and encoding.order.to_luma is None:
            return OK, ""
        if self.encoding.startswith("bayer_"):
            self.suits_other = True
            return WARN, f"{self._topic} carries {self.encoding}: images of a colour camera"
        try:
            pixels = to_visible(message)
        except MessageError:
            return OK, ""  # counted where it is decoded
        sample = pixels[:: max(1, len(pixels) // _SAMPLED_ROWS)]
        spread = sample.max(axis=2).astype(int) - sample.min(axis=2)
        kind = self.encoding or "compressed images"
        self.suits_other = encoding is not None
        if (spread > _COLOURED_LEVELS).mean() > _COLOURED_SHARE:
            self.suits_other = True
            return WARN, (
                f"{self._topic} carries {kind} in colours: false colours hide the heat, and a "
                "colour camera shows none; name the raw 8- or 16-bit topic of the thermal camera "
                "in thermal/image_raw"
            )
        return OK, f"{kind} whose channels are equal, taken as grey" if encoding else ""
