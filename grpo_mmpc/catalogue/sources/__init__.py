"""Sources of catalogues: Amazon Reviews 2023, and images from the web."""
