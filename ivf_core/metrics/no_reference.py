"""No-reference metrics of fused images: BRISQUE, NIQE, MUSIQ, PaQ-2-PiQ.

IQA-PyTorch (`pyiqa`, the extra `no-reference`) computes them with its defaults. Its licence,
PolyForm Noncommercial, is stricter than ours: nothing of it is in this package. It and PyTorch
are imported when a metric is computed.

Each needs a file of weights, which is never downloaded automatically: without it the error
says where to get it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ivf_core.metrics.inputs import check_images

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "NO_REFERENCE_METRICS",
    "MetricUnavailableError",
    "NoReferenceMetric",
    "no_reference_metrics",
    "weights_directory",
]

_HUB = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"


class MetricUnavailableError(ValueError):
    """Error for a metric without its library or weights; the message says where to get them."""


@dataclass(frozen=True)
class NoReferenceMetric:
    """Entry of `NO_REFERENCE_METRICS`."""

    key: str
    """Name in IQA-PyTorch."""
    weights: str
    """File name of the weights."""
    smallest: int
    """Smallest height and width of an image."""
    higher_is_better: bool = True


NO_REFERENCE_METRICS: Mapping[str, NoReferenceMetric] = {
    # Mittal, Moorthy and Bovik, TIP 2012.
    "BRISQUE": NoReferenceMetric("brisque", "brisque_svm_weights.pth", 16, False),
    # Mittal, Soundararajan and Bovik, SPL 2013; a Gaussian over blocks of 96 x 96.
    "NIQE": NoReferenceMetric("niqe", "niqe_modelparameters.mat", 192, False),
    # Ke et al., ICCV 2021; weights trained on KonIQ-10k.
    "MUSIQ": NoReferenceMetric("musiq", "musiq_koniq_ckpt-e95806b9.pth", 32),
    # Ying et al., CVPR 2020.
    "PaQ-2-PiQ": NoReferenceMetric("paq2piq", "P2P_RoIPoolModel-fit.10.bs.120-ca69882e.pth", 64),
}
"""Metrics by the names that papers use."""


def weights_directory() -> Path:
    """Return IQA-PyTorch's folder of downloads: `pyiqa` in the hub directory of torch."""
    import torch

    return Path(torch.hub.get_dir()) / "pyiqa"


def no_reference_metrics(
    fused: np.ndarray,
    names: Iterable[str] = tuple(NO_REFERENCE_METRICS),
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """Score an image with several metrics.

    Args:
        fused: H x W, or H x W x 3 RGB, uint8, float32 or float64 in 0..255. BRISQUE and NIQE
            take the luma of a colour image; the others were trained on colour.
        names: keys of `NO_REFERENCE_METRICS`; all by default.
        weights: directory of the weights; `weights_directory()` by default.
        device: device that computes: "cpu", "cuda" or "cuda:N", or "auto" for a CUDA device
            if PyTorch finds one.

    Returns:
        Values by name, in the order of `names`.

    Raises:
        MetricUnavailableError: PyTorch, pyiqa or a file is missing, or the file belongs to
            another metric.
        ValueError: an unknown name, or see `check_images`.
    """
    values = {}
    for name in names:
        if name not in NO_REFERENCE_METRICS:
            raise ValueError(f"metric '{name}', known: {', '.join(NO_REFERENCE_METRICS)}")
        check_images(NO_REFERENCE_METRICS[name].smallest, color=True, fused=fused)
        try:
            import torch
        except ImportError as error:
            raise _missing_library(name, error) from error
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        directory = Path(weights) if weights is not None else weights_directory()
        network = _load(name, directory, device)
        pixels = np.atleast_3d(fused).astype(np.float32).transpose(2, 0, 1) / 255
        image = torch.from_numpy(pixels)[None].to(device)
        if name in ("MUSIQ", "PaQ-2-PiQ"):
            image = image.expand(-1, 3, -1, -1)
        with torch.inference_mode():
            values[name] = network(image).item()
    return values


def _missing_library(name: str, error: ImportError) -> MetricUnavailableError:
    return MetricUnavailableError(
        f"metric '{name}' needs pyiqa ({error}): pip install 'ivf_ros[no-reference]'"
    )


@lru_cache(maxsize=8)
def _load(name: str, directory: Path, device: str) -> nn.Module:
    """Load the metric's network in evaluation mode; it takes values in [0, 1]."""
    metric = NO_REFERENCE_METRICS[name]
    path = directory / metric.weights
    if not path.is_file():
        raise MetricUnavailableError(
            f"metric '{name}': no weights at '{path}'; get them: "
            f"curl -L --create-dirs -o '{path}' {_HUB}/{metric.weights}"
        )
    import torch

    try:
        import pyiqa
    except ImportError as error:
        raise _missing_library(name, error) from error
    try:
        if path.suffix == ".pth":
            # pyiqa would run code in the file; a file that loads as data has none.
            torch.load(path, map_location="cpu", weights_only=True)
        # pyiqa prints its progress.
        with contextlib.redirect_stdout(io.StringIO()), _without_imagenet():
            return pyiqa.create_metric(
                metric.key, device=device, pretrained_model_path=str(path)
            ).eval()
    except Exception as error:  # the readers of pickle, torch and MATLAB raise their own
        raise MetricUnavailableError(
            f"metric '{name}': '{path}' is not its file of weights ({_HUB}/{metric.weights}): "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


@contextlib.contextmanager
def _without_imagenet() -> Iterator[None]:
    """Build PaQ-2-PiQ's ResNet without ImageNet weights, which it would download and replace."""
    from torchvision import models

    build = models.resnet18

    def bare(*, weights: Any = None, **options: Any) -> nn.Module:
        return build(weights=None, **options)

    models.resnet18 = bare
    try:
        yield
    finally:
        models.resnet18 = build
