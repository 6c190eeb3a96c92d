"""The report in a terminal: tables, sentences and cautions."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.report.views import FillLine, GroupView, recommendation_view
from grpo_mmpc.reports.common.findings import terminal_lines as terminal_findings
from grpo_mmpc.reports.common.labels import number
from grpo_mmpc.statistics.verdicts import BETTER, WORSE
from grpo_mmpc.utils.console import coloured

_COLOURS = {BETTER: "green", WORSE: "red"}


def terminal_lines(results: Mapping[str, Any], *, colour: bool) -> list[str]:
    """Return what a person reads when the benchmark ends."""
    shown = recommendation_view(results)
    lines = [] if shown.groups else ["", shown.nothing]
    for group in shown.groups:
        lines += ["", group.panel.title, group.panel.note, "", *_table(group, colour=colour)]
        lines += ["", *terminal_findings(group.findings, colour=colour)]
    if shown.cautions:
        lines += ["", *terminal_findings(shown.cautions)]
    return lines


def _table(group: GroupView, *, colour: bool) -> list[str]:
    width = max(len(line.name) for line in group.lines)
    head = (
        f"  {'':{width}}  {'Recall@20':>9}  {'NDCG@20':>8}  {'change':>7}  {'95% interval':>16}  {'p':>7}  "
        f"{'verdict':<11}  {'recovery':<22}  filled"
    )
    return [head, *(_row(line, width=width, colour=colour) for line in group.lines)]


def _row(line: FillLine, *, width: int, colour: bool) -> str:
    difference = line.difference
    row = (
        f"  {line.name:{width}}  {number(line.value):>9}  {line.second:>8}  {difference.change:>7}  "
        f"{difference.interval_text:>16}  {difference.p_text:>7}  {line.verdict:<11}  {line.recovery:<22}  "
        f"{line.coverage}"
    ).rstrip()
    return coloured(row, _COLOURS.get(difference.verdict) if colour else None)
