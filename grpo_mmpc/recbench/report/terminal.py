"""The report in a terminal: tables, sentences and cautions."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.report.views import FillLine, GroupView, recommendation_view
from grpo_mmpc.reports.common.findings import terminal_lines as terminal_findings
from grpo_mmpc.reports.common.labels import listed, number
from grpo_mmpc.reports.common.tables import text_table
from grpo_mmpc.statistics.verdicts import BETTER, WORSE
from grpo_mmpc.utils.console import coloured

_COLOURS = {BETTER: "green", WORSE: "red"}
_HEAD = ("", "Recall@20", "NDCG@20", "change", "95% interval", "p", "verdict", "recovery", "filled")
_LEFT_OUT = ("NDCG@20", "filled", "p", "recovery")
"""Columns that a narrow terminal does without, in this order: sentences and the page have them."""
_MOST = 110
"""Columns of a sentence, however wide the terminal is."""


def terminal_lines(results: Mapping[str, Any], *, colour: bool, width: int) -> list[str]:
    """Return what a person reads when the benchmark ends, in a terminal of so many columns."""
    shown, of_sentences = recommendation_view(results), min(width, _MOST)
    lines = [] if shown.groups else ["", shown.nothing]
    for group in shown.groups:
        lines += ["", group.panel.title, group.panel.note, "", *_table(group, colour=colour, width=width)]
        lines += ["", *terminal_findings(group.findings, colour=colour, width=of_sentences)]
    if shown.cautions:
        lines += ["", *terminal_findings(shown.cautions, width=of_sentences)]
    return lines


def _table(group: GroupView, *, colour: bool, width: int) -> list[str]:
    rows = [dict(zip(_HEAD, _cells(line), strict=True)) for line in group.lines]
    for gone in range(len(_LEFT_OUT) + 1):
        head = [name for name in _HEAD if name not in _LEFT_OUT[:gone]]
        left = [place for place, name in enumerate(head) if name in ("", "verdict", "recovery")]
        first, *lines = text_table(head, [[row[name] for name in head] for row in rows], left=left)
        if max(map(len, (first, *lines))) <= width:
            break
    colours = [_COLOURS.get(line.difference.verdict) if colour else None for line in group.lines]
    note = [f"(a wider terminal also shows {listed(_LEFT_OUT[:gone])})"] if gone else []
    return [first, *(coloured(line, tone) for line, tone in zip(lines, colours, strict=True)), *note]


def _cells(line: FillLine) -> tuple[str, ...]:
    one = line.difference
    level, filled = number(line.value), line.coverage
    return line.name, level, line.second, one.change, one.interval_text, one.p_text, line.verdict, line.recovery, filled
