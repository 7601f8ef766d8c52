"""FusionSAM: tokenizers, SAM on fused images, and their training."""
