"""HTML report of a replay: its charts, findings and reference scores."""
