"""Training of SAGE (Wu et al., CVPR 2025): teacher, encoder of L_cs, bi-level distillation."""
