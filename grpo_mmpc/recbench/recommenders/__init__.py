"""Recommenders, written from their papers."""
