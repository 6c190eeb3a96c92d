"""Intervals, tests and verdicts, on plain arrays: what every comparison of this package rests on."""
