"""The pages of catalogues: what a check counted, and what a completion filled."""
