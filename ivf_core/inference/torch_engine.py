"""Engine on PyTorch: the fusion graph on a CPU or on CUDA."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from ivf_core.inference.cuda_graph import RecordedGraph
from ivf_core.inference.options import EngineOptions
from ivf_core.inference.protocol import EngineResult
from ivf_core.inference.recent import Recent
from ivf_core.models.checkpoints import FusionModel, load_model
from ivf_core.models.graph import FusionGraph
from ivf_core.models.interface import OutputChoice
from ivf_core.models.weights_files import WeightsFile
from ivf_core.system.processor import allows_bfloat16

__all__ = ["TorchEngine", "choose_device"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device named "auto", "cpu", "cuda" or "cuda:N".

    Args:
        name: "auto" takes a CUDA device if PyTorch finds one, else the CPU.

    Returns:
        The device.

    Raises:
        ValueError: the name is none of these, or PyTorch does not find the device.
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
    """Return whether the processor multiplies bfloat16; without that it is slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    native = "avx512_bf16" in flags or "amx_bf16" in flags
    return torch.backends.mkldnn.is_available() and native and allows_bfloat16()


class TorchEngine:
    """Engine that runs `FusionGraph` on PyTorch.

    Args:
        weights: opened weights file, or networks in memory.
        options: device as for `choose_device`; precision "fp32", "bf16" or "fp16"; the
            number of threads is set for the whole process.

    Raises:
        ValueError: an unknown or missing device, another precision, or fp16 on a CPU.
    """

    name = "torch"

    def __init__(self, weights: WeightsFile | FusionModel, options: EngineOptions) -> None:
        self._device = choose_device(options.device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self.device = str(self._device)
        self.precision = options.precision
        if self.precision not in _DTYPES:
            has = "fp32 and bf16 on a CPU, fp16 as well on CUDA"
            raise ValueError(f"precision '{self.precision}': PyTorch has {has}")
        if options.threads:
            torch.set_num_threads(options.threads)
        self.native_precisions: tuple[str, ...] = ()
        if self._device.type == "cuda":
            # TensorFloat-32 would change pixels by a grey level relative to a CPU.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = True
            self.native_precisions = ("fp16",)
        elif self.precision == "fp16":
            raise ValueError("precision 'fp16': PyTorch has fp32 and bf16 on a CPU")
        elif _has_bfloat16():
            self.native_precisions = ("bf16",)
        # In channels-last layout convolutions take 0.6 of the time on a CPU.
        model = load_model(weights) if isinstance(weights, WeightsFile) else weights
        graph = FusionGraph(model, _DTYPES[self.precision])
        self._graph = graph.to(self._device).to(memory_format=torch.channels_last)
        self._recorded: Recent[tuple[object, ...], RecordedGraph | None] = Recent()

    def forget_sizes(self) -> None:
        """Free the CUDA graphs that were recorded for sizes of images; see `Engine`."""
        self._recorded.clear()

    def __call__(
        self,
        visible: np.ndarray,
        infrared: np.ndarray,
        *,
        fused: bool = True,
        labels: bool = True,
        confidence: bool = False,
    ) -> EngineResult:
        """Fuse and segment one pair; see `Engine`."""
        choice = OutputChoice(fused, labels, confidence)
        recorded = self._recording(infrared.shape, choice)
        if recorded is not None:
            return EngineResult(*recorded(visible, infrared))
        with torch.inference_mode():
            out = self._graph(self._upload(visible), self._upload(infrared), *choice)
        return EngineResult(*(None if part is None else part[0].cpu().numpy() for part in out))

    @property
    def torch_device(self) -> torch.device:
        """Device of the networks."""
        return self._device

    @torch.inference_mode()
    def run_tensors(
        self,
        visible: torch.Tensor,
        infrared: torch.Tensor,
        *,
        fused: bool = True,
        labels: bool = True,
        confidence: bool = False,
    ) -> tuple[torch.Tensor | None, ...]:
        """Fuse and segment a batch of tensors on the engine's device.

        Args:
            visible: N x H x W x 3 uint8 RGB.
            infrared: N x H x W uint8.
            fused: see `Engine`.
            labels: see `Engine`.
            confidence: see `Engine`.

        Returns:
            Fused images, class ids and confidence as in `FusionGraph`, on the same device.
        """
        return self._graph(visible, infrared, fused, labels, confidence)

    def _recording(self, size: tuple[int, ...], choice: OutputChoice) -> RecordedGraph | None:
        """Return the CUDA graph for a size and choice of outputs, or None without one."""
        if self._device.type != "cuda":
            return None

        def record() -> RecordedGraph | None:
            height, width = size
            try:
                return RecordedGraph(self._graph, self._device, (height, width), choice)
            except RuntimeError as error:
                logging.getLogger(__name__).warning(
                    "cannot record a CUDA graph, kernels are launched one by one: %s", error
                )
                return None

        return self._recorded.get_or_make((*size, *choice), record)

    def _upload(self, image: np.ndarray) -> torch.Tensor:
        if not (image.flags.c_contiguous and image.flags.writeable):
            image = image.copy()  # PyTorch takes neither negative strides nor read-only arrays
        return torch.from_numpy(image).to(self._device)[None]
