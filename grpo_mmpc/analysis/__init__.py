"""Analyses of rewards and saved rollouts that need no policy."""
