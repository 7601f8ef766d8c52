"""The fusion graph on PyTorch, CPU or CUDA."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from ivf_core.inference.cuda_graph import RecordedGraph
from ivf_core.inference.recent import Recent
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.graph import FusionGraph

__all__ = ["TorchEngine", "choose_device"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def _has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16: where it does not, it is slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return torch.backends.mkldnn.is_available() and ("avx512_bf16" in flags or "amx_bf16" in flags)


class TorchEngine:
    """Runs `FusionGraph` on PyTorch.

    Args:
        model: the networks.
        device: as for `choose_device`.
        precision: "fp32", "bf16" or "fp16".
        threads: of a CPU, for the whole process; 0 leaves PyTorch's own number.

    Raises:
        ValueError: a device that is not there, another precision, or fp16 on a CPU.
    """

    name = "torch"

    def __init__(
        self,
        model: FusionModel,
        device: str = "auto",
        precision: str = "fp32",
        threads: int = 0,
    ) -> None:
        chosen = choose_device(device)
        if precision not in _DTYPES:
            has = "fp32 and bf16 on a CPU, fp16 as well on CUDA"
            raise ValueError(f"precision '{precision}': PyTorch has {has}")
        self._device = chosen
        self.device = str(chosen)
        self.precision = precision
        if threads:
            torch.set_num_threads(threads)
        self.native_precisions: tuple[str, ...] = ()
        if chosen.type == "cuda":
            # TensorFloat-32 would move pixels by a grey level; the results are those of a CPU.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = True
            self.native_precisions = ("fp16",)
        elif precision == "fp16":
            raise ValueError("precision 'fp16': PyTorch has fp32 and bf16 on a CPU")
        elif _has_bfloat16():
            self.native_precisions = ("bf16",)
        # Channels last: its convolutions take 0.6 of the time on a CPU.
        graph = FusionGraph(model, _DTYPES[precision])
        self._graph = graph.to(chosen).to(memory_format=torch.channels_last)
        self._recorded: Recent[tuple[object, ...], RecordedGraph | None] = Recent()

    def __call__(
        self, visible: np.ndarray, infrared: np.ndarray, *, fused: bool = True, labels: bool = True
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Fuse and segment one pair; see `Engine`."""
        recorded = self._recording(infrared.shape, fused, labels)
        if recorded is not None:
            picture, ids = recorded(visible, infrared)
            return picture, ids
        with torch.inference_mode():
            out = self._graph(self._upload(visible), self._upload(infrared), fused, labels)
        picture, ids = (None if part is None else part[0].cpu().numpy() for part in out)
        return picture, ids

    def _recording(self, size: tuple[int, ...], fused: bool, labels: bool) -> RecordedGraph | None:
        """The CUDA graph for a size and choice of outputs; None where there is none."""
        if self._device.type != "cuda":
            return None

        def record() -> RecordedGraph | None:
            height, width = size
            try:
                return RecordedGraph(self._graph, self._device, (height, width), fused, labels)
            except RuntimeError as error:
                logging.getLogger(__name__).warning("no CUDA graph, kernel by kernel: %s", error)
                return None

        return self._recorded.obtain((*size, fused, labels), record)

    def _upload(self, image: np.ndarray) -> torch.Tensor:
        if not (image.flags.c_contiguous and image.flags.writeable):
            image = image.copy()  # PyTorch takes neither negative strides nor read-only arrays
        return torch.from_numpy(image).to(self._device)[None]
