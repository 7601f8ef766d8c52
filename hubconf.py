"""Entry points of `torch.hub`.

    graph = torch.hub.load("FOLDER OF THIS REPOSITORY", "street", source="local")
    fused, labels, confidence = graph(visible, infrared)

Each network is a module of PyTorch in evaluation mode. It takes visible images, N x H x W x 3
uint8 RGB, and thermal images, N x H x W uint8, and returns N x H x W x 3 uint8 RGB, class ids
and, with `want_confidence=True`, the confidence in these, N x H/2 x W/2 uint8 each (None
otherwise). `class_set` names its classes. `pipeline` returns a `FusionPipeline`, which prepares
thermal images of any depth.
"""

from __future__ import annotations

from typing import Any

dependencies = ["cv2", "numpy", "safetensors", "torch", "yaml"]
"""Packages that `torch.hub` looks for."""


def street(device: str = "auto") -> Any:
    """Return the network of the default weights: masks of 13 classes of a street.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
    """
    return _graph("street", device)


def clear(device: str = "auto") -> Any:
    """Return the network that keeps what both cameras see, with MFNet's nine classes.

    Args:
        device: as for `street`.
    """
    return _graph("clear", device)


def fast(device: str = "auto") -> Any:
    """Return the network distilled from SAGE's published student, with MFNet's nine classes.

    Args:
        device: as for `street`.
    """
    return _graph("fast", device)


def sage(device: str = "auto") -> Any:
    """Return the network in the architecture published with SAGE, without masks.

    Args:
        device: as for `street`.
    """
    return _graph("sage", device)


def pipeline(weights: str = "street", **options: Any) -> Any:
    """Return a `FusionPipeline`.

    Args:
        weights: name of shipped weights, or a weights file.
        **options: as for `FusionPipeline`; the engine is torch unless it is given.
    """
    from ivf_core import FusionPipeline

    return FusionPipeline(weights, **{"engine": "torch", **options})


def _graph(name: str, device: str) -> Any:
    from ivf_core.inference.torch_engine import choose_device
    from ivf_core.models.checkpoints import load_model
    from ivf_core.models.graph import FusionGraph

    model = load_model(name)
    graph = FusionGraph(model).to(choose_device(device)).eval()
    graph.class_set = model.class_set
    return graph
