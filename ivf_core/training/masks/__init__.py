"""Masks of both modalities for SAGE's teacher: their sources, and the cache on disk."""
