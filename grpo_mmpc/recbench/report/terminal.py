"""The report in a terminal: tables, sentences and cautions."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.report.views import FillLine, GroupView, recommendation_view
from grpo_mmpc.reports.common.findings import terminal_lines as terminal_findings
from grpo_mmpc.reports.common.labels import number
from grpo_mmpc.reports.common.tables import text_table
from grpo_mmpc.statistics.verdicts import BETTER, WORSE
from grpo_mmpc.utils.console import coloured, printable

_COLOURS = {BETTER: "green", WORSE: "red"}
_HEAD = ("", "Recall@20", "NDCG@20", "change", "95% interval", "p", "verdict", "recovery", "filled")
_LEFT_OUT = ("NDCG@20", "filled", "p", "recovery")
"""Columns that a narrow terminal does without, in this order: sentences and the page have them."""


def terminal_lines(results: Mapping[str, Any], *, colour: bool, width: int) -> list[str]:
    """Return what a person reads when the benchmark ends, in a terminal of so many columns."""
    shown = recommendation_view(results)
    lines = [] if shown.groups else ["", shown.nothing]
    for group in shown.groups:
        about = map(printable, (group.panel.title, group.panel.note))
        lines += ["", *about, "", *_table(group, colour=colour, width=width)]
        lines += ["", *terminal_findings(group.findings, colour=colour, width=width)]
    if shown.cautions:
        lines += ["", *terminal_findings(shown.cautions, width=width)]
    return lines


def _table(group: GroupView, *, colour: bool, width: int) -> list[str]:
    left = [_HEAD.index(name) for name in ("", "verdict", "recovery")]
    lines = text_table(_HEAD, map(_cells, group.lines), left=left, spare=_LEFT_OUT, width=width)
    for place, line in enumerate(group.lines, start=1):
        lines[place] = coloured(lines[place], _COLOURS.get(line.difference.verdict) if colour else None)
    return lines


def _cells(line: FillLine) -> tuple[str, ...]:
    one = line.difference
    level, filled = number(line.value), line.coverage
    return line.name, level, line.second, one.change, one.interval_text, one.p_text, line.verdict, line.recovery, filled
