"""Rigs of a visible and a thermal camera: lenses, extrinsics, files, and the remap onto RGB."""
