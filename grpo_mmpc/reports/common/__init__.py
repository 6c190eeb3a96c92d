"""The parts of every page: templates, styles, figures, labels, thumbnails."""
