"""Saved rollouts under another reward mix, without a policy: what would have been different."""

from grpo_mmpc.rescoring.files import write_summary
from grpo_mmpc.rescoring.replay import Replay, replay
from grpo_mmpc.rescoring.summary import Summary, summarise
from grpo_mmpc.rescoring.text import told

__all__ = ["Replay", "Summary", "replay", "summarise", "told", "write_summary"]
