"""Protocol of engines."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

__all__ = ["Engine", "EngineResult"]


class EngineResult(NamedTuple):
    """Results of an engine for one pair, contiguous and owned by the caller.

    Attributes:
        fused: H x W x 3 uint8 RGB, or None if it was not wanted.
        labels: H/2 x W/2 uint8 class ids, or None if they were not wanted or there is no head.
        confidence: H/2 x W/2 uint8 confidence in the class ids, see `OutputChoice`; or None
            likewise.
    """

    fused: np.ndarray | None
    labels: np.ndarray | None
    confidence: np.ndarray | None


class Engine(Protocol):
    """Protocol of engines: each runs the same `FusionGraph` on one pair at a time.

    Attributes:
        name: one of `ENGINES`.
        device: device in use, such as "cpu" or "cuda:0".
        precision: one of `PRECISIONS`.
        native_precisions: precisions below fp32 that the device computes natively.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    @property
    def precision(self) -> str: ...  # noqa: D102

    @property
    def native_precisions(self) -> tuple[str, ...]: ...  # noqa: D102

    def forget_sizes(self) -> None:
        """Free what was prepared for sizes of images."""

    def __call__(
        self,
        visible: np.ndarray,
        infrared: np.ndarray,
        *,
        fused: bool = True,
        labels: bool = True,
        confidence: bool = False,
    ) -> EngineResult:
        """Fuse and segment one pair.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.
            fused: whether the fused image is wanted.
            labels: whether the class ids are wanted.
            confidence: whether the confidence in the class ids is wanted.

        Returns:
            The wanted results.
        """
        ...
