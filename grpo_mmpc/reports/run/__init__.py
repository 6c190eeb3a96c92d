"""A run folder as one self-contained HTML page, and as CSV and LaTeX tables."""

from grpo_mmpc.reports.run.export import write_tables
from grpo_mmpc.reports.run.page import build_report

__all__ = ["build_report", "write_tables"]
