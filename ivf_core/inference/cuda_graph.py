"""CUDA graph of the fusion graph: recorded once per image size, then replayed for each pair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ivf_core.models.graph import FusionGraph
from ivf_core.models.interface import OutputChoice

__all__ = ["RecordedGraph"]

_WARM_UP_RUNS = 3


class RecordedGraph:
    """CUDA graph for one image size, number of pairs and choice of outputs, on its own stream.

    The network has about a hundred small kernels: launching them one by one takes longer
    than running them. The buffers are allocated once, page-locked on the host, so that
    copies are asynchronous and no pair allocates memory.

    Args:
        graph: the fusion graph, on `device`, where it must stay.
        device: a CUDA device.
        size: height and width.
        choice: outputs to compute.
        pairs: number of pairs that run together.

    Raises:
        RuntimeError: the graph cannot be recorded.
    """

    def __init__(
        self,
        graph: FusionGraph,
        device: torch.device,
        size: tuple[int, int],
        choice: OutputChoice,
        pairs: int = 1,
    ) -> None:
        self._stream = torch.cuda.Stream(device)
        shapes = (pairs, *size, 3), (pairs, *size)
        self._host_inputs = [_page_locked(shape) for shape in shapes]
        self._inputs = [torch.zeros(s, dtype=torch.uint8, device=device) for s in shapes]
        self._recording = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP_RUNS):  # libraries choose their kernels meanwhile
                    graph(*self._inputs, *choice)
            self._stream.synchronize()
            with torch.cuda.graph(self._recording, stream=self._stream):
                outputs: tuple[Tensor | None, ...] = graph(*self._inputs, *choice)
        self._outputs = outputs
        self._host_outputs = [
            None if output is None else _page_locked(tuple(output.shape)) for output in outputs
        ]

    def __call__(self, visible: np.ndarray, infrared: np.ndarray) -> list[np.ndarray | None]:
        """Fuse and segment one pair of this size; the caller owns the results.

        Args:
            visible: H x W x 3 uint8 RGB.
            infrared: H x W uint8.

        Returns:
            The outputs in the order of `OUTPUT_NAMES`, None for those that are not computed.
        """
        parts = self.batch(visible[None], infrared[None])
        return [None if part is None else part[0] for part in parts]

    def batch(self, visible: np.ndarray, infrared: np.ndarray) -> list[np.ndarray | None]:
        """Fuse and segment `pairs` pairs of this size; the caller owns the results.

        Args:
            visible: N x H x W x 3 uint8 RGB, N equal to `pairs`.
            infrared: N x H x W uint8.

        Returns:
            The outputs in the order of `OUTPUT_NAMES`, None for those that are not computed.
        """
        for host, image in zip(self._host_inputs, (visible, infrared), strict=True):
            np.copyto(host.numpy(), image)
        with torch.cuda.stream(self._stream):
            for there, host in zip(self._inputs, self._host_inputs, strict=True):
                there.copy_(host, non_blocking=True)
            self._recording.replay()
            for host_output, output in zip(self._host_outputs, self._outputs, strict=True):
                if host_output is not None and output is not None:
                    host_output.copy_(output, non_blocking=True)
        self._stream.synchronize()
        return [None if host is None else host.numpy().copy() for host in self._host_outputs]


def _page_locked(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
