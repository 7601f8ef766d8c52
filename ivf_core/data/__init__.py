"""Data sets: layouts, pairs, crops and checks."""
