"""The reward bench: separation of the true answer from wrong ones, speed, and repeatability."""
