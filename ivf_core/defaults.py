"""Names that commands and parameters offer; importing them loads nothing heavy."""

DEFAULT_WEIGHTS = "clear"
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
