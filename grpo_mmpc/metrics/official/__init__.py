"""The official benchmark's metrics, quirks included, to compare with published numbers only."""
