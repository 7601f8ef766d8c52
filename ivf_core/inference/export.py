"""Export of the fusion graph to ONNX, for other engines and other programs."""

from __future__ import annotations

import inspect
import io
import json
import threading
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ivf_core import __version__
from ivf_core.models.checkpoints import FusionModel
from ivf_core.models.graph import FusionGraph
from ivf_core.models.interface import INPUT_NAMES, LABEL_STRIDE, MINIMUM_SIZE, OutputChoice
from ivf_core.models.weights_files import GRAPH_FORMAT

__all__ = ["export_onnx"]

_OPSET = 17
_TRACED_SIZE = (64, 96)
_EXPORTING = threading.Lock()  # the exporter and the filters of warnings are global
# The newer exporter takes twenty times as long for the same graph.
_OLD_EXPORTER: dict[str, Any] = (
    {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
)


_LICENSE = "Apache-2.0"  # of this package; weights of one's own may have another
_PORTS = {
    "visible": {
        "layout": "N x H x W x 3", "dtype": "uint8", "range": "0..255",
        "meaning": "RGB image, zeros for an absent camera",
    },
    "infrared": {
        "layout": "N x H x W", "dtype": "uint8", "range": "0..255",
        "meaning": "thermal image, warm is bright, registered and of the visible image's size",
    },
    "fused": {
        "layout": "N x H x W x 3", "dtype": "uint8", "range": "0..255", "meaning": "RGB image",
    },
    "labels": {
        "layout": "N x H/2 x W/2", "dtype": "uint8", "range": "0..classes - 1",
        "meaning": "class id of each block of 2 x 2 pixels",
    },
    "confidence": {
        "layout": "N x H/2 x W/2", "dtype": "uint8", "range": "0..255",
        "meaning": "largest probability of a class, times 255",
    },
}  # fmt: skip
"""Description of each input and output, for the metadata."""


class _Outputs(nn.Module):
    """Fusion graph with a fixed choice of outputs, which an export needs."""

    def __init__(self, graph: FusionGraph, choice: OutputChoice) -> None:
        super().__init__()
        self.graph = graph
        self.choice = choice

    def forward(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, ...]:
        parts = self.graph(visible, infrared, *self.choice)
        return tuple(part for part in parts if part is not None)


def export_onnx(
    model: FusionModel,
    *,
    fused: bool = True,
    labels: bool = True,
    confidence: bool = True,
    dtype: torch.dtype = torch.float32,
    int8: bool = False,
) -> bytes:
    """Export the `FusionGraph` of a model to ONNX.

    Inputs are `visible`, N x H x W x 3 uint8 RGB, and `infrared`, N x H x W uint8;
    outputs are `fused`, N x H x W x 3 uint8, `labels` and `confidence`, N x H/2 x W/2 uint8
    each (see `OutputChoice`). N, height and width are dynamic, height and width at least
    `MINIMUM_SIZE`. The metadata contain the version, the name, digest, licence and notes of the
    weights, layout, dtype and range of each input and output as JSON, the class set, its names
    and colours as JSON, and the stride of the labels. The weights of a convolution have its name
    in the model, such as "graph.student.stages.1.0.weight".

    Args:
        model: the networks, which are not changed.
        fused: include the fused image.
        labels: include the class ids, if the model has a head.
        confidence: include the confidence in the class ids, likewise.
        dtype: dtype of the networks inside the graph.
        int8: put QuantizeLinear and DequantizeLinear around the 8-bit convolutions.

    Returns:
        The content of the ONNX file.

    Raises:
        ValueError: there is no output, or int8 for a model without ranges.
    """
    choice = OutputChoice(fused, labels, confidence)
    if model.head is None:
        choice = choice.without_head()
    names = choice.names()
    if not names:
        raise ValueError(
            "fused, labels and confidence: expected at least one output that the model has"
        )
    graph = _Outputs(FusionGraph(model, dtype, int8=int8).to("cpu").eval(), choice)
    example = (
        torch.zeros(1, *_TRACED_SIZE, 3, dtype=torch.uint8),
        torch.zeros(1, *_TRACED_SIZE, dtype=torch.uint8),
    )
    buffer = io.BytesIO()
    with _EXPORTING, warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        torch.onnx.export(
            graph,
            example,
            buffer,  # type: ignore[arg-type]
            input_names=list(INPUT_NAMES),
            output_names=names,
            dynamic_axes={
                **{name: {0: "batch", 1: "height", 2: "width"} for name in INPUT_NAMES},
                **{name: _axes(name) for name in names},
            },
            opset_version=_OPSET,
            **_OLD_EXPORTER,
        )
    exported = onnx.load_model_from_string(buffer.getvalue())
    exported.producer_name, exported.producer_version = "ivf_ros", __version__
    exported.doc_string = f"Fusion of a visible and a thermal image by the weights {model.name}."
    for entry in (*exported.graph.input, *exported.graph.output):
        entry.doc_string = "{layout}, {dtype} {range}: {meaning}".format(**_PORTS[entry.name])
    onnx.helper.set_model_props(exported, _metadata(model, names))
    return exported.SerializeToString()


def _axes(name: str) -> dict[int, str]:
    suffix = "" if name == "fused" else f"/{LABEL_STRIDE}"
    return {0: "batch", 1: f"height{suffix}", 2: f"width{suffix}"}


def _metadata(model: FusionModel, names: list[str]) -> dict[str, str]:
    entries = {
        "producer": f"ivf_ros {__version__}",
        "version": __version__,
        "license": _LICENSE,
        "inputs": json.dumps({name: _PORTS[name] for name in INPUT_NAMES}),
        "outputs": json.dumps({name: _PORTS[name] for name in names}),
        "format": GRAPH_FORMAT,
        "digest": model.digest(),
        "weights": model.name,
        "architecture": model.architecture,
        "minimum_size": str(MINIMUM_SIZE),
    }
    if model.metadata:
        entries["notes"] = json.dumps(model.metadata)
    if "labels" in names and model.class_set is not None:
        entries |= {
            "class_set": model.class_set.to_json(),
            "class_names": json.dumps(model.class_set.names),
            "class_colors": json.dumps(model.class_set.colors),
            "label_stride": str(LABEL_STRIDE),
        }
    return entries
