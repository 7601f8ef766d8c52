"""Scores of fused pictures and masks."""
