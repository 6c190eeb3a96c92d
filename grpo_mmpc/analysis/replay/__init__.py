"""Replay: the saved rollouts of a run under another reward mix, without a policy."""

from grpo_mmpc.analysis.replay.replay import replay
from grpo_mmpc.analysis.replay.result import Replay
from grpo_mmpc.analysis.replay.text import lines

__all__ = ["Replay", "lines", "replay"]
