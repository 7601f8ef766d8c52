"""Measures of every pair of a replay, and of all of them together."""
