"""Masks of both modalities for SAGE's teacher: sources, cache, and the run that fills it."""
