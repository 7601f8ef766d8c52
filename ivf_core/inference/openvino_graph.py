"""Changes to a graph in OpenVINO before it is compiled: chosen outputs, 8-bit convolutions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import openvino
from openvino import opset13 as opset

from ivf_core.models.weights_files import Ranges

__all__ = ["keep_outputs", "quantize"]

_INPUT_LEVELS = 256
_WEIGHT_LEVELS = 255
_PREFIX, _SUFFIX = "graph.", ".weight"  # around a convolution's name, in that of its weights


def keep_outputs(model: openvino.Model, names: Iterable[str]) -> openvino.Model:
    """Return a model with some of the outputs, and only what these need.

    Args:
        model: the graph.
        names: names of the outputs, in order.
    """
    results = [model.output(name).get_node() for name in names]
    return openvino.Model(results, model.get_parameters(), model.get_friendly_name())


def quantize(model: openvino.Model, ranges: Ranges) -> None:
    """Round inputs and weights of convolutions to 8 bits, as `QuantizedConv2d` does.

    OpenVINO then computes these convolutions with integers.

    Args:
        model: the graph, changed in place.
        ranges: lowest and highest input by name of the convolution; a convolution that the
            graph has not, as those of a head that is not wanted, is left out.
    """
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Convolution":
            continue
        constant = op.input_value(1).get_node()
        name = constant.get_friendly_name().removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if name in ranges and constant.get_type_name() == "Constant":
            _round_input(op, *ranges[name])
            _round_weights(op, constant.get_data())


def _round_input(convolution: openvino.Node, low: float, high: float) -> None:
    """Round the input to 256 levels of its range, one of which is zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (_INPUT_LEVELS - 1)
    zero_point = round(-low / scale)
    lowest, highest = -zero_point * scale, (_INPUT_LEVELS - 1 - zero_point) * scale
    _insert(convolution, 0, np.asarray(lowest), np.asarray(highest), _INPUT_LEVELS)


def _round_weights(convolution: openvino.Node, weights: np.ndarray) -> None:
    """Round the weights of each output channel to 255 levels around zero."""
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True).clip(1e-12).astype(np.float32)
    _insert(convolution, 1, -largest, largest, _WEIGHT_LEVELS)


def _insert(
    convolution: openvino.Node, port: int, low: np.ndarray, high: np.ndarray, levels: int
) -> None:
    """Put a FakeQuantize before an input of a convolution."""
    limits = [opset.constant(limit, np.float32) for limit in (low, high)]
    rounded = opset.fake_quantize(convolution.input_value(port), *limits, *limits, levels)
    convolution.input(port).replace_source_output(rounded.output(0))
