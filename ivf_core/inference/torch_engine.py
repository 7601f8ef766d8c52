"""The fusion graph on PyTorch, CPU or CUDA."""

from __future__ import annotations

import numpy as np
import torch

from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.graph import FusionGraph

__all__ = ["TorchEngine", "choose_device"]


def choose_device(name: str) -> torch.device:
    """The device behind "auto", "cpu", "cuda" or "cuda:N"; auto takes a GPU that works.

    Raises:
        ValueError: the device is not of these names, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device '{name}': expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device '{name}': expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(f"device '{name}': PyTorch finds {count} CUDA devices here")
    return device


class TorchEngine:
    """Runs `FusionGraph` on one image pair at a time.

    Args:
        model: the networks.
        device: as for `choose_device`.
    """

    name = "torch"

    def __init__(self, model: FusionModel, device: str = "auto") -> None:
        self.device = choose_device(device)
        if self.device.type == "cuda":
            # TensorFloat-32 would move pixels by a grey level; the results are those of a CPU.
            torch.backends.cudnn.allow_tf32 = False
        # Channels last: its convolutions take 0.6 of the time on a CPU.
        self._graph = FusionGraph(model).to(self.device).to(memory_format=torch.channels_last)

    def __call__(
        self, visible: np.ndarray, infrared: np.ndarray, *, fused: bool = True, labels: bool = True
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Fuse and segment one pair.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.
            fused, labels: which results are wanted; the head runs for labels only.

        Returns:
            H x W x 3 uint8 RGB and H/2 x W/2 uint8 class ids, None for what was
            not wanted or cannot be had.
        """
        with torch.inference_mode():
            out = self._graph(self._upload(visible), self._upload(infrared), fused, labels)
        picture, ids = (None if part is None else part[0].cpu().numpy() for part in out)
        return picture, ids

    def _upload(self, image: np.ndarray) -> torch.Tensor:
        if not (image.flags.c_contiguous and image.flags.writeable):
            image = image.copy()  # PyTorch takes neither negative strides nor read-only arrays
        return torch.from_numpy(image).to(self.device)[None]
