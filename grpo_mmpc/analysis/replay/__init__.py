"""Replay: the saved rollouts of a run under another reward mix, without a policy."""
