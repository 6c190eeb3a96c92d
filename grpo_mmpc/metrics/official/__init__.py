"""The official benchmark's metrics, quirks included: to compare with published numbers, and for nothing else."""
