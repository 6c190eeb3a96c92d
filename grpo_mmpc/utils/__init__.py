"""Leaf modules that know nothing of the toolkit's own records."""
