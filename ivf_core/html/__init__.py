"""Templates, styles, charts and embedded images of every page that this package writes."""
