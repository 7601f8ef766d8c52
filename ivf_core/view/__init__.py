"""Local page that shows pairs and their results: of a recording, or of a running node."""
