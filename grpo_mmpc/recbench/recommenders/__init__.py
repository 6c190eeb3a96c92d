"""The recommenders, written from their papers."""
