"""The agreement of rewards with answers that people, or a judge one trusts, have graded."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from grpo_mmpc.analysis.replay.agreement import spearman
from grpo_mmpc.analysis.reward_bench.candidates import Candidate
from grpo_mmpc.analysis.reward_bench.results import Agreement, win_rate
from grpo_mmpc.errors import RewardError
from grpo_mmpc.statistics.clustered import mean_interval
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.files import read_json_lines

GRADED = "graded"
"""The kind of a candidate that comes from the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedAnswers:
    """Answers with a grade each; higher is better, on whatever scale."""

    answers: Sequence[Candidate]
    grades: Sequence[float]


def read_graded(path: Path) -> GradedAnswers:
    """Read a file of JSON lines with ``item_id``, ``answer``, ``grade``, and ``task`` if need be.

    Raises:
        RewardError: It holds no answer, or one without an item, a text or a number.
        OSError: It cannot be read.
    """
    answers, grades = [], []
    for number, row in enumerate(read_json_lines(path, of_user=True), start=1):
        task: Any = row.get("task", "image_to_text")
        grade: Any = row.get("grade")
        texts = isinstance(row.get("item_id"), str) and isinstance(row.get("answer"), str)
        if not texts or type(grade) not in (int, float) or not math.isfinite(grade):
            raise RewardError(
                f"{path}, line {number}: expected item_id and answer as text and grade as a number, found {row}"
            )
        if not isinstance(task, str) or task not in TASKS:
            raise RewardError(f"{path}, line {number}: task must be one of {', '.join(TASKS)}, found {task!r}")
        answers.append(Candidate(item_id=row["item_id"], task=task, kind=GRADED, text=row["answer"]))
        grades.append(float(grade))
    if not answers:
        raise RewardError(f"{path} holds no answer; write lines with item_id, answer and grade")
    return GradedAnswers(answers=answers, grades=grades)


def agreement(
    graded: GradedAnswers, scores: Sequence[float | None], task: str, *, products: Mapping[str, int]
) -> Agreement:
    """Compare a reward's scores with the grades of one task.

    Args:
        graded: N answers.
        scores: Of each; None is unscored.
        task: Answers of others do not count.
        products: What each item is a variant of: those of one product hang together.
    """
    mine = [i for i, one in enumerate(graded.answers) if one.task == task]
    scored = [(graded.answers[i].item_id, graded.grades[i], s) for i in mine if (s := scores[i]) is not None]
    by_item: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for item, grade, score in scored:
        by_item[item].append((grade, score))
    pairs = {
        item: [
            (one[1], other[1]) if one[0] > other[0] else (other[1], one[1])
            for one, other in combinations(answers, 2)
            if one[0] != other[0]
        ]
        for item, answers in by_item.items()
    }
    shares = {item: share for item, own in pairs.items() if (share := win_rate(own)) is not None}
    groups = [products[item] for item in shares]
    interval = mean_interval(shares.values(), groups, bounds=(0.0, 1.0)) if shares else None
    return Agreement(
        answers=len(scored),
        unscored=len(mine) - len(scored),
        pairs=sum(map(len, pairs.values())),
        items=len(shares),
        agreement=fmean(shares.values()) if shares else None,
        interval=interval,
        rank_correlation=spearman([grade for _, grade, _ in scored], [score for _, _, score in scored]),
    )
