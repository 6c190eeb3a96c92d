"""Where catalogues come from: Amazon Reviews 2023, and pictures from the web."""
