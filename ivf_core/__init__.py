"""Infrared and visible image fusion with semantic masks. Needs no ROS.

    from ivf_core import FusionPipeline, ImagePair, read_infrared, read_visible, write_image

    pipeline = FusionPipeline("street")
    result = pipeline(ImagePair(read_visible("rgb.png"), read_infrared("thermal.png")))
    write_image("fused.png", result.fused)  # result.labels has the class ids

The names are imported when they are first used: `import ivf_core` loads neither PyTorch nor
OpenCV.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivf_core.images.files import read_infrared, read_visible, write_image
    from ivf_core.inference.pipeline import FusionPipeline, FusionResult, ImagePair
    from ivf_core.models.checkpoints import load_model

__version__ = "0.2.0"

__all__ = [
    "FusionPipeline",
    "FusionResult",
    "ImagePair",
    "load_model",
    "read_infrared",
    "read_visible",
    "write_image",
]

_MODULES = {
    "FusionPipeline": "ivf_core.inference.pipeline",
    "FusionResult": "ivf_core.inference.pipeline",
    "ImagePair": "ivf_core.inference.pipeline",
    "load_model": "ivf_core.models.checkpoints",
    "read_infrared": "ivf_core.images.files",
    "read_visible": "ivf_core.images.files",
    "write_image": "ivf_core.images.files",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
