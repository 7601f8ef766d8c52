"""SARTM: SAM2 with LoRA on pairs of images, and its training with the help of CLIP's texts."""
