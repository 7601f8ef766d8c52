"""Training of the students and heads, offline."""
