"""The networks, their checkpoints, and the graph that the engines run."""
