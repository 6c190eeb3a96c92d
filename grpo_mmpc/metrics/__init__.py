"""Evaluation metrics: pure functions, and one table of them in ``grpo_mmpc.metrics.table``."""
