"""Inference: fuse a pair of images and segment it."""

from ivf_core.inference.pipeline import FusionPipeline, FusionResult, ImagePair

__all__ = ["FusionPipeline", "FusionResult", "ImagePair"]
