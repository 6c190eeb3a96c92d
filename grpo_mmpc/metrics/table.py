"""The one table of metrics: what each measures, its range, and how it scores a list of items.

Three rules hold for all of them: a malformed completion or a failed render gets the metric's
``worst`` value, an item that cannot be judged (no reference, no real image, unknown attribute) or a
metric without its encoder is NaN, and scores come back in the order of the items.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from grpo_mmpc.metrics import attributes, extraction, image, image_sets, semantic, text
from grpo_mmpc.metrics import rendered_images as renders
from grpo_mmpc.metrics.metric import Metric, MetricInputs, _known

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_TO_TEXT = "image_to_text"
TEXT_TO_IMAGE = "text_to_image"

PairScorer = Callable[[Sequence[str], Sequence[str]], list[float]]


def _score_texts(inputs: MetricInputs, *, worst: float, scorer: PairScorer) -> list[float]:
    """Score the well-formed predictions that have a reference in one call; place ``worst`` and NaN elsewhere."""
    scores = [worst if _known(reference) else math.nan for reference in inputs.references]
    rows = [
        (i, prediction, reference)
        for i, (prediction, reference) in enumerate(zip(inputs.predictions, inputs.references, strict=True))
        if prediction is not None and reference is not None and _known(reference)
    ]
    if rows:
        positions, predictions, references = zip(*rows, strict=True)
        for position, score in zip(positions, scorer(predictions, references), strict=True):
            scores[position] = score
    return scores


def _text_metric(name: str, function: Callable[..., float], description: str) -> Metric:
    def scorer(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        return [function(prediction=p, reference=r) for p, r in zip(predictions, references, strict=True)]

    return Metric(
        name=name,
        tasks=(IMAGE_TO_TEXT,),
        description=description,
        score=partial(_score_texts, worst=0.0, scorer=scorer),
    )


def _corpus_bleu_statistics(inputs: MetricInputs) -> "NDArray[np.float64]":
    import numpy as np  # heavy: imported on use

    rows = [
        text.bleu_statistics(prediction=prediction or "", reference=reference).flat()
        if reference is not None and _known(reference)
        else (math.nan,) * (2 + 2 * text.BLEU_ORDER)
        for prediction, reference in zip(inputs.predictions, inputs.references, strict=True)
    ]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2 + 2 * text.BLEU_ORDER)


def _corpus_bleu_alone(inputs: MetricInputs) -> list[float]:
    """What corpus BLEU would be if each item were the whole corpus."""
    import numpy as np

    statistics = _corpus_bleu_statistics(inputs)
    values = text.corpus_bleu(np.nan_to_num(statistics))
    alone: list[float] = np.where(np.isnan(statistics[:, 0]), np.nan, values).tolist()
    return alone


def _tfidf_cosine(inputs: MetricInputs) -> list[float]:
    fit_on = [reference for reference in inputs.references if reference is not None and _known(reference)]

    def scorer(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        return text.tfidf_cosines(predictions=predictions, references=references, fit_on=fit_on)

    return _score_texts(inputs, worst=0.0, scorer=scorer)


def _bertscore_f1(inputs: MetricInputs) -> list[float]:
    encoder = inputs.bertscore
    if encoder is None:
        return [math.nan] * len(inputs.predictions)
    return _score_texts(
        inputs,
        worst=0.0,
        scorer=lambda predictions, references: semantic.bertscore_f1(
            predictions=predictions, references=references, encoder=encoder
        ),
    )


def _embedding_cosine(inputs: MetricInputs) -> list[float]:
    encoder = inputs.sentence
    if encoder is None:
        return [math.nan] * len(inputs.predictions)
    return _score_texts(
        inputs,
        worst=-1.0,
        scorer=lambda predictions, references: semantic.embedding_cosine(
            predictions=predictions, references=references, encoder=encoder
        ),
    )


def _attribute_recall(inputs: MetricInputs, *, kind: str | None = None) -> list[float]:
    if not inputs.attributes:
        return [math.nan] * len(inputs.predictions)
    scores = []
    for prediction, known in zip(inputs.predictions, inputs.attributes, strict=True):
        said = prediction or ""  # a malformed completion states nothing
        if kind is None:
            scores.append(attributes.attribute_recall(prediction=said, attributes=known))
        else:
            scores.append(attributes.attribute_recall_of(prediction=said, attributes=known, kind=kind))
    return scores


def _title_attributes(inputs: MetricInputs, *, part: str) -> list[float]:
    """One number of ``extraction.compare_titles`` per item; a malformed completion scores 0 where a fact was expected."""
    known = inputs.attributes or [{}] * len(inputs.predictions)
    scores = []
    for prediction, reference, facts in zip(inputs.predictions, inputs.references, known, strict=True):
        if reference is None or not _known(reference):
            scores.append(math.nan)
            continue
        agreement = extraction.compare_titles(
            prediction=prediction or "", reference=reference, brand=facts.get("brand")
        )
        score: float = getattr(agreement, part)
        scores.append(0.0 if prediction is None and not math.isnan(agreement.recall) else score)
    return scores


def _parse_rate(inputs: MetricInputs) -> list[float]:
    return [float(prediction is not None) for prediction in inputs.predictions]


def _render_rate(inputs: MetricInputs) -> list[float]:
    if not inputs.rendered_images:
        return [math.nan] * len(inputs.predictions)
    return [float(path is not None) for path in inputs.rendered_images]


def _image_metric(
    name: str, description: str, *, worst: float, best: float = 1.0, higher_is_better: bool = True
) -> Metric:
    return Metric(
        name=name,
        tasks=(TEXT_TO_IMAGE,),
        description=description,
        score=partial(renders.render_scores, name=name, worst=worst),
        higher_is_better=higher_is_better,
        worst=worst,
        best=best,
    )


def _unscored(inputs: MetricInputs) -> list[float]:
    return [math.nan] * len(inputs.predictions)


def attribute_recall_metrics(kinds: Iterable[str]) -> dict[str, Metric]:
    """``attribute_recall_<kind>`` for each kind that a catalogue knows, in the given order."""
    return {
        f"attribute_recall_{kind}": Metric(
            name=f"attribute_recall_{kind}",
            tasks=(IMAGE_TO_TEXT,),
            description=f"share of the items with a known {kind} whose title states it",
            score=partial(_attribute_recall, kind=kind),
        )
        for kind in kinds
    }


_METRICS = (
    _text_metric("bleu", text.bleu, "smoothed sentence BLEU-4 (13a tokens, nltk method3), mean over items"),
    Metric(
        name="corpus_bleu",
        tasks=(IMAGE_TO_TEXT,),
        description="corpus BLEU-4 (13a tokens, as sacrebleu); malformed completions count as empty",
        score=_corpus_bleu_alone,
        statistics=_corpus_bleu_statistics,
        aggregate=text.corpus_bleu,
    ),
    _text_metric("chrf", text.chrf, "chrF2, character n-gram F-score"),
    _text_metric("rouge_l", text.rouge_l, "ROUGE-L F1, longest common subsequence of words"),
    _text_metric("token_f1", text.token_f1, "F1 of the bags of words"),
    _text_metric("jaccard", text.jaccard, "shared words over all words"),
    Metric(
        name="tfidf_cosine",
        tasks=(IMAGE_TO_TEXT,),
        description="TF-IDF cosine, document frequencies of the split's references",
        score=_tfidf_cosine,
    ),
    Metric(
        name="bertscore_f1",
        tasks=(IMAGE_TO_TEXT,),
        description="BERTScore F1, rescaled where the model has a baseline",
        score=_bertscore_f1,
    ),
    Metric(
        name="embedding_cosine",
        tasks=(IMAGE_TO_TEXT,),
        description="cosine of sentence embeddings",
        score=_embedding_cosine,
        worst=-1.0,
    ),
    Metric(
        name="attribute_recall",
        tasks=(IMAGE_TO_TEXT,),
        description="share of the item's known attributes that the title states",
        score=_attribute_recall,
    ),
    *(
        Metric(
            name=f"title_attribute_{part}",
            tasks=(IMAGE_TO_TEXT,),
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
        higher_is_better=False,
    ),
    Metric(
        name="kid",
        tasks=(TEXT_TO_IMAGE,),
        description="kernel Inception distance within the category, unbiased; a failed render counts as a white picture",
        score=image_sets.kid,
        depends_on_other_answers=True,
        higher_is_better=False,
        worst=math.inf,
        best=0.0,
    ),
    Metric(
        name="fid",
        tasks=(TEXT_TO_IMAGE,),
        description="Fréchet Inception distance; larger in smaller sets; a failed render counts as a white picture",
        score=_unscored,
        higher_is_better=False,
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
        higher_is_better=False,
    ),
    Metric(
        name="render_rate",
        tasks=(TEXT_TO_IMAGE,),
        description="share of the completions that could be rendered",
        score=_render_rate,
    ),
    Metric(
        name="parse_rate",
        tasks=(IMAGE_TO_TEXT, TEXT_TO_IMAGE),
        description="share of the completions that parse",
        score=_parse_rate,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
"""Every metric that needs no knowledge of the catalogue, by name; see ``attribute_recall_metrics``
for the rest."""
