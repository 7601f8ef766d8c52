"""Replay a bag: run the pipeline on every pair, write the results, score them."""
