"""From a pair of images to a fused picture and its labels."""

from ivf_core.inference.pipeline import FusionPipeline, FusionResult, ImagePair

__all__ = ["FusionPipeline", "FusionResult", "ImagePair"]
