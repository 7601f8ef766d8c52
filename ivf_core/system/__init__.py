"""Helpers of the process: memory, child processes, files."""
