"""8-bit convolutions: input ranges observed on real pairs, and rounding in the graph.

Inputs are rounded to 256 levels of the range observed in calibration, weights to 255
levels around zero for each output channel (Nagel et al., "A White Paper on Neural Network
Quantization", 2021, section 2). PyTorch computes with the rounded values; an export contains
QuantizeLinear and DequantizeLinear, which tell an engine to compute with integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ivf_core.models.color import small_chroma
from ivf_core.models.weights_files import Ranges

__all__ = ["QuantizedConv2d", "observe_ranges", "quantize_convolutions"]

_INPUT_LEVELS = 255
_WEIGHT_LEVELS = 127
_LEAST_CHANNELS = 16


class QuantizedConv2d(nn.Conv2d):
    """Convolution of 8-bit inputs and weights.

    Args:
        conv: convolution without rounding; its weights and bias are shared.
        low: lowest input; lowered to 0 if it is above, which padding needs.
        high: highest input; raised to 0 if it is below.

    Raises:
        ValueError: the range is empty or not finite.
    """

    weight_scales: Tensor
    weight_zeros: Tensor

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        low, high = min(low, 0.0), max(high, 0.0)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"range {low} to {high} of an 8-bit input: expected finite, not empty")
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            bias=False,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.scale = (high - low) / _INPUT_LEVELS
        self.zero_point = round(-low / self.scale)
        largest = conv.weight.detach().abs().amax(dim=(1, 2, 3)).float().clamp_min(1e-12)
        self.register_buffer("weight_scales", largest / _WEIGHT_LEVELS)
        self.register_buffer("weight_zeros", torch.zeros_like(largest, dtype=torch.int32))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve N x C x H x W float, rounded to the levels of 8 bits."""
        x = torch.fake_quantize_per_tensor_affine(
            input, self.scale, self.zero_point, 0, _INPUT_LEVELS
        )
        # The range of ONNX includes -128, which the scales never reach.
        weight = torch.fake_quantize_per_channel_affine(
            self.weight,
            self.weight_scales,
            self.weight_zeros,
            0,
            -_WEIGHT_LEVELS - 1,
            _WEIGHT_LEVELS,
        )
        return self._conv_forward(x, weight, self.bias)


def observe_ranges(
    student: nn.Module, head: nn.Module | None, pairs: Iterable[tuple[np.ndarray, ...]]
) -> Ranges:
    """Run the networks on pairs and record the input ranges of their convolutions.

    Convolutions with fewer than 16 input or output channels are left out: they are cheap,
    and their rounding errors are visible. So are depthwise ones, which have little to multiply.

    Args:
        student: the student, in evaluation mode.
        head: its head, in evaluation mode, or None.
        pairs: luma and infrared, each H x W uint8, and Cr and Cb, 2 x H x W uint8, if there is
            colour.

    Returns:
        Ranges by name, with the prefix "student." or "head.".

    Raises:
        ValueError: there are no pairs.
    """
    ranges: Ranges = {}

    def watch(name: str) -> object:
        def note(_conv: nn.Module, inputs: tuple[Tensor]) -> None:
            low, high = (value.item() for value in torch.aminmax(inputs[0]))
            before = ranges.get(name, (low, high))
            ranges[name] = (min(low, before[0]), max(high, before[1]))

        return note

    networks = {"student": student, **({"head": head} if head is not None else {})}
    hooks = [
        conv.register_forward_pre_hook(watch(f"{prefix}.{name}"))  # type: ignore[arg-type]
        for prefix, network in networks.items()
        for name, conv in network.named_modules()
        if isinstance(conv, nn.Conv2d)
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
    ]
    device = next(student.parameters()).device
    seen = False
    try:
        with torch.inference_mode():
            for planes in pairs:
                seen = True
                luma, infrared, *chroma = (
                    torch.from_numpy(plane).to(device).float() for plane in planes
                )
                features = student(luma[None, None] / 255, infrared[None, None] / 255).features
                if head is not None:
                    colors = (small_chroma(*c[None].split(1, dim=1)) for c in chroma)
                    head(features, next(colors, None))
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError("calibration needs at least one pair")
    # A convolution whose inputs are all zero has no range and is not quantized.
    return {name: (low, high) for name, (low, high) in ranges.items() if low < 0 or high > 0}


def quantize_convolutions(network: nn.Module, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Replace the convolutions that `ranges` names by `QuantizedConv2d`.

    Args:
        network: changed in place.
        ranges: lowest and highest input by name, as from `observe_ranges`.

    Raises:
        ValueError: a name that is no convolution of the network.
    """
    modules = dict(network.named_modules())
    for name, (low, high) in ranges.items():
        conv = modules.get(name)
        if not isinstance(conv, nn.Conv2d):
            raise ValueError(f"ranges name '{name}', which is no convolution of these weights")
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, QuantizedConv2d(conv, low, high))
