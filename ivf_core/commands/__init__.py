"""Commands of `ivf`, one module for each group."""
