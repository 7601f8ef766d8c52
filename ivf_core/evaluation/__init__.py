"""Scores of fused images and masks, and the files that show them: `ivf evaluate`."""
