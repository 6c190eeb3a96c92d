"""Reward functions, one family per file; README.md says what each measures and how it can be gamed.

They are plug-ins: ``grpo_mmpc`` finds them through the entry-point group ``grpo_mmpc.rewards`` and
imports none by name.
"""
