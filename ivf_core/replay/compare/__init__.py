"""Comparison of two replays, `ivf replay --compare A B`, with confidence intervals."""
