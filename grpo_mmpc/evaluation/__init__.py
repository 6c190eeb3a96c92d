"""Suites, the runner, and paired comparisons of two evaluations."""
