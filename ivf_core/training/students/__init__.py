"""Training of students outside SAGE: from another student, and without a teacher."""
