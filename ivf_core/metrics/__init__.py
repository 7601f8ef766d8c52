"""Metrics of fused images and masks."""
