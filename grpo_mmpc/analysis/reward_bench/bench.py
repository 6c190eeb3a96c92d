"""The preview: every reward on candidates from a catalogue, and the mix as their weighted sum."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from grpo_mmpc.analysis.reward_bench.candidates import Candidate, TitlePool, candidates, shuffled
from grpo_mmpc.analysis.reward_bench.graded import GradedAnswers, agreement
from grpo_mmpc.analysis.reward_bench.results import MIX, Agreement, Preview, RewardResult, TaskResult, task_result
from grpo_mmpc.analysis.reward_bench.scoring import BATCH, Batch, Corpus, Scored, Scores, repeats, score
from grpo_mmpc.catalogue import Catalogue, load_catalogue
from grpo_mmpc.catalogue.splits import product_groups
from grpo_mmpc.config.rewards import RewardsSection
from grpo_mmpc.errors import CatalogueError, GrpoMmpcError, RewardError
from grpo_mmpc.rewards import advantages, neutral
from grpo_mmpc.rewards.columns import RowReader
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_rows, select_balanced, usable_indices
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.hashing import stable_order

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
    progress: Progress,
    graded: GradedAnswers | None = None,
) -> Preview:
    """Score candidates of a catalogue with every reward.

    Args:
        rewards: The rewards to look at.
        catalogue: Catalogue folder.
        label: Its name in texts.
        tasks: Tasks to build candidates for.
        is_mix: True if weights mean something; adds the row of the mix.
        items: Number of items, taken from the categories in turn.
        seed: Of the choice of items and of their candidates.
        command: As the user typed it.
        progress: Shows the reward in progress.
        graded: Answers to items of the catalogue to compare rewards with.

    Raises:
        CatalogueError: No catalogue, or no item with title and image in it.
        RewardError: Not one reward could be scored, or two have one name; or the catalogue lacks
            the item of a graded answer.
    """
    specs = {spec.key: spec for spec in rewards.mix}
    if len(specs) < len(rewards.mix):
        names = [spec.key for spec in rewards.mix]
        twice = next(name for name in names if names.count(name) > 1)
        raise RewardError(f"{twice!r} appears twice; give every reward of the mix a name of its own")
    data = _Data(
        load_catalogue(catalogue, check_images=graded is not None),
        tasks=tasks,
        items=items,
        seed=seed,
        label=label,
        graded=graded,
    )
    scored: dict[str, Scored] = {}
    problems: dict[str, str] = {}
    for position, (name, spec) in enumerate(specs.items()):
        progress("scoring", position, len(specs), detail=name)
        try:
            scored[name] = score(spec, data.batch, timed=partial(data.timed, position), corpus=data.corpus)
        except GrpoMmpcError as error:
            problems[name] = _reason(error)
    if not scored:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in problems.items())
        raise RewardError(f"no reward could be scored:\n{reasons}")
    first = data.first(_REPEATED_ITEMS)
    same = repeats(
        [specs[name] for name in scored],
        data.batch.take(first),
        expected={name: [one.scores[i] for i in first] for name, one in scored.items()},
        corpus=data.corpus,
        progress=progress,
    )
    results = []
    for name, spec in specs.items():
        result = RewardResult(name=name, weight=spec.weight if is_mix else None, problem=problems.get(name))
        if one := scored.get(name):
            result = replace(
                result,
                tasks={task: data.result(one.scores, task) for task in tasks if task in one.tasks},
                value_range=one.value_range,
                timing=one.timing,
                deterministic=same[name],
                agreement=data.agreements(one.scores, one.tasks),
            )
        results.append(result)
    if is_mix:
        results += _mix_row(rewards, scored, data)
    return Preview(
        catalogue=label,
        items=data.num_items,
        seed=seed,
        command=command,
        rewards=results,
        examples=data.examples(),
    )


class _Data:
    """The candidates of a preview, and completions to time rewards with."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        tasks: Sequence[str],
        items: int,
        seed: int,
        label: str,
        graded: GradedAnswers | None,
    ) -> None:
        usable = usable_indices(catalogue, range(len(catalogue)))
        if not usable:
            raise CatalogueError(f"{label}: no item has both a title and an image; run grpo-mmpc data validate on it")
        chosen = select_balanced(catalogue, usable, max_items=items, salt=f"preview {seed}")
        self.num_items = len(chosen)
        self._catalogue, self._tasks = catalogue, list(tasks)
        self._columns = RowReader(catalogue)
        titled = [(record.item_id, record.category, record.title) for record in catalogue.records() if record.title]
        pool = TitlePool((category, title) for _, category, title in titled if title)
        self.candidates = candidates(prompt_rows(catalogue, chosen, tasks), pool, seed=seed)
        self._graded = graded
        answers = graded.answers if graded else []
        for answer, is_known in zip(
            answers, self._columns.known([one.item_id for one in answers], [one.task for one in answers]), strict=True
        ):
            if not is_known:
                raise RewardError(f"graded answers: {label} has no item {answer.item_id!r} with title and image")
        groups = product_groups(catalogue).tolist() if graded else []
        self._products = dict(zip(catalogue.items["item_id"], groups, strict=True)) if graded else {}
        self.batch = self._batch([*self.candidates, *answers])
        """The candidates, then the graded answers."""
        ids = set(catalogue.column("item_id", chosen))
        rest = [title for item_id, _, title in titled if item_id not in ids and title]
        others = sorted(set(usable) - set(chosen)) or sorted(usable)
        root = catalogue.folder.resolve()
        self.corpus: Corpus = {
            "titles": rest or [title for _, _, title in titled if title],
            "images": [str(root / image) for image in catalogue.column("image", others)],
        }
        """As in training, without the items that are asked for, unless there are no others."""
        order = stable_order(catalogue.column("item_id", others), salt=f"timed {seed}")
        self._timed = [others[i] for i in order]

    def _batch(self, chosen: Sequence[Candidate]) -> Batch:
        return Batch(
            completions=[one.completion for one in chosen],
            columns=self._columns.of([one.item_id for one in chosen], [one.task for one in chosen]),
        )

    def timed(self, position: int, tasks: Sequence[str]) -> Batch:
        """Return 64 completions for the reward at a position: shuffled titles that are new.

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
        """Return the positions of the candidates of the first items."""
        ids = set(list(dict.fromkeys(one.item_id for one in self.candidates))[:items])
        return [i for i, one in enumerate(self.candidates) if one.item_id in ids]

    def result(self, scores: Scores, task: str) -> TaskResult:
        """Compute the separation on one task."""
        here = [i for i, one in enumerate(self.candidates) if one.task == task]
        return task_result([self.candidates[i] for i in here], [scores[i] for i in here])

    def agreements(self, scores: Scores, tasks: Sequence[str]) -> dict[str, Agreement]:
        """Compare with the graded answers, by task."""
        if self._graded is None:
            return {}
        own = scores[len(self.candidates) :]
        here = dict.fromkeys(one.task for one in self._graded.answers)
        return {task: agreement(self._graded, own, task, products=self._products) for task in here if task in tasks}

    def examples(self) -> dict[str, dict[str, str]]:
        """Return the first item's candidates by task and kind."""
        examples: dict[str, dict[str, str]] = {task: {} for task in self._tasks}
        for one in self.candidates:
            examples[one.task].setdefault(one.kind, one.text)
        return examples


