"""The commands of `ivf`, a module for each group."""
