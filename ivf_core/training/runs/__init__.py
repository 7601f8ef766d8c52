"""Parts that every training run shares: recipe, record, checkpoint, devices, loop."""