def _mix_row(rewards: RewardsSection, scored: Mapping[str, Scored], data: _Data) -> list[RewardResult]:
    """Return the sum that GRPO would look at, with the candidates of an item as one group."""
    trained = {name: weight for name, weight in rewards.weights.items() if weight > 0}
    weights = {name: weight for name, weight in trained.items() if name in scored}
    if not weights:
        return []
    count = len(data.candidates)
    groups = data.batch.columns["prompt_id"][:count]
    raw = {name: scored[name].scores[:count] for name in weights}
    values = neutral(raw, groups, trained=list(weights), aggregation=rewards.aggregation)
    total: Scores
    if rewards.aggregation == "normalize_then_sum":
        total = list(advantages(values, weights, groups=groups, aggregation=rewards.aggregation))
    else:
        total = [_weighted([values[name][i] for name in weights], list(weights.values())) for i in range(len(groups))]
    can_score = {task for name in weights for task in scored[name].tasks} & set(data.batch.columns["task"])
    left_out = ", ".join(name for name in trained if name not in scored)
    return [
        RewardResult(
            name=MIX,
            tasks={task: data.result(total, task) for task in TASKS if task in can_score},
            problem=f"without {left_out}" if left_out else None,
        )
    ]


def _weighted(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [weight * value for weight, value in zip(weights, values, strict=True) if value is not None]
    return sum(known) if known else None


def _reason(error: BaseException) -> str:
    """Return the innermost of our own messages on one line, without the advice meant for a run."""
    while isinstance(error.__cause__, GrpoMmpcError):
        error = error.__cause__
    text = " ".join(str(error).split())
    return text if len(text) <= _REASON else f"{text[:_REASON].rsplit(' ', 1)[0]} ..."
