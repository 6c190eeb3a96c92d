"""The preview: candidates from a catalogue, every reward on all of them, the mix as their weighted sum."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from grpo_mmpc.analysis.replay.columns import RewardColumns
from grpo_mmpc.analysis.reward_bench.candidates import Candidate, TitlePool, candidates, shuffled
from grpo_mmpc.analysis.reward_bench.results import Preview, RewardResult, TaskResult, task_result
from grpo_mmpc.analysis.reward_bench.scoring import BATCH, Batch, Scored, Scores, repeats, score
from grpo_mmpc.catalogue import Catalogue, load_catalogue
from grpo_mmpc.config.rewards import RewardsSection
from grpo_mmpc.errors import CatalogueError, GrpoMmpcError, RewardError
from grpo_mmpc.rewards import RewardMix, advantages, reward_key
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_rows, select_balanced, usable_indices
from grpo_mmpc.utils.hashing import stable_order

MIX = "mix"
_REPEATED_ITEMS = 30
_REASON = 200
"""Characters of a reason: hubs say much."""


def preview(
    rewards: RewardsSection,
    *,
    catalogue: Path,
    label: str,
    tasks: Sequence[str],
    is_mix: bool,
    items: int,
    seed: int,
    command: str,
    progress: Callable[[str], None],
) -> Preview:
    """Run it.

    Args:
        rewards: What to look at.
        catalogue: Catalogue folder.
        label: What to call it.
        tasks: Tasks to build candidates for.
        is_mix: Whether weights mean something; adds the row of the mix.
        items: How many items, taken from the categories in turn.
        seed: Of the choice of items and of their candidates.
        command: As the user typed it.
        progress: Told what is being done.

    Raises:
        CatalogueError: No catalogue, or no item with title and image in it.
        RewardError: Not one reward could be scored, or two have one name.
    """
    names = [reward_key(spec) for spec in rewards.mix]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RewardError(f"{twice!r} appears twice; give every reward of the mix a name of its own")
    data = _Data(load_catalogue(catalogue), tasks=tasks, items=items, seed=seed, label=label)
    found: dict[str, Scored] = {}
    problems: dict[str, str] = {}
    for position, (name, spec) in enumerate(zip(names, rewards.mix, strict=True)):
        progress(f"{name} ({position + 1} of {len(names)})")
        try:
            found[name] = score(spec, data.batch, timed=partial(data.timed, position), titles=data.titles)
        except GrpoMmpcError as error:
            problems[name] = _reason(error)
    if not found:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in problems.items())
        raise RewardError(f"no reward could be scored:\n{reasons}")
    progress("the same again, in a second process")
    first = data.first(_REPEATED_ITEMS)
    same = repeats(
        [spec for name, spec in zip(names, rewards.mix, strict=True) if name in found],
        data.batch.take(first),
        expected={name: [scored.scores[i] for i in first] for name, scored in found.items()},
        titles=data.titles,
    )
    results = []
    for name, spec in zip(names, rewards.mix, strict=True):
        scored = found.get(name)
        empty = RewardResult(
            name=name,
            weight=spec.weight if is_mix else None,
            tasks={},
            value_range=None,
            timing=None,
            deterministic=None,
            problem=problems.get(name),
        )
        if scored is None:
            results.append(empty)
            continue
        results.append(
            replace(
                empty,
                tasks={task: data.result(scored.scores, task) for task in tasks if task in scored.tasks},
                value_range=scored.value_range,
                timing=scored.timing,
                deterministic=same[name],
            )
        )
    if is_mix:
        results += _mix_row(rewards, {name: scored.scores for name, scored in found.items()}, data)
    return Preview(
        catalogue=label,
        items=data.num_items,
        seed=seed,
        command=command,
        rewards=results,
        examples=data.examples(),
    )


class _Data:
    """Candidates, and completions to time rewards with."""

    def __init__(self, catalogue: Catalogue, *, tasks: Sequence[str], items: int, seed: int, label: str) -> None:
        usable = usable_indices(catalogue, range(len(catalogue)))
        if not usable:
            raise CatalogueError(f"{label}: no item has both a title and an image; run grpo-mmpc data validate on it")
        chosen = select_balanced(catalogue, usable, max_items=items, salt=f"preview {seed}")
        self.num_items = len(chosen)
        self._catalogue, self._tasks = catalogue, list(tasks)
        self._columns = RewardColumns(catalogue)
        titled = [(record.item_id, record.category, record.title) for record in catalogue.records() if record.title]
        pool = TitlePool((category, title) for _, category, title in titled if title)
        self.candidates = candidates(prompt_rows(catalogue, chosen, tasks), pool, seed=seed)
        self.batch = self._batch(self.candidates)
        ids = set(catalogue.items.select(chosen)["item_id"])
        rest = [title for item_id, _, title in titled if item_id not in ids and title]
        self.titles = rest or [title for _, _, title in titled if title]
        """For ``fit``: as in training, without the titles that are asked for, unless there are no
        others."""
        others = sorted(set(usable) - set(chosen)) or sorted(usable)
        order = stable_order(list(catalogue.items.select(others)["item_id"]), salt=f"timed {seed}")
        self._timed = [others[i] for i in order]

    def _batch(self, chosen: Sequence[Candidate]) -> Batch:
        return Batch(
            completions=[one.completion for one in chosen],
            columns=self._columns.of([one.item_id for one in chosen], [one.task for one in chosen]),
        )

    def timed(self, position: int, tasks: Sequence[str]) -> Batch:
        """64 completions for the reward at a position: shuffled titles that no other reward has seen, and other items.

        In a small catalogue the items, and so the images, come round again.
        """
        mine = [task for task in self._tasks if task in tasks]
        if not mine:
            raise RewardError(
                f"it scores {', '.join(tasks) or 'no task'} only, and {', '.join(self._tasks)} is looked at"
            )
        chosen = []
        for i in range(BATCH):
            record = self._catalogue.record(self._timed[(position * BATCH + i) % len(self._timed)])
            words = (record.title or "").split()
            rng = random.Random(f"{position} {i}")
            task = mine[i % len(mine)]
            text = shuffled([*words, str(position), str(i)], rng) or ""
            chosen.append(Candidate(item_id=record.item_id, task=task, kind="timed", text=text))
        return self._batch(chosen)

    def first(self, items: int) -> list[int]:
        """Positions of the candidates of the first items."""
        ids = set(list(dict.fromkeys(one.item_id for one in self.candidates))[:items])
        return [i for i, one in enumerate(self.candidates) if one.item_id in ids]

    def result(self, scores: Scores, task: str) -> TaskResult:
        """Separation on one task."""
        here = [i for i, one in enumerate(self.candidates) if one.task == task]
        return task_result([self.candidates[i] for i in here], [scores[i] for i in here])

    def examples(self) -> dict[str, dict[str, str]]:
        """The first item's candidates."""
        found: dict[str, dict[str, str]] = {task: {} for task in self._tasks}
        for one in self.candidates:
            found[one.task].setdefault(one.kind, one.text)
        return found


