"""The one table of metrics: what each measures, its range, and how it scores a list of items.

Three rules hold for all of them: a malformed completion or a failed render gets the metric's ``lowest`` value, an item
that cannot be judged (no reference, no real image, unknown attribute) or a metric without its encoder is NaN, and scores
come back in the order of the items.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from grpo_mmpc.errors import ImageError
from grpo_mmpc.metrics import attributes, image, semantic, text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

IMAGE_TO_TEXT = "image_to_text"
TEXT_TO_IMAGE = "text_to_image"

PairScorer = Callable[[Sequence[str], Sequence[str]], list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInputs:
    """N completions of one task over a whole split, with what is needed to judge them.

    TF-IDF fits its document frequencies on these references: score a split in one piece.
    """

    task: str
    predictions: Sequence[str | None]
    """Parsed completions; None = malformed."""
    references: Sequence[str | None]
    """True titles; None or blank = unknown. In text_to_image, the title that the policy was shown."""
    attributes: Sequence[Mapping[str, str]] = ()
    """Known facts by kind; empty sequence = none for any item."""
    real_images: Sequence[str | None] = ()
    """Absolute paths of the items' real images; None = unknown. Empty sequence = none for any item."""
    rendered_images: Sequence[str | None] = ()
    """Paths of the images rendered from the predictions; None = nothing was rendered, the worst answer."""
    bertscore: semantic.BertScorer | None = None
    sentence: semantic.SentenceScorer | None = None
    clip: image.ClipScorer | None = None
    read_image: "Callable[[str], Image.Image] | None" = None
    """Opens an image as RGB or raises ImageError: ``grpo_mmpc.scoring.images.open_image``. Needed by ``ssim`` only."""

    def __post_init__(self) -> None:
        expected = len(self.predictions)
        for name in ("references", "attributes", "real_images", "rendered_images"):
            found = len(getattr(self, name))
            if found != expected and (found or name == "references"):
                raise ValueError(f"MetricInputs.{name} has {found} entries for {expected} predictions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One evaluation function."""

    name: str
    tasks: tuple[str, ...]
    description: str
    """One line for reports."""
    score: Callable[[MetricInputs], list[float]]
    """One value per item, NaN = unscored."""
    higher_is_better: bool = True
    lowest: float = 0.0
    """Least possible value, and the score of a malformed completion."""
    highest: float = 1.0
    statistics: "Callable[[MetricInputs], NDArray[np.float64]] | None" = None
    """Corpus-level metrics only: sufficient statistics per item, shape [N, S]; a row of NaN = unscored."""
    aggregate: "Callable[[NDArray[np.float64]], NDArray[np.float64]] | None" = None
    """Corpus-level metrics only: values [...] from statistics summed over the scored items, [..., S].

    The mean of ``score`` is not the metric's value then."""


def _known(reference: str | None) -> bool:
    return reference is not None and bool(reference.strip())


def _score_texts(inputs: MetricInputs, *, lowest: float, scorer: PairScorer) -> list[float]:
    """Score the well-formed predictions that have a reference in one call; place ``lowest`` and NaN elsewhere."""
    scores = [lowest if _known(reference) else math.nan for reference in inputs.references]
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
        score=partial(_score_texts, lowest=0.0, scorer=scorer),
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

    return _score_texts(inputs, lowest=0.0, scorer=scorer)


def _bertscore_f1(inputs: MetricInputs) -> list[float]:
    encoder = inputs.bertscore
    if encoder is None:
        return [math.nan] * len(inputs.predictions)
    return _score_texts(
        inputs,
        lowest=0.0,
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
        lowest=-1.0,
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


def _parse_rate(inputs: MetricInputs) -> list[float]:
    return [float(prediction is not None) for prediction in inputs.predictions]


def _render_rate(inputs: MetricInputs) -> list[float]:
    if not inputs.rendered_images:
        return [math.nan] * len(inputs.predictions)
    return [float(path is not None) for path in inputs.rendered_images]


def _score_renders(
    inputs: MetricInputs, *, lowest: float, targets: Sequence[str | None], scorer: PairScorer
) -> list[float]:
    """Score rendered images against what they should show; ``lowest`` without a render, NaN without a target."""
    if not inputs.rendered_images or not targets:
        return [math.nan] * len(inputs.predictions)
    scores = [lowest if _known(target) else math.nan for target in targets]
    rows = [
        (i, path, target)
        for i, (path, target) in enumerate(zip(inputs.rendered_images, targets, strict=True))
        if path is not None and target is not None and _known(target)
    ]
    if rows:
        positions, paths, known = zip(*rows, strict=True)
        for position, score in zip(positions, scorer(paths, known), strict=True):
            scores[position] = score
    return scores


def _clip_image_image(inputs: MetricInputs) -> list[float]:
    encoder = inputs.clip
    if encoder is None:
        return [math.nan] * len(inputs.predictions)
    return _score_renders(
        inputs,
        lowest=-1.0,
        targets=inputs.real_images,
        scorer=lambda rendered, real: encoder.image_image(image_paths=rendered, other_paths=real),
    )


def _clip_text_image(inputs: MetricInputs) -> list[float]:
    encoder = inputs.clip
    if encoder is None:
        return [math.nan] * len(inputs.predictions)
    return _score_renders(
        inputs,
        lowest=-1.0,
        targets=inputs.references,
        scorer=lambda rendered, titles: encoder.image_text(image_paths=rendered, texts=titles),
    )


def _ssim(inputs: MetricInputs) -> list[float]:
    def scorer(rendered: Sequence[str], real: Sequence[str]) -> list[float]:
        read_image = inputs.read_image
        if read_image is None:
            raise ValueError("ssim needs MetricInputs.read_image; pass grpo_mmpc.scoring.images.open_image")
        return [_ssim_of_files(r, t, read_image) for r, t in zip(rendered, real, strict=True)]

    return _score_renders(inputs, lowest=0.0, targets=inputs.real_images, scorer=scorer)


def _ssim_of_files(rendered: str, real: str, read_image: "Callable[[str], Image.Image]") -> float:
    try:
        reference = image.letterbox(read_image(real))
    except ImageError:
        return math.nan  # the truth cannot be read: nothing to judge by
    try:
        prediction = image.letterbox(read_image(rendered))
    except ImageError:
        return 0.0  # a render that is no image is a failed render
    return max(0.0, image.ssim(prediction=prediction, reference=reference))


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
        lowest=-1.0,
    ),
    Metric(
        name="attribute_recall",
        tasks=(IMAGE_TO_TEXT,),
        description="share of the item's known attributes that the title states",
        score=_attribute_recall,
    ),
    Metric(
        name="clip_image_image",
        tasks=(TEXT_TO_IMAGE,),
        description="CLIP cosine of the rendered and the real image",
        score=_clip_image_image,
        lowest=-1.0,
    ),
    Metric(
        name="clip_text_image",
        tasks=(TEXT_TO_IMAGE,),
        description="CLIP cosine of the rendered image and the title",
        score=_clip_text_image,
        lowest=-1.0,
    ),
    Metric(
        name="ssim",
        tasks=(TEXT_TO_IMAGE,),
        description="structural similarity of the rendered and the real image, both letterboxed",
        score=_ssim,
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
"""Every metric that needs no knowledge of the catalogue, by name; see ``attribute_recall_metrics`` for the rest."""
