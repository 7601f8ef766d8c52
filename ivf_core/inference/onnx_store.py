"""ONNX graphs of weights: the file beside them, or an export with PyTorch stored on disk."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ivf_core.inference.artifacts import ArtifactCache
from ivf_core.models.weights_files import WeightsFile, is_graph_of

if TYPE_CHECKING:
    from ivf_core.models.checkpoints import FusionModel

__all__ = ["OnnxStore"]

# Modules that determine the exported graph: a change in any of them makes stored files stale.
_SOURCES = (
    "ivf_core.inference.export",
    "ivf_core.models.color",
    "ivf_core.models.graph",
    "ivf_core.models.segmentation",
    "ivf_core.models.street",
    "ivf_core.models.student",
    "ivf_core.models.upsampling",
)


class OnnxStore:
    """Store of the graphs of one model.

    The graph of a weights file is the ONNX file beside it. Without one, and for networks in
    memory, PyTorch exports the graph at first use.

    Args:
        weights: opened weights file, or networks in memory, which must not change meanwhile.
        cache: stores the exports.
    """

    def __init__(self, weights: WeightsFile | FusionModel, cache: ArtifactCache) -> None:
        self._weights = weights
        self._cache = cache

    @cached_property
    def graph(self) -> bytes:
        """ONNX file with all outputs of the model in fp32, see `export_onnx`.

        Raises:
            ValueError: there is none and PyTorch, which exports it, is not installed; says
                what to do.
            WeightsError: see `load_model`.
        """
        if isinstance(self._weights, WeightsFile):
            content = self._weights.read_graph()
            if content is not None:
                return content
        return self._export("float32")

    @cached_property
    def half_graph(self) -> bytes:
        """The same with networks in fp16, which is always exported; errors as for `graph`."""
        return self._export("float16")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the graph and of the ranges for 8 bits; errors as for `graph`."""
        digest = hashlib.sha256(self.graph)
        digest.update(repr(sorted(self._weights.ranges.items())).encode())
        return digest.hexdigest()

    def _export(self, dtype: str) -> bytes:
        """Return an export from the cache, or export the networks."""
        if missing := [name for name in ("torch", "onnx") if not _is_installed(name)]:
            raise ValueError(
                f"weights '{self._weights.name}': there is no graph of them beside the file, and "
                f"{' and '.join(missing)} cannot be imported to export one. Run 'ivf export "
                f"--weights {self._weights.name}' where PyTorch is installed and copy the .onnx "
                "file beside the weights, or: pip install torch onnx"
            )
        import torch

        from ivf_core.inference.export import export_onnx
        from ivf_core.models.checkpoints import load_model

        model = self._weights
        if isinstance(model, WeightsFile):
            model = load_model(model)
        key = {
            "kind": "onnx",
            "torch": torch.__version__,
            "sources": _digest_sources(),
            "networks": model.digest(),
            "name": model.name,
            "dtype": dtype,
        }
        networks = model

        def build() -> bytes:
            return export_onnx(networks, dtype=getattr(torch, dtype))

        content = self._cache.get(key, build)
        if not is_graph_of(content, networks.digest()):  # not what this class stores
            self._cache.discard(key)
            content = self._cache.get(key, build)
        return content


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _digest_sources() -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        digest.update(Path(str(spec.origin)).read_bytes())
    return digest.hexdigest()
