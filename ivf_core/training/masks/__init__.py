"""Masks of both modalities for a teacher: sources, cache, and the command that fills it."""
