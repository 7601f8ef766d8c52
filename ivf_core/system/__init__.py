"""Helpers for the process: memory, child processes, files, git revision, processor time."""
