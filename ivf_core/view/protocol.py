"""Interface between the page's server and what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

__all__ = ["Content", "View"]


class Content(NamedTuple):
    """Body of an answer.

    Attributes:
        kind: media type, such as "image/jpeg".
        data: the bytes.
        name: file name for a download; "" for content that the page shows.
    """

    kind: str
    data: bytes
    name: str = ""


class View(Protocol):
    """Source of what the page shows. Several threads call it at once."""

    def describe(self) -> dict[str, Any]:
        """Return what does not change while the page is open, for its template."""
        ...

    def status(self, since: int, after: int) -> dict[str, Any]:
        """Return counters, events and the time line.

        Args:
            since: number of frames whose seconds the page has already.
            after: number of the newest frame that the page shows; a live view waits a few
                seconds for a newer one.
        """
        ...

    def frame(self, number: int) -> dict[str, Any]:
        """Return the values of a frame.

        Raises:
            LookupError: there is no such frame, or it is no longer kept.
        """
        ...

    def content(self, number: int, name: str, options: Mapping[str, str]) -> Content:
        """Return an image of a frame, or all of them in one file.

        Args:
            number: number of the frame.
            name: name of a panel with the suffix of the format, or "frame.zip".
            options: palette and opacity, as the page sends them.

        Raises:
            LookupError: there is no such frame or content.
        """
        ...

    def close(self) -> None:
        """Free everything."""
