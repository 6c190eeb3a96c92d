"""The benchmark's tables and sentences in a terminal."""

from collections.abc import Mapping
from typing import Any

from grpo_mmpc.recbench.report.views import GroupView, LineView, recommendation_view
from grpo_mmpc.statistics.verdicts import BETTER, WORSE

_COLOURS = {BETTER: "32", WORSE: "31"}


def terminal_lines(results: Mapping[str, Any], *, colour: bool) -> list[str]:
    """What a person reads when the benchmark ends.

    Args:
        results: ``results.json``.
        colour: Rows that are better or worse are written in ANSI colours.
    """
    shown = recommendation_view(results)
    lines = [] if shown.groups else ["", shown.nothing]
    for group in shown.groups:
        lines += ["", group.title, group.note, "", *_table(group, colour=colour)]
        lines += ["", *(f"  {sentence}" for sentence in group.sentences)]
    if shown.cautions:
        lines += ["", *(f"note: {caution}" for caution in shown.cautions)]
    return lines


def _table(group: GroupView, *, colour: bool) -> list[str]:
    width = max(len(line.label) for line in group.lines)
    head = (
        f"  {'':{width}}  {'Recall@20':>9}  {'NDCG@20':>8}  {'change':>7}  {'95% interval':>16}  {'p':>7}  "
        f"{'verdict':<11}  {'recovery':<22}  filled"
    )
    return [head, *(_row(line, width=width, colour=colour) for line in group.lines)]


def _row(line: LineView, *, width: int, colour: bool) -> str:
    row = (
        f"  {line.label:{width}}  {line.level:>9}  {line.second:>8}  {line.change:>7}  {line.change_interval:>16}  "
        f"{line.p:>7}  {line.verdict:<11}  {line.recovery:<22}  {line.coverage}"
    ).rstrip()
    code = _COLOURS.get(line.verdict)
    return f"\x1b[{code}m{row}\x1b[0m" if colour and code else row
