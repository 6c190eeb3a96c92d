"""The preview of rewards: ``preview.json``, ``preview.csv`` and ``preview.html``."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from grpo_mmpc.analysis.reward_bench.candidates import GOLD, KINDS
from grpo_mmpc.analysis.reward_bench.findings import findings
from grpo_mmpc.analysis.reward_bench.results import AGREEMENT_HEADS, Preview, RewardResult, rounded_down
from grpo_mmpc.reports.common.labels import MINUS, NO_VALUE, clamp, plural, task_label, words
from grpo_mmpc.reports.common.tables import write_csv
from grpo_mmpc.reports.common.templates import render_page
from grpo_mmpc.utils.files import write_json, write_text

_COLUMNS = ("task", "reward", "kind", "n", "mean", "auc", "wins", "earned")
_WRONG = [kind for kind in KINDS if kind != GOLD]
_SHOWN_TEXT = 160
Measure = Literal["auc", "earned", "wins"]
_TITLES: dict[Measure, str] = {
    "auc": "Any true answer against any wrong one (AUC)",
    "earned": "What a wrong answer still earns: 0 as a title of another category, 1 as the true answer",
    "wins": "Against the wrong answer to the same prompt (what a group of GRPO sees)",
}


HeatCell = tuple[str, str, float]
"""The text of a value, its tone (``told``: the true answer is preferred; ``fooled``: the wrong one)
and how strongly it is coloured, 0 to 1."""


def write_files(preview: Preview, folder: Path) -> list[Path]:
    """Write all three; each appears whole or not at all."""
    data, table, page = (folder / f"preview.{kind}" for kind in ("json", "csv", "html"))
    write_json(data, {**asdict(preview), "kinds": dict(KINDS)}, indent=2)
    write_csv(table, _COLUMNS, _csv_rows(preview))
    write_text(page, render(preview))
    return [data, table, page]


def _csv_rows(preview: Preview) -> Iterator[list[object]]:
    for reward in preview.rewards:
        for task, result in reward.tasks.items():
            for kind, one in result.kinds.items():
                values = (one.mean, one.auc, one.wins, one.earned)
                yield [task, reward.name, kind, one.n, *("" if value is None else f"{value:.6g}" for value in values)]


def render(preview: Preview) -> str:
    """Return the page as text; the same preview gives the same text."""
    return render_page(
        "reports/reward_bench/page.html",
        subtitle=[f"{plural(preview.items, 'item')} of {preview.catalogue}"],
        tasks=[
            _task(preview, task)
            for task, examples in preview.examples.items()
            if examples and any(task in reward.tasks for reward in preview.rewards)
        ],
        kinds=[words(kind) for kind in _WRONG],
        costs=[reward for reward in preview.rewards if reward.timing is not None],
        problems=[reward for reward in preview.rewards if reward.problem is not None],
        agreement_heads=AGREEMENT_HEADS,
        command=preview.command,
    )


def _task(preview: Preview, task: str) -> dict[str, Any]:
    rewards = [reward for reward in preview.rewards if task in reward.tasks]
    examples = preview.examples[task]
    return {
        "label": task_label(task),
        "agreement": [(reward.name, reward.agreement[task].cells()) for reward in rewards if task in reward.agreement],
        "findings": findings(preview, task),
        "heat_maps": [(title, _heat_map(rewards, task, measure)) for measure, title in _TITLES.items()],
        "answers": [(words(kind), what, _excerpt(examples[kind])) for kind, what in KINDS.items() if kind in examples],
    }


def _excerpt(text: str) -> str:
    shown, omitted = clamp(text, limit=_SHOWN_TEXT)
    return f"{shown} \N{HORIZONTAL ELLIPSIS}" if omitted else shown


def _heat_map(
    rewards: Sequence[RewardResult], task: str, measure: Measure
) -> list[tuple[RewardResult, list[HeatCell]]]:
    cell = _earned if measure == "earned" else _preference
    rows = []
    for reward in rewards:
        values = [getattr(reward.tasks[task].kinds[kind], measure) for kind in _WRONG]
        if any(value is not None for value in values):
            rows.append((reward, [cell(value) for value in values]))
    return rows


def _preference(value: float | None) -> HeatCell:
    """Two digits, rounded down: 1 only for a true 1, so that a single exception shows."""
    if value is None:
        return NO_VALUE, "", 0.0
    text = "1" if value == 1 else f"{rounded_down(value):.2f}".removeprefix("0")
    return text, "told" if value >= 0.5 else "fooled", 2 * abs(value - 0.5)


def _earned(value: float | None) -> HeatCell:
    """The more it earns, the more orange: there is the less to learn."""
    if value is None:
        return NO_VALUE, "", 0.0
    text = f"{abs(round(value, 2)):.2f}"
    text = (MINUS if round(value, 2) < 0 else "") + (text.removeprefix("0") if abs(value) < 0.995 else text)
    return text, "fooled", min(1.0, max(0.0, value))
