"""Options that every engine takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ivf_core.inference.artifacts import ArtifactCache

__all__ = ["EngineOptions"]


@dataclass(frozen=True)
class EngineOptions:
    """Device, arithmetic and cache of an engine; each engine rejects values that it lacks.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N"; OpenVINO also takes its own GPU as "gpu",
            ONNX Runtime "tensorrt" or "tensorrt:N".
        precision: one of `PRECISIONS`.
        threads: threads on a CPU; 0 keeps the engine's own number.
        cache: store of exports and compiled models, unused by PyTorch.
    """

    device: str = "auto"
    precision: str = "fp32"
    threads: int = 0
    cache: ArtifactCache = field(default_factory=ArtifactCache)
