"""Images before and after the model: thermal range, registration, palettes, files."""
