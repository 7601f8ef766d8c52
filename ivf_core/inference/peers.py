"""Published tiny fusion networks, read from clones of their repositories, for the benchmark.

Each is a module from uint8 images to a uint8 RGB image, so that it does the work of our
graph: for MMDRFuse, whose network fuses grey images, with our conversion of colours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ivf_core.models.color import luma_chroma, recolor

__all__ = ["LutFuse", "MMDRFuse", "find_peer", "prepare_peer"]

_MMDRFUSE = "pretrained_models/student.model"
_TABLE, _CONTEXT = "ckpts/fine_tuned_lut.npy", "ckpts/generator_context.pth"
_BINS = 16


class MMDRFuse(nn.Module):
    """MMDRFuse's student (Deng et al., ACM MM 2024): 3x3 convolutions of 2 to 4 to 1 channels.

    Its tanh is the fused luma; the chroma is that of the visible image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 4, 3))
        self.conv2 = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 1, 3))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse a batch.

        Args:
            visible: N x H x W x 3 uint8 RGB.
            infrared: N x H x W uint8.

        Returns:
            N x H x W x 3 uint8 RGB.
        """
        luma, cr, cb = luma_chroma(visible.permute(0, 3, 1, 2).float())
        images = torch.cat((infrared.unsqueeze(1).float(), luma), dim=1) / 255
        fused = torch.tanh(self.conv2(torch.relu(self.conv1(images))))
        return recolor(fused, cr, cb).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class LutFuse(nn.Module):
    """LUT-Fuse (Yi et al., ICCV 2025): a table of 16^4 values of luma, by interpolation.

    Its coordinates are the luma, its gradient, a context that a small network computes from
    both images, and the infrared image.

    Args:
        table: 16 x 16 x 16 x 16 x 1 float.
    """

    table: Tensor
    edges: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.reshape(-1))
        block = _context_block
        self.input_layer = nn.Sequential(*block(4))
        self.mid_layer = nn.Sequential(*block(16), *block(16), *block(16))
        self.output_layer = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(16, 1, 3, padding=1))
        edges = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        self.register_buffer("edges", torch.stack((edges, edges.T))[:, None], persistent=False)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Fuse a batch; see `MMDRFuse.forward`."""
        rgb = visible.permute(0, 3, 1, 2).float()
        thermal = infrared.unsqueeze(1).float()
        first = self.input_layer(torch.cat((rgb, thermal), dim=1))
        context = torch.sigmoid(self.output_layer(self.mid_layer(first) + first))
        red, green, blue = (rgb / 255).split(1, dim=1)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        cb = -0.168736 * red - 0.331264 * green + 0.5 * blue
        cr = 0.5 * red - 0.418688 * green - 0.081312 * blue
        across, down = F.conv2d(luma, self.edges, padding=1).split(1, dim=1)
        gradient = torch.sqrt(across**2 + down**2)
        low, high = gradient.amin((2, 3), keepdim=True), gradient.amax((2, 3), keepdim=True)
        gradient = (gradient - low) / (high - low + 1e-8)
        scaled = [x * (255 / _BINS) for x in (luma, gradient, context)] + [thermal / _BINS]
        fused = self._interpolate(scaled)
        image = torch.cat(
            (fused + 1.402 * cr, fused - 0.344136 * cb - 0.714136 * cr, fused + 1.772 * cb), dim=1
        )
        return (image.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _interpolate(self, scaled: list[Tensor]) -> Tensor:
        """Read the table at four coordinates of 0 to 16 each, linearly between its entries."""
        lower = [x.floor().clamp(0, _BINS - 1) for x in scaled]
        parts = [x - low for x, low in zip(scaled, lower, strict=True)]
        ends = [(low, (low + 1).clamp(max=_BINS - 1)) for low in lower]
        total = torch.zeros_like(scaled[0])
        for corner in itertools.product((0, 1), repeat=4):
            index, weight = torch.zeros_like(scaled[0]), torch.ones_like(scaled[0])
            for upper, end, part in zip(corner, ends, parts, strict=True):
                index = index * _BINS + end[upper]
                weight = weight * (part if upper else 1 - part)
            total = total + weight * self.table[index.long()]
        return total


def find_peer(clone: Path) -> nn.Module:
    """Read a peer from a clone.

    Args:
        clone: working tree of a clone of yanglinDeng/MMDRFuse or zyb5/LUT-Fuse.

    Raises:
        ValueError: the folder lacks the files of both, or a file is not what is expected;
            names it.
    """
    if (clone / _MMDRFUSE).is_file():
        network: nn.Module = MMDRFuse()
        _load(network, clone / _MMDRFUSE)
    elif (clone / _TABLE).is_file():
        network = LutFuse(_read_table(clone / _TABLE))
        _load(network, clone / _CONTEXT)
    else:
        raise ValueError(
            f"'{clone}': neither a clone of MMDRFuse ({_MMDRFUSE}) nor of LUT-Fuse ({_TABLE}, "
            f"{_CONTEXT}); expected the folder of one of them"
        )
    return network.eval().requires_grad_(False)


def prepare_peer(
    clone: Path, size: tuple[int, int], threads: int, visible: np.ndarray, infrared: np.ndarray
) -> tuple[Callable[[], object], dict[str, Any]]:
    """Compile a peer in OpenVINO in fp32, and compare its image with PyTorch's.

    Args:
        clone: see `find_peer`.
        size: width and height.
        threads: CPU threads; 0: the engine's choice.
        visible: H x W x 3 uint8 RGB.
        infrared: H x W uint8.

    Returns:
        The function to measure, and facts about the peer for its row.
    """
    import openvino
    from torch.utils.flop_counter import FlopCounterMode

    network = find_peer(clone)
    inputs = visible[None], infrared[None]
    tensors = tuple(map(torch.from_numpy, inputs))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        expected = network(*tensors).numpy()
    shapes = [[1, size[1], size[0], 3], [1, size[1], size[0]]]
    graph = openvino.convert_model(
        network, example_input=tensors, input=[(s, openvino.Type.u8) for s in shapes]
    )
    config: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    request = openvino.Core().compile_model(graph, "CPU", config).create_infer_request()

    def call() -> np.ndarray:
        request.infer(list(inputs), share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    difference = np.abs(call().astype(int) - expected.astype(int))
    for _ in range(3):
        call()
    params = sum(tensor.numel() for tensor in network.state_dict().values())
    return call, {
        "student": type(network).__name__,
        "engine": "openvino",
        "precision": "fp32",
        "device": "cpu",
        "macs": counter.get_total_flops() / 2,
        "params": params,
        "max_diff": int(difference.max()),
        "p999_diff": float(np.percentile(difference, 99.9)),
    }


def _context_block(in_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, 16, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.InstanceNorm2d(16, affine=True),
    ]


def _read_table(path: Path) -> Tensor:
    """Read LUT-Fuse's table, or raise."""
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"'{path}': cannot be read as an array: {error}") from error
    if table.shape != (_BINS,) * 4 + (1,):
        raise ValueError(
            f"'{path}': an array of {table.shape}, expected LUT-Fuse's {(_BINS,) * 4 + (1,)}"
        )
    return torch.from_numpy(table.astype(np.float32))


def _load(network: nn.Module, path: Path) -> None:
    """Load a state dictionary of published weights, or raise."""
    name = type(network).__name__
    if not path.is_file():
        raise ValueError(f"'{path}': no such file, expected {name}'s weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises several kinds for damaged files
        raise ValueError(f"'{path}': cannot be read as PyTorch weights: {error}") from error
    own = {k: v.shape for k, v in network.state_dict().items() if k != "table"}
    found = {k: v.shape for k, v in state.items()} if isinstance(state, dict) else {}
    if own != found:
        wrong = sorted(k for k in own.keys() | found.keys() if own.get(k) != found.get(k))
        raise ValueError(
            f"'{path}': not the weights of {name}: {', '.join(wrong)} missing, unknown or of "
            "another shape"
        )
    network.load_state_dict(state, strict=False)
