"""Rewards that compare the meaning of the predicted and the true title with a text encoder."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpo_mmpc.encoders.bertscore import BertScoreEncoder, bertscore_encoder, pick_layers, read_baseline
from grpo_mmpc.encoders.loading import pick_dtype
from grpo_mmpc.encoders.sentence import SentenceEncoder, sentence_encoder
from grpo_mmpc.errors import RewardError, ScoringError
from grpo_mmpc.rewards.declaration import Reward

from .batches import ScorePairs, distinct_titles

COMPONENTS = ("precision", "recall", "f1")


def bertscore(
    *,
    model: str = "roberta-large",
    num_layers: int | None = None,
    component: str = "f1",
    rescale_with_baseline: bool = False,
    device: str | None = None,
    dtype: str = "float32",
) -> Reward:
    """The BERTScore of the predicted and the true title, as the ``bert-score`` package computes it.

    Raw scores use little of their range: unrelated titles get about 0.8 with roberta-large and 0.3
    with MiniLM, so a weight means less than it does for BLEU unless rewards are normalised one by
    one. Rescaled scores use the whole range, and pairs less alike than random sentences get 0.

    Range: [0, 1] (cut there). Needs: the true title; the encoder, loaded on the first call and
    shared with the BERTScore metric. Cost: 550 ms for 64 new completions with MiniLM, 5 ms if all
    are known; a reference is encoded once.

    Gamed by: fluent titles of the right genre; a wrong colour or size is close to the right one in
    meaning and costs almost nothing. Pair it with ``bleu`` or ``token_f1``.

    Args:
        model: Hub name, local folder or ``nano:minilm``.
        num_layers: Layer to compare; may be left out for models in bert-score's own table and for
            ``nano:minilm``.
        component: ``precision``, ``recall`` or ``f1``.
        rescale_with_baseline: As in bert-score; only for models that it has a baseline for.
        device: Where the encoder lives; None takes this process's GPU if there is one.
        dtype: Its precision: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        RewardError: Unknown component or layer, or no baseline for this model.
    """
    pick_dtype(dtype)
    if component not in COMPONENTS:
        raise RewardError(f"component must be one of {', '.join(COMPONENTS)}, found {component!r}")
    try:
        layers = pick_layers(model=model, num_layers=num_layers)
    except ScoringError as error:
        raise RewardError(str(error)) from error
    if rescale_with_baseline and read_baseline(model=model, num_layers=layers) is None:
        raise RewardError(
            f"rescale_with_baseline: bert-score has no baseline for {model!r} at layer {layers}; leave the option out, "
            "or use a model that has one, such as roberta-large"
        )

    scores = _Bertscore(
        encoder=partial(bertscore_encoder, model=model, num_layers=layers, device=device, dtype=dtype),
        component=component,
        rescale_with_baseline=rescale_with_baseline,
    )
    return _encoded(scores)


def embedding_cosine(
    *, model: str = "sentence-transformers/all-MiniLM-L6-v2", device: str | None = None, dtype: str = "float32"
) -> Reward:
    """The cosine of the ``sentence-transformers`` embeddings of predicted and true title.

    Unrelated titles get about 0.1, titles of the same product type 0.5 and more. The few negative
    cosines count as 0.

    Range: [0, 1] (cut there). Needs: the true title; the encoder, loaded on the first call and
    shared with the metric of the same name. Cost: 500 ms for 64 new completions with MiniLM, 0.5 ms
    if all are known; a reference is encoded once.

    Gamed by: naming the product type and its neighbours; word order, small words, numbers and a
    wrong colour hardly matter.

    Args:
        model: Hub name, local folder or ``nano:minilm``; it must pool by the mean of its tokens.
        device: Where the encoder lives; None takes this process's GPU if there is one.
        dtype: Its precision: ``float32``, ``bfloat16`` or ``float16``.
    """
    pick_dtype(dtype)
    scores = _EmbeddingCosine(partial(sentence_encoder, model=model, device=device, dtype=dtype))
    return _encoded(scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bertscore:
    encoder: Callable[[], BertScoreEncoder]
    component: str
    rescale_with_baseline: bool

    def __call__(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float | None]:
        encoder = self.encoder()
        scores = encoder.score(
            predictions=predictions, references=references, rescale_with_baseline=self.rescale_with_baseline
        )
        return _judged(getattr(scores, self.component), encoder.reads(references))

    def prepare(self, *, references: list[str | None], **_columns: list[Any]) -> None:
        if titles := distinct_titles(references):
            self.encoder().score(predictions=titles, references=titles)


@dataclass(frozen=True, slots=True)
class _EmbeddingCosine:
    encoder: Callable[[], SentenceEncoder]

    def __call__(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float | None]:
        encoder = self.encoder()
        return _judged(encoder.cosine(predictions=predictions, references=references), encoder.reads(references))

    def prepare(self, *, references: list[str | None], **_columns: list[Any]) -> None:
        if titles := distinct_titles(references):
            self.encoder().encode(titles, keep=True)


def _encoded(scores: "_Bertscore | _EmbeddingCosine") -> Reward:
    return Reward(
        score=ScorePairs(scores),
        value_range=(0.0, 1.0),
        targets=("text",),
        needs=("reference", "encoder"),
        prepare=scores.prepare,
    )


def _judged(values: Sequence[float], reads: Sequence[bool]) -> list[float | None]:
    """Cut to [0, 1]; None where a text cannot be encoded, or the reference's script is unknown."""
    return [
        min(1.0, max(0.0, value)) if read and not math.isnan(value) else None
        for value, read in zip(values, reads, strict=True)
    ]
