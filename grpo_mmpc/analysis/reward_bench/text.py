"""The preview in a terminal: one table of separation for each task, one of cost."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from grpo_mmpc.analysis.reward_bench.candidates import GOLD, KINDS
from grpo_mmpc.analysis.reward_bench.results import FOOLED_BELOW, Preview, RewardResult, Separation, rounded_down
from grpo_mmpc.reports.common.tables import text_table
from grpo_mmpc.utils.console import coloured

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
_WIDTH = 110


def lines(preview: Preview, *, colour: bool) -> Iterator[str]:
    """Yield the text, line by line."""
    width = max(len(reward.name) for reward in preview.rewards)
    for task, kinds in preview.examples.items():
        scored = [reward for reward in preview.rewards if task in reward.tasks]
        if not scored or not kinds:
            continue
        yield f"{task}: the true answer against wrong ones, {preview.items} items of {preview.catalogue}"
        yield from _table("wins", task, scored, width, lambda kind: _wins(kind, colour=colour))
        yield ""
        graded = [
            reward for reward in scored if any(one.earned is not None for one in reward.tasks[task].kinds.values())
        ]
        if graded:
            yield from _table("earned", task, graded, width, lambda kind: _number(kind.earned))
            yield ""
    yield from _wrapped(
        "wins: how often the true answer scores above the wrong one to the same prompt, ties half: what GRPO "
        "compares. 1 = always, 0.5 = cannot tell, below = prefers the wrong one; ! marks less than "
        f"{FOOLED_BELOW:g}: this kind of answer fools the reward. The files hold the AUC too, over answers to "
        "different prompts."
    )
    yield from _wrapped(
        "earned: what a wrong answer still gets on average, on a scale from 0 (a title of another category) to 1 "
        "(the true answer). Close to 1: the policy gains little by mending it; below 0: worse than any title."
    )
    for kind, head in SHORT.items():
        yield f"  {head:<10} {KINDS[kind]}"
    yield f"  true       {KINDS[GOLD]}"
    yield ""
    yield from _costs(preview)
    yield from _problems(preview)


def _table(
    measure: str, task: str, rewards: Sequence[RewardResult], width: int, cell: Callable[[Separation], str]
) -> Iterator[str]:
    weighed = any(reward.weight is not None for reward in rewards)
    heads = " ".join(f"{head:>9}" for head in SHORT.values())
    yield f"{measure:<{width}} {'weight ' if weighed else ''}{heads}"
    for reward in rewards:
        weight = "" if not weighed else f"{'' if reward.weight is None else f'{reward.weight:g}':>6} "
        kinds = reward.tasks[task].kinds
        yield f"{reward.name:<{width}} {weight}" + " ".join(cell(kinds[kind]) for kind in SHORT).rstrip()


def _wins(kind: Separation, *, colour: bool) -> str:
    if kind.wins is None:
        return _number(None)
    # Rounded down: 1.00 is said of a reward without a single exception only.
    text = f"{rounded_down(kind.wins):>8.2f}{'!' if kind.fools else ' '}"
    if not colour or FOOLED_BELOW <= kind.wins < 0.95:
        return text
    return coloured(text, "red" if kind.fools else "green")


def _number(value: float | None) -> str:
    return f"{'-':>8} " if value is None else f"{round(value, 2) + 0.0:>8.2f} "


def _costs(preview: Preview) -> Iterator[str]:
    rows = [
        (
            reward.name,
            "-" if reward.value_range is None else "[{:g}, {:g}]".format(*reward.value_range),
            "-" if reward.seen is None else "{:.2f} to {:.2f}".format(*reward.seen),
            _ms(reward.timing.cold),
            _ms(reward.timing.warm),
            {True: "yes", False: "NO", None: "-"}[reward.deterministic],
            _unscored(reward),
        )
        for reward in preview.rewards
        if reward.timing is not None
    ]
    yield from text_table(("reward", "range", "seen", "cold ms", "warm ms", "repeats", "unscored"), rows)
    yield from _wrapped(
        "seen: least and greatest score of well-formed answers; cold: 64 completions with new texts and images, "
        "encoder loaded; warm: the same again; repeats: a second process with other batches in reverse order gets "
        "the same scores"
    )


def _unscored(reward: RewardResult) -> str:
    shares = [one.unscored_share for one in reward.tasks.values()]
    return f"{100 * max(shares):.0f} %" if shares else "-"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _problems(preview: Preview) -> Iterator[str]:
    with_problems = [reward for reward in preview.rewards if reward.problem is not None]
    if with_problems:
        yield ""
    for reward in with_problems:
        label = "mix" if reward.tasks else "not scored"
        text = f"{label}: {reward.problem}" if reward.tasks else f"{label}: {reward.name}: {reward.problem}"
        yield from _wrapped(text)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
