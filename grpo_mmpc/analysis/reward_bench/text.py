"""The preview in a terminal: what fools which reward, tables of separation for each task, costs."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from grpo_mmpc.analysis.reward_bench.candidates import GOLD, KINDS
from grpo_mmpc.analysis.reward_bench.findings import findings
from grpo_mmpc.analysis.reward_bench.results import (
    AGREEMENT_HEADS,
    FOOLED_BELOW,
    Preview,
    RewardResult,
    Separation,
    rounded_down,
)
from grpo_mmpc.reports.common.findings import terminal_lines
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.reports.common.tables import text_table
from grpo_mmpc.utils.console import columns, printable

SHORT = {
    "same_category": "same cat",
    "other_category": "other cat",
    "truncated": "half",
    "word_shuffled": "shuffled",
    "keyword_stuffed": "stuffed",
    "copied_prompt": "copied",
    "empty": "empty",
    "over_long": "long",
}
"""Kinds as column heads."""


def lines(preview: Preview, *, colour: bool) -> Iterator[str]:
    """Yield the text, line by line."""
    for task, kinds in preview.examples.items():
        scored = [reward for reward in preview.rewards if task in reward.tasks]
        if not scored or not kinds:
            continue
        yield f"{task}: the true answer against wrong ones, {plural(preview.items, 'item')} of {preview.catalogue}"
        yield from terminal_lines(findings(preview, task), colour=colour)
        yield ""
        yield from _table("wins", task, scored, _wins)
        yield ""
        graded = [
            reward for reward in scored if any(one.earned is not None for one in reward.tasks[task].kinds.values())
        ]
        if graded:
            yield from _table("earned", task, graded, lambda kind: _number(kind.earned))
            yield ""
    yield from _wrapped(
        "wins: how often the true answer scores above the wrong one to the same prompt, ties half: what GRPO compares. "
        f"1 = always, 0.5 = cannot tell, below = prefers the wrong one; ! marks less than {FOOLED_BELOW:g}: this kind "
        "of answer fools the reward. The files hold the AUC too, over answers to different prompts."
    )
    yield from _wrapped(
        "earned: what a wrong answer still gets on average, on a scale from 0 (a title of another category) to 1 "
        "(the true answer). Close to 1: the policy gains little by mending it; below 0: worse than any title."
    )
    for kind, head in SHORT.items():
        yield from _wrapped(f"  {head:<10} {KINDS[kind]}", indent=13)
    yield from _wrapped(f"  true       {KINDS[GOLD]}", indent=13)
    yield ""
    for task in preview.examples:
        rows = [
            (reward.name, *reward.agreement[task].cells()) for reward in preview.rewards if task in reward.agreement
        ]
        if rows:
            yield f"{task}: agreement with the graded answers"
            yield from text_table(("reward", *AGREEMENT_HEADS), rows)
            yield from _wrapped(
                "agrees: share of an item's pairs of answers with different grades that the reward orders alike, ties "
                "half, mean of items; 0.5 is a coin's. rank corr.: Spearman's over all answers"
            )
            yield ""
    costs = [(reward.name, *reward.costs()) for reward in preview.rewards if reward.timing is not None]
    heads = ("reward", "range", "seen", "cold ms", "warm ms", "repeats", "unscored")
    yield from text_table(heads, costs, spare=("cold ms", "seen"))
    yield from _wrapped(
        "seen: least and greatest score of well-formed answers; cold: 64 completions with new texts and images, "
        "encoder loaded; warm: the same again; repeats: a second process with other batches in reverse order gets "
        "the same scores"
    )
    with_problems = [reward for reward in preview.rewards if reward.problem is not None]
    yield from [""] if with_problems else []
    for reward in with_problems:
        label = "mix" if reward.tasks else f"not scored: {reward.name}"
        yield from _wrapped(f"{label}: {reward.problem}")


def _table(
    measure: str, task: str, rewards: Sequence[RewardResult], cell: Callable[[Separation], str]
) -> Iterator[str]:
    weighed = any(reward.weight is not None for reward in rewards)
    rows = []
    for reward in rewards:
        weight = "" if reward.weight is None else f"{reward.weight:g}"
        kinds = reward.tasks[task].kinds
        rows.append([reward.name, *([weight] if weighed else []), *(cell(kinds[kind]) for kind in SHORT)])
    # A column for the mark behind every number.
    heads = [f"{head} " for head in SHORT.values()]
    spare = (*(["weight"] if weighed else []), heads[-3], heads[2])
    yield from text_table((measure, *(["weight"] if weighed else []), *heads), rows, spare=spare)


def _wins(kind: Separation) -> str:
    # Rounded down: 1.00 is said of a reward without a single exception only.
    return _number(None if kind.wins is None else rounded_down(kind.wins), mark="!" if kind.fools else " ")


def _number(value: float | None, *, mark: str = " ") -> str:
    return "- " if value is None else f"{round(value, 2) + 0.0:.2f}{mark}"


def _wrapped(text: str, *, indent: int = 2) -> list[str]:
    return textwrap.wrap(
        printable(text),
        min(columns(), 110),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
