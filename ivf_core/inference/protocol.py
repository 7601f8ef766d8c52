"""Protocol of engines."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["Engine"]


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

    def __call__(
        self, visible: np.ndarray, infrared: np.ndarray, *, fused: bool = True, labels: bool = True
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Fuse and segment one pair.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.
            fused: whether the fused image is wanted.
            labels: whether the class ids are wanted.

        Returns:
            H x W x 3 uint8 RGB and H/2 x W/2 uint8 class ids, contiguous and owned by the
            caller; None for a result that is not wanted, and for class ids without a head.
        """
        ...
