"""ONNX exports of one model, stored on disk."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

import torch

from ivf_core.inference.artifacts import ArtifactCache
from ivf_core.inference.export import export_onnx
from ivf_core.models.checkpoints import FusionModel

__all__ = ["OnnxStore"]

# Modules that determine the exported graph: a change in any of them makes stored files stale.
_SOURCES = (
    "ivf_core.inference.export",
    "ivf_core.models.graph",
    "ivf_core.models.quantization",
    "ivf_core.models.segmentation",
    "ivf_core.models.student",
)


class OnnxStore:
    """Store of a model's exports, each made at first use.

    Args:
        model: the networks.
        cache: stores the exports.

    Attributes:
        fingerprint: SHA-256 of weights, ranges, class set and the code that exports them.
    """

    def __init__(self, model: FusionModel, cache: ArtifactCache) -> None:
        self._model = model
        self._cache = cache
        self.fingerprint = _fingerprint(model)

    def get(
        self,
        fused: bool,
        labels: bool,
        dtype: torch.dtype = torch.float32,
        *,
        int8: bool = False,
    ) -> bytes:
        """Return an ONNX file, see `export_onnx`.

        Args:
            fused: include the fused image.
            labels: include the class ids.
            dtype: dtype of the networks.
            int8: quantize the convolutions that can run in 8 bits.
        """
        key = {
            "kind": "onnx",
            "torch": torch.__version__,
            "graph": self.fingerprint,
            "outputs": [fused, labels],
            "dtype": str(dtype),
            "int8": int8,
        }
        return self._cache.get(
            key,
            lambda: export_onnx(self._model, fused=fused, labels=labels, dtype=dtype, int8=int8),
        )


def _fingerprint(model: FusionModel) -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(Path(str(import_module(name).__file__)).read_bytes())
    for network in (model.student, model.head):
        for name, tensor in (network.state_dict() if network is not None else {}).items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digest.update(model.class_set.to_json().encode() if model.class_set else b"")
    digest.update(repr(sorted(model.ranges.items())).encode())
    return digest.hexdigest()
