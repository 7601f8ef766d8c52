"""The fusion graph on CUDA: recorded once for a size, then replayed for each pair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ivf_core.models.graph import FusionGraph

__all__ = ["RecordedGraph"]

_WARM_UP_RUNS = 3


class RecordedGraph:
    """A CUDA graph of one size and choice of outputs, on a stream of its own.

    The network is some hundred small kernels: launched one by one they take longer than
    they run. Its buffers are made once, those on the host page-locked, so that copies
    are asynchronous and nothing is allocated from pair to pair.

    Args:
        graph: on `device`, and staying there.
        device: a CUDA device.
        size: height and width.
        fused, labels: which outputs.

    Raises:
        RuntimeError: the graph cannot be recorded.
    """

    def __init__(
        self,
        graph: FusionGraph,
        device: torch.device,
        size: tuple[int, int],
        fused: bool,
        labels: bool,
    ) -> None:
        self._stream = torch.cuda.Stream(device)
        shapes = (1, *size, 3), (1, *size)
        self._host_inputs = [_page_locked(shape) for shape in shapes]
        self._inputs = [torch.zeros(s, dtype=torch.uint8, device=device) for s in shapes]
        self._recording = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP_RUNS):  # libraries choose their kernels meanwhile
                    graph(*self._inputs, fused, labels)
            self._stream.synchronize()
            with torch.cuda.graph(self._recording, stream=self._stream):
                outputs: tuple[Tensor | None, ...] = graph(*self._inputs, fused, labels)
        self._outputs = outputs
        self._host_outputs = [
            None if output is None else _page_locked(tuple(output.shape)) for output in outputs
        ]

    def __call__(self, visible: np.ndarray, infrared: np.ndarray) -> list[np.ndarray | None]:
        """Fuse and segment one pair of this size; the results are the caller's own."""
        for host, image in zip(self._host_inputs, (visible, infrared), strict=True):
            np.copyto(host.numpy()[0], image)
        with torch.cuda.stream(self._stream):
            for there, host in zip(self._inputs, self._host_inputs, strict=True):
                there.copy_(host, non_blocking=True)
            self._recording.replay()
            for host_output, output in zip(self._host_outputs, self._outputs, strict=True):
                if host_output is not None and output is not None:
                    host_output.copy_(output, non_blocking=True)
        self._stream.synchronize()
        return [None if host is None else host.numpy()[0].copy() for host in self._host_outputs]


def _page_locked(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
