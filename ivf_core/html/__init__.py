"""One kit for every page that is written: templates, styles and charts in one file."""
