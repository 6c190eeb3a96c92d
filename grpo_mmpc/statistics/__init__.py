"""Intervals, tests and verdicts on plain arrays, for every comparison of this package."""
