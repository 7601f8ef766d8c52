"""Training of segmentation heads and of segmenters on fused images."""
