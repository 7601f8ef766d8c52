"""Names that commands and parameters offer; importing them loads nothing heavy."""

DEFAULT_WEIGHTS = "fast"
"""The shipped weights that node and command line take where none are named."""

ENGINE_PACKAGES = {
    "torch": ("torch",),
    "openvino": ("openvino", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
}
"""The Python packages that each engine needs, named alike in Python and on PyPI."""

ENGINES = tuple(ENGINE_PACKAGES)
"""What can run the model."""

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""Arithmetic of the model."""

PICTURES = ("fused", "mask", "overlay")
"""What the node publishes as images."""

TOLERANCE_SECONDS = 0.02
"""Largest difference between the stamps of a pair."""

MINIMUM_INTERVAL_SECONDS = 0.015
"""Frames of one camera are taken to come no closer than this."""

QUEUE_SIZE = 10
"""Frames of each camera that wait for a partner."""

OVERLAY_OPACITY = 0.5
"""Share of the class colours in the overlay."""

BLOCK_SECONDS = 5.0
"""Of the bootstrap of comparisons: longer than most of what a moving camera sees stays alike."""
