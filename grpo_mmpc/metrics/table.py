"""The one table of metrics: definition, range, and the function that scores a list of items.

Four rules hold for all of them: a malformed completion or a failed render gets the metric's
``worst`` value, an item that cannot be judged (no reference, no real image, unknown attribute) or a
metric without its encoder is NaN, scores come back in the order of the items, and of several
references any counts: BLEU takes all together, as sacrebleu does, the others score by the best.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from grpo_mmpc.metrics import attributes, extraction, image, image_sets, semantic, text, values
from grpo_mmpc.metrics import rendered_images as renders
from grpo_mmpc.metrics.metric import Metric, MetricInputs, best_of, best_over_references, shielded, unscored
from grpo_mmpc.types import TARGET_KINDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PairScorer = Callable[..., list[float]]
"""Scores N pairs of texts in one call: ``predictions`` and ``references`` by keyword."""


def _text_scores(
    inputs: MetricInputs,
    *,
    worst: float,
    scorer_of: Callable[[MetricInputs], PairScorer | None],
    encoder: str | None,
    together: bool,
) -> list[float]:
    scorer = scorer_of(inputs)
    if scorer is None:
        return unscored(inputs)
    scores = [worst if texts else math.nan for texts in inputs.accepted]
    rows = [
        (i, prediction, texts)
        for i, (prediction, texts) in enumerate(zip(inputs.predictions, inputs.accepted, strict=True))
        if prediction is not None and texts
    ]
    if rows:
        positions, predictions, references = zip(*rows, strict=True)
        by_references = scorer if together else partial(best_over_references, scorer)
        score = partial(by_references, predictions=predictions, references=references)
        values = score() if encoder is None else shielded(inputs, encoder, score)
        if values is None:
            return unscored(inputs)
        for position, value in zip(positions, values, strict=True):
            scores[position] = value
    return scores


def _text_metric(
    name: str,
    description: str,
    scorer_of: Callable[[MetricInputs], PairScorer | None],
    *,
    worst: float = 0.0,
    encoder: str | None = None,
    together: bool = False,
) -> Metric:
    """Define a metric of pairs: of a text and the best of its references, or all ``together``."""
    return Metric(
        name=name,
        targets=("text",),
        description=description,
        score=partial(_text_scores, worst=worst, scorer_of=scorer_of, encoder=encoder, together=together),
        worst=worst,
    )


def score_each(function: Callable[..., float]) -> Callable[[MetricInputs], PairScorer]:
    """Turn a function of one pair into a scorer of pairs."""

    def score(*, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        return [function(prediction=p, reference=r) for p, r in zip(predictions, references, strict=True)]

    return lambda inputs: score


def _tfidf(inputs: MetricInputs) -> PairScorer:
    return text.fit_tfidf([reference for texts in inputs.accepted for reference in texts])


def _bertscore(inputs: MetricInputs) -> PairScorer | None:
    encoder = inputs.bertscore
    return encoder and _readable(encoder, partial(semantic.bertscore_f1, encoder=encoder))


def _sentence(inputs: MetricInputs) -> PairScorer | None:
    return inputs.sentence and _readable(inputs.sentence, inputs.sentence.cosine)


def _readable(encoder: Any, score: PairScorer) -> PairScorer:
    """Leave out references in a script that the encoder does not know: to it all are alike."""

    def scores(*, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        reads = encoder.reads(references)
        values = score(predictions=predictions, references=references)
        return [value if read else math.nan for value, read in zip(values, reads, strict=True)]

    return scores


def _corpus_bleu_statistics(inputs: MetricInputs) -> "NDArray[np.float64]":
    import numpy as np  # heavy: imported on use

    rows = [
        text.bleu_statistics(prediction=prediction or "", reference=texts).flat()
        if texts
        else (math.nan,) * (2 + 2 * text.BLEU_ORDER)
        for prediction, texts in zip(inputs.predictions, inputs.accepted, strict=True)
    ]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2 + 2 * text.BLEU_ORDER)


def _corpus_bleu_alone(inputs: MetricInputs) -> list[float]:
    import numpy as np

    statistics = _corpus_bleu_statistics(inputs)
    values = text.corpus_bleu(np.nan_to_num(statistics))
    alone: list[float] = np.where(np.isnan(statistics[:, 0]), np.nan, values).tolist()
    return alone


def _values(inputs: MetricInputs, *, name: str, key: str | None = None, worst: float = 0.0) -> list[float]:
    """Score JSON objects of attributes by one of ``values.MEASURES``."""
    measure = values.MEASURES[name][1]
    scores = []
    for prediction, reference in zip(inputs.predictions, inputs.references, strict=True):
        counts = values.compare_values(prediction=prediction, reference=reference or "{}", key=key)
        score = worst if prediction is None and counts.known else measure(counts)
        scores.append(score if counts.known else math.nan)
    return scores


def _attribute_recall(inputs: MetricInputs, *, kind: str | None = None) -> list[float]:
    if inputs.target == "attributes":
        return _values(inputs, name=values.RECALL, key=kind)
    if not inputs.attributes:
        return unscored(inputs)
    recall = attributes.attribute_recall if kind is None else partial(attributes.attribute_recall_of, kind=kind)
    return [  # a malformed completion states nothing
        recall(prediction=prediction or "", attributes=known)
        for prediction, known in zip(inputs.predictions, inputs.attributes, strict=True)
    ]


def _title_attributes(inputs: MetricInputs, *, part: str) -> list[float]:
    """Score by ``compare_titles``; a malformed completion gets 0 where facts are expected."""
    known = inputs.attributes or [{}] * len(inputs.predictions)

    def score(prediction: str | None, reference: str, brand: str | None) -> float:
        agreement = extraction.compare_titles(prediction=prediction or "", reference=reference, brand=brand)
        value: float = getattr(agreement, part)
        return 0.0 if prediction is None and not math.isnan(agreement.recall) else value

    return [
        best_of(score(prediction, reference, facts.get("brand")) for reference in texts)
        for prediction, texts, facts in zip(inputs.predictions, inputs.accepted, known, strict=True)
    ]


def _parse_rate(inputs: MetricInputs) -> list[float]:
    return [float(prediction is not None) for prediction in inputs.predictions]


def _render_rate(inputs: MetricInputs) -> list[float]:
    if not inputs.rendered_images:
        return unscored(inputs)
    return [float(path is not None) for path in inputs.rendered_images]


def _image_metric(name: str, description: str, *, worst: float, best: float = 1.0) -> Metric:
    return Metric(
        name=name,
        targets=("image",),
        description=description,
        score=partial(renders.render_scores, name=name, worst=worst),
        worst=worst,
        best=best,
    )


def attribute_recall_metrics(kinds: Iterable[str]) -> dict[str, Metric]:
    """Define ``attribute_recall_<kind>`` for each kind of attribute, in the given order."""
    return {
        f"attribute_recall_{kind}": Metric(
            name=f"attribute_recall_{kind}",
            targets=("text", "attributes"),
            description=f"share of the items with a known {kind} whose title states it",
            score=partial(_attribute_recall, kind=kind),
        )
        for kind in kinds
    }


def attribute_exact_metrics(keys: Iterable[str]) -> dict[str, Metric]:
    """Define ``attribute_exact_<key>`` for each key of answers of attributes, in their order."""
    return {
        f"attribute_exact_{key}": Metric(
            name=f"attribute_exact_{key}",
            targets=("attributes",),
            description=f"share of the items with a known {key} whose answer gives it to the letter",
            score=partial(_values, name="attribute_exact", key=key),
        )
        for key in keys
    }


_METRICS = (
    _text_metric(
        "bleu",
        "smoothed sentence BLEU-4 (13a tokens, nltk method3), mean over items",
        score_each(text.bleu),
        together=True,
    ),
    Metric(
        name="corpus_bleu",
        targets=("text",),
        description="corpus BLEU-4 (13a tokens, as sacrebleu); malformed completions count as empty",
        score=_corpus_bleu_alone,
        statistics=_corpus_bleu_statistics,
        aggregate=text.corpus_bleu,
    ),
    _text_metric("chrf", "chrF2, character n-gram F-score", score_each(text.chrf)),
    _text_metric("rouge_l", "ROUGE-L F1, longest common subsequence of words", score_each(text.rouge_l)),
    _text_metric("token_f1", "F1 of the bags of words", score_each(text.token_f1)),
    _text_metric("jaccard", "shared words over all words", score_each(text.jaccard)),
    _text_metric("tfidf_cosine", "TF-IDF cosine, document frequencies of the split's references", _tfidf),
    _text_metric(
        "bertscore_f1", "BERTScore F1, rescaled where the model has a baseline", _bertscore, encoder="bertscore"
    ),
    _text_metric("embedding_cosine", "cosine of sentence embeddings", _sentence, worst=-1.0, encoder="sentence"),
    Metric(
        name="attribute_recall",
        targets=("text", "attributes"),
        description="share of the item's known attributes that the title states",
        score=_attribute_recall,
    ),
    *(
        Metric(
            name=name,
            targets=("attributes",),
            description=description,
            score=partial(_values, name=name, worst=float(name == "attribute_abstention")),
            worst=float(name == "attribute_abstention"),
            best=float(name != "attribute_abstention"),
        )
        for name, (description, _) in values.MEASURES.items()
        if name != values.RECALL
    ),
    *(
        Metric(
            name=f"title_attribute_{part}",
            targets=("text",),
            description=description,
            score=partial(_title_attributes, part=part),
        )
        for part, description in (
            ("precision", "share of the title's facts (brand, color, size, count, model) that the true title states"),
            ("recall", "share of the true title's facts that the title states"),
            ("f1", "F1 of the facts that both titles state"),
        )
    ),
    _image_metric("clip_image_image", "CLIP cosine of the rendered and the real image", worst=-1.0),
    _image_metric(
        # torchmetrics' CLIPScore is 100 times this cosine, cut at 0; neither cut nor scaled it
        # tells more, and a reward and a metric share one scale.
        "clip_text_image",
        "CLIPScore as a cosine of the rendered image and the title",
        worst=-1.0,
    ),
    _image_metric("dino_image_image", "DINOv2 cosine of the rendered and the real image, both letterboxed", worst=-1.0),
    _image_metric(
        "lpips",
        "learned perceptual distance (AlexNet) of the rendered and the real image, both letterboxed; cut at 1",
        worst=renders.LPIPS_CAP,
        best=0.0,
    ),
    Metric(
        name="kid",
        targets=("image",),
        description="kernel Inception distance in the category, unbiased; a failed render counts as a white image",
        score=image_sets.kid,
        depends_on_other_answers=True,
        worst=math.inf,
        best=0.0,
    ),
    Metric(
        name="fid",
        targets=("image",),
        description="Fréchet Inception distance; larger in smaller sets; a failed render counts as a white image",
        score=unscored,
        worst=math.inf,
        best=0.0,
        of_set=image_sets.fid,
    ),
    _image_metric(
        "ssim", "structural similarity of the rendered and the real image, both letterboxed; cut at 0", worst=0.0
    ),
    _image_metric(
        "psnr",
        "peak signal-to-noise ratio in dB, both images letterboxed; 100 for equal ones",
        worst=0.0,
        best=image.PSNR_CAP_DB,
    ),
    _image_metric(
        "mse",
        "mean squared error of values in [0, 1], both images letterboxed",
        worst=1.0,
        best=0.0,
    ),
    Metric(
        name="render_rate",
        targets=("image",),
        description="share of the completions that could be rendered",
        score=_render_rate,
    ),
    Metric(
        name="parse_rate",
        targets=TARGET_KINDS,
        description="share of the completions that parse",
        score=_parse_rate,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
"""All metrics by name but those of a catalogue's kinds: see ``attribute_recall_metrics``."""
