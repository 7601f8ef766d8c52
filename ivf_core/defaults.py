"""Names that commands and parameters offer; importing them loads nothing heavy."""

DEFAULT_WEIGHTS = "fast"
"""The shipped weights that node and command line take where none are named."""

ENGINES = ("torch", "openvino", "onnxruntime")
"""What can run the model; each is also the name of its Python package."""

PRECISIONS = ("fp32", "bf16", "fp16")
"""Arithmetic of the model."""
