"""Engine on ONNX Runtime: the fusion graph on a CPU, CUDA or TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from ivf_core.inference.onnx_store import OnnxStore
from ivf_core.inference.options import EngineOptions
from ivf_core.inference.protocol import EngineResult
from ivf_core.models.interface import INPUT_NAMES, OutputChoice
from ivf_core.models.weights_files import WeightsFile
from ivf_core.system.processor import has_cuda_device

if TYPE_CHECKING:
    from ivf_core.models.checkpoints import FusionModel

__all__ = ["OnnxRuntimeEngine"]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_PRECISIONS = ("fp32", "fp16")


class OnnxRuntimeEngine:
    """Engine that runs the exported graph on ONNX Runtime, for images of any size.

    Args:
        weights: opened weights file, or networks in memory.
        options: device "auto", "cpu", "cuda" or "tensorrt", the last two also with ":N";
            auto takes CUDA if its provider is installed. Precision "fp32", or
            "fp16", for which PyTorch exports the graph. The cache stores exports and
            TensorRT's engines.

    Raises:
        ValueError: a device whose provider is not installed, another precision, or weights
            without a graph where PyTorch is missing.
    """

    name = "onnxruntime"

    def __init__(self, weights: WeightsFile | FusionModel, options: EngineOptions) -> None:
        self.precision = options.precision
        if self.precision not in _PRECISIONS:
            has = ", ".join(_PRECISIONS)
            raise ValueError(f"precision '{self.precision}': ONNX Runtime has {has}")
        kind, index = _parse(options.device)
        self.device = f"{kind}:{index}" if kind != "cpu" else kind
        # Its CPU kernels convert fp16 to fp32 to compute.
        self.native_precisions: tuple[str, ...] = () if kind == "cpu" else ("fp16",)
        self._has_head = weights.class_set is not None
        self._onnx = OnnxStore(weights, options.cache)
        self._providers: list[tuple[str, dict[str, Any]]] = [
            (_PROVIDERS[kind], {} if kind == "cpu" else {"device_id": index})
        ]
        if kind == "tensorrt":
            # TensorRT builds an engine for every new size, which takes minutes. It names
            # its files after the graph without the weights, so each model has a folder.
            folder = options.cache.directory / "tensorrt" / self._onnx.fingerprint[:32]
            self._providers[0][1].update(
                trt_fp16_enable=self.precision == "fp16",
                trt_engine_cache_enable=True,
                trt_engine_cache_path=str(folder),
            )
            self._providers.append((_PROVIDERS["cuda"], {"device_id": index}))
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = options.threads
        self._sessions: dict[OutputChoice, onnxruntime.InferenceSession] = {}
        self._session(OutputChoice().without_head())  # raises if the provider does not work

    def forget_sizes(self) -> None:
        """Free the sessions, which keep the memory of the largest images; see `Engine`."""
        self._sessions.clear()

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
        if not self._has_head:
            choice = choice.without_head()
        if not any(choice):
            return EngineResult(None, None, None)
        images = (np.ascontiguousarray(image)[None] for image in (visible, infrared))
        inputs = dict(zip(INPUT_NAMES, images, strict=True))
        outputs = iter(self._session(choice).run(None, inputs))
        return EngineResult(*(next(outputs)[0] if wanted else None for wanted in choice))

    def _session(self, choice: OutputChoice) -> onnxruntime.InferenceSession:
        """Return the session for a choice of outputs.

        ONNX Runtime computes every output of a graph, so each choice has its own.
        """
        if choice not in self._sessions:
            graph = self._onnx.half_graph if self.precision == "fp16" else self._onnx.graph
            content = _keep_outputs(graph, choice.names())
            try:
                session = onnxruntime.InferenceSession(
                    content, self._options, providers=self._providers, enable_fallback=0
                )
            except Exception as error:  # its exceptions have no common base class
                raise ValueError(f"ONNX Runtime on {self.device}: {error}") from error
            provider = self._providers[0][0]
            if session.get_providers()[0] != provider:
                raise ValueError(
                    f"device '{self.device}': ONNX Runtime has {provider}, "
                    "but it does not work here"
                )
            session.disable_fallback()
            self._sessions[choice] = session
        return self._sessions[choice]


def _keep_outputs(content: bytes, names: list[str]) -> bytes:
    """Return an ONNX file with some of the outputs, and only what these need."""
    model = onnx.load_model_from_string(content)
    needed = set(names)
    nodes = []
    for node in reversed(model.graph.node):  # which is sorted
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    nodes.reverse()
    for field, kept in (
        ("node", nodes),
        ("output", [output for output in model.graph.output if output.name in names]),
        ("initializer", [part for part in model.graph.initializer if part.name in needed]),
    ):
        copies = [type(part).FromString(part.SerializeToString()) for part in kept]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    return model.SerializeToString()


def _parse(device: str) -> tuple[str, int]:
    """Split a device name into its kind and index.

    Raises:
        ValueError: no device whose provider is installed has this name.
    """
    available = onnxruntime.get_available_providers()
    usable = [kind for kind, provider in _PROVIDERS.items() if provider in available]
    kind, separator, index = device.partition(":")
    if device == "auto":
        return ("cuda" if "cuda" in usable and has_cuda_device() else "cpu"), 0
    if kind not in usable or (separator and (kind == "cpu" or not index.isdigit())):
        raise ValueError(f"device '{device}': expected auto or one of {', '.join(usable)}")
    return kind, int(index or 0)
