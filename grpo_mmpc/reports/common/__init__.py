"""What every page is made of: templates, styles, figures, labels, thumbnails."""
