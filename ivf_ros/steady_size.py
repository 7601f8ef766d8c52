"""Choice of the size at which pairs are fused: that of the stream, not that of an outlier."""

from __future__ import annotations

__all__ = ["SteadySize"]

_LASTING_PAIRS = 3
_LARGE = 2  # an image with so many times the pixels leaves memory that is worth returning


class SteadySize:
    """Size of the pairs of a stream, at which the engine is prepared.

    An engine takes a second or more, and memory, for each new size. A size that comes once
    does not get that: its images are scaled to the size in use. The first size is taken at
    once, another one with the third pair in a row. One thread uses it.

    Attributes:
        size: height and width in use; None before the first pair.
        outliers: number of pairs so far that were scaled.
    """

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None
        self.outliers = 0
        self._other: tuple[int, int] | None = None
        self._pairs = 0

    def admit(self, size: tuple[int, int]) -> bool:
        """Take note of the size of a pair.

        Args:
            size: height and width of the pair.

        Returns:
            Whether another size than before is now in use.
        """
        if size == self.size:
            self._other, self._pairs = None, 0
            return False
        self._pairs = self._pairs + 1 if size == self._other else 1
        self._other = size
        if self.size is not None and self._pairs < _LASTING_PAIRS:
            self.outliers += 1
            return False
        changed = self.size is not None
        self.size, self._other, self._pairs = size, None, 0
        return changed

    def is_large(self, size: tuple[int, int]) -> bool:
        """Return whether a size is much larger than the one in use.

        Args:
            size: height and width.
        """
        assert self.size is not None
        return size[0] * size[1] > _LARGE * self.size[0] * self.size[1]
