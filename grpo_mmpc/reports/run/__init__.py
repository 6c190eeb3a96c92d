"""A run folder as one self-contained HTML page, and as CSV and LaTeX tables."""
