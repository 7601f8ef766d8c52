"""Training of a student and its head together, for fusion and for masks at once."""
