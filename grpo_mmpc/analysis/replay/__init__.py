"""Saved rollouts under another reward mix, without a policy: what would have been different."""

from grpo_mmpc.analysis.replay.files import write_summary
from grpo_mmpc.analysis.replay.replay import Replay, replay
from grpo_mmpc.analysis.replay.summary import Summary, summarise
from grpo_mmpc.analysis.replay.text import told

__all__ = ["Replay", "Summary", "replay", "summarise", "told", "write_summary"]
