"""Rewards that compare the checkable facts of two titles rather than their words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_mmpc.metrics.extraction import compare_titles
from grpo_mmpc.metrics.metric import accepted_texts, best_of
from grpo_mmpc.metrics.values import MEASURES, compare_values
from grpo_mmpc.rewards.declaration import Reward


def attribute_f1() -> Reward:
    """The F1 of the facts that both titles state: brand, colours, sizes, pack counts, models.

    Facts are found by rule and compared as normalised values ("16 Ounces" is "16 oz"); see
    ``grpo_mmpc.metrics.extraction``. The brand counts where the catalogue knows it (``brand`` in
    the ``attributes`` column). A completion is unscored where neither title states a fact; a fact
    that only one of them states counts against it.

    Range: [0, 1]. Needs: the true title. Cost: 10 ms for 64 completions.

    Gamed by: a bare list of facts without a product ("red, large, pack of 2"); and by leaving out
    what is uncertain where the title states little. The product type is no fact here: pair it with
    a reward of words or meaning.

    Answers that are JSON objects of attributes are compared key by key with the catalogue's values
    instead (``grpo_mmpc.metrics.values``): a key that is left out costs recall, a wrong value both.

    Example:
        >>> score = attribute_f1()
        >>> score(predictions=["Red Mug, 12oz", "Mug"], references=["Blue Mug, 12 Ounces", "Cup"])
        [0.5, None]
    """
    return Reward(score=_score_facts, value_range=(0.0, 1.0), targets=("text", "attributes"), needs=("reference",))


def _score_facts(
    *,
    predictions: list[str],
    references: list[str | None],
    more_references: list[Sequence[str] | None] | None = None,
    attributes: list[Mapping[str, str] | None] | None = None,
    targets: list[str] | None = None,
    **_columns: list[Any],
) -> list[float | None]:
    facts = attributes or [None] * len(predictions)
    brands = [None if known is None else known.get("brand") for known in facts]
    kinds = targets or ["text"] * len(predictions)
    accepted = map(accepted_texts, references, more_references or [None] * len(references))
    rows = list(zip(predictions, accepted, brands, kinds, strict=True))
    scores = {
        (prediction, texts, brand, kind): best_of(_f1(prediction, reference, brand, kind) for reference in texts)
        for prediction, texts, brand, kind in dict.fromkeys(rows)
    }
    return [None if math.isnan(scores[row]) else scores[row] for row in rows]


def _f1(prediction: str, reference: str, brand: str | None, target: str) -> float:
    if target == "attributes":
        return MEASURES["attribute_f1"][1](compare_values(prediction=prediction, reference=reference))
    return compare_titles(prediction=prediction, reference=reference, brand=brand).f1