def _mix_row(rewards: RewardsSection, scores: Mapping[str, Scores], data: _Data) -> list[RewardResult]:
    """The sum that GRPO would look at, over the candidates of an item as if they were one group."""
    trained = [spec for spec in rewards.mix if spec.weight > 0 and reward_key(spec) in scores]
    if not trained:
        return []
    groups = data.batch.columns["prompt_id"]
    weights = {reward_key(spec): spec.weight for spec in trained}
    with closing(RewardMix.from_specs(trained)) as mix:
        _, values = mix.values_of({name: scores[name] for name in weights}, groups)
    total: Scores
    if rewards.aggregation == "normalize_then_sum":
        total = list(advantages(values, weights, groups=groups, aggregation=rewards.aggregation))
    else:
        total = [_weighted([values[name][i] for name in weights], list(weights.values())) for i in range(len(groups))]
    can_score = {task for reward in mix.rewards for task in reward.tasks}
    left_out = [reward_key(spec) for spec in rewards.mix if spec.weight > 0 and reward_key(spec) not in scores]
    return [
        RewardResult(
            name=MIX,
            weight=None,
            tasks={
                task: data.result(total, task) for task in TASKS if task in can_score & set(data.batch.columns["task"])
            },
            value_range=None,
            timing=None,
            deterministic=None,
            problem=f"without {', '.join(left_out)}" if left_out else None,
        )
    ]


def _weighted(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [weight * value for weight, value in zip(weights, values, strict=True) if value is not None]
    return sum(known) if known else None


def _reason(error: BaseException) -> str:
    """The innermost of our own messages, on one line: what is wrong, without the advice meant for a run."""
    while isinstance(error.__cause__, GrpoMmpcError):
        error = error.__cause__
    text = " ".join(str(error).split())
    return text if len(text) <= _REASON else f"{text[:_REASON].rsplit(' ', 1)[0]} ..."
