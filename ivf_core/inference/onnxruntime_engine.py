"""The fusion graph on ONNX Runtime: CPU, CUDA and TensorRT."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import torch

from ivf_core.inference.artifacts import ArtifactCache
from ivf_core.inference.export import INPUT_NAMES
from ivf_core.inference.onnx_store import OnnxStore
from ivf_core.models.checkpoints import FusionModel

__all__ = ["OnnxRuntimeEngine"]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class OnnxRuntimeEngine:
    """Runs the exported graph on ONNX Runtime, sizes as they come.

    Args:
        model: the networks.
        device: "auto", "cpu", "cuda" or "tensorrt", the last two also with ":N";
            auto takes CUDA where its provider is installed.
        precision: "fp32" or "fp16".
        threads: of the CPU; 0 leaves it to ONNX Runtime.
        cache: where exports, and TensorRT's engines, are kept.

    Raises:
        ValueError: a device whose provider is not installed, or another precision.
    """

    name = "onnxruntime"

    def __init__(
        self,
        model: FusionModel,
        device: str = "auto",
        precision: str = "fp32",
        threads: int = 0,
        cache: ArtifactCache | None = None,
    ) -> None:
        if precision not in _DTYPES:
            raise ValueError(f"precision '{precision}': ONNX Runtime has {', '.join(_DTYPES)}")
        kind, index = _parse(device)
        self.device = f"{kind}:{index}" if kind != "cpu" else kind
        self.precision = precision
        # Its CPU kernels compute in fp16 by way of fp32.
        self.native_precisions: tuple[str, ...] = () if kind == "cpu" else ("fp16",)
        self._has_head = model.head is not None
        cache = cache if cache is not None else ArtifactCache()
        self._onnx = OnnxStore(model, cache)
        self._providers: list[tuple[str, dict[str, Any]]] = [
            (_PROVIDERS[kind], {} if kind == "cpu" else {"device_id": index})
        ]
        if kind == "tensorrt":
            # TensorRT builds an engine for every new size, which takes minutes. It knows
            # its files by the graph without the weights: each model has a folder.
            folder = cache.directory / "tensorrt" / self._onnx.fingerprint[:32]
            self._providers[0][1].update(
                trt_fp16_enable=precision == "fp16",
                trt_engine_cache_enable=True,
                trt_engine_cache_path=str(folder),
            )
            self._providers.append((_PROVIDERS["cuda"], {"device_id": index}))
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._sessions: dict[tuple[bool, bool], onnxruntime.InferenceSession] = {}
        self._session(True, False)  # a provider that does not work says so here

    def __call__(
        self, visible: np.ndarray, infrared: np.ndarray, *, fused: bool = True, labels: bool = True
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Fuse and segment one pair; see `Engine`."""
        labels = labels and self._has_head
        if not (fused or labels):
            return None, None
        images = (np.ascontiguousarray(image)[None] for image in (visible, infrared))
        inputs = dict(zip(INPUT_NAMES, images, strict=True))
        outputs = iter(self._session(fused, labels).run(None, inputs))
        picture = next(outputs)[0] if fused else None
        ids = next(outputs)[0] if labels else None
        return picture, ids

    def _session(self, fused: bool, labels: bool) -> onnxruntime.InferenceSession:
        """ONNX Runtime computes every output of a file: each choice has a file of its own."""
        if (fused, labels) not in self._sessions:
            content = self._onnx.get(fused, labels, _DTYPES[self.precision])
            try:
                session = onnxruntime.InferenceSession(
                    content, self._options, providers=self._providers, enable_fallback=0
                )
            except Exception as error:  # its own classes, of no common base
                raise ValueError(f"ONNX Runtime on {self.device}: {error}") from error
            wanted = self._providers[0][0]
            if session.get_providers()[0] != wanted:
                raise ValueError(
                    f"device '{self.device}': ONNX Runtime has {wanted}, but it does not work here"
                )
            session.disable_fallback()
            self._sessions[fused, labels] = session
        return self._sessions[fused, labels]


def _parse(device: str) -> tuple[str, int]:
    """Kind and index of a device.

    Raises:
        ValueError: not a device whose provider is installed.
    """
    available = onnxruntime.get_available_providers()
    usable = [kind for kind, provider in _PROVIDERS.items() if provider in available]
    kind, separator, index = device.partition(":")
    if device == "auto":
        return ("cuda" if "cuda" in usable and torch.cuda.is_available() else "cpu"), 0
    if kind not in usable or (separator and (kind == "cpu" or not index.isdigit())):
        raise ValueError(f"device '{device}': expected auto or one of {', '.join(usable)}")
    return kind, int(index or 0)
