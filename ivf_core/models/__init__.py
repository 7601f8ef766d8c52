"""Networks, their weights files, and the graph that the engines run."""
