"""Names and numbers as people read them."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_mmpc.evaluation.records import Cell

MINUS, NO_VALUE = "\N{MINUS SIGN}", "\N{EN DASH}"

_METRICS = {
    "bleu": "BLEU",
    "corpus_bleu": "Corpus BLEU",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "token_f1": "Token F1",
    "jaccard": "Jaccard",
    "tfidf_cosine": "TF-IDF cosine",
    "bertscore_f1": "BERTScore F1",
    "embedding_cosine": "Embedding cosine",
    "attribute_recall": "Attribute recall",
    "attribute_exact": "Attribute exact match",
    "attribute_precision": "Attribute precision",
    "attribute_f1": "Attribute F1",
    "attribute_abstention": "Attribute abstention",
    "title_attribute_precision": "Title attribute precision",
    "title_attribute_recall": "Title attribute recall",
    "title_attribute_f1": "Title attribute F1",
    "tfidf_euclidean": "TF-IDF Euclidean similarity",
    "word_overlap": "Word overlap",
    "parse_rate": "Parse rate",
    "render_rate": "Render rate",
    "clip_image_image": "CLIP image to image",
    "clip_text_image": "CLIP text to image",
    "dino_image_image": "DINOv2 image to image",
    "lpips": "LPIPS",
    "kid": "KID",
    "fid": "FID",
    "ssim": "SSIM",
    "psnr": "PSNR",
    "mse": "MSE",
}
ATTRIBUTE_PREFIX = "attribute_recall_"


def metric_label(name: str) -> str:
    """``bertscore_f1`` -> ``BERTScore F1``; an unknown name keeps its words."""
    if name.startswith(ATTRIBUTE_PREFIX):
        return f"Attribute recall: {words(name.removeprefix(ATTRIBUTE_PREFIX))}"
    return _METRICS.get(name, words(name))


def attribute_kind(name: str) -> str | None:
    """``attribute_recall_color`` -> ``color``; None for any other metric."""
    return words(name.removeprefix(ATTRIBUTE_PREFIX)) if name.startswith(ATTRIBUTE_PREFIX) else None


def task_label(name: str) -> str:
    """``image_to_text`` -> ``Image to text``."""
    return capital(words(name))


def capital(text: str) -> str:
    """Return a text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def words(name: str) -> str:
    """Underscores as spaces."""
    return name.replace("_", " ")


def number(value: float | None, *, digits: int = 3, grouped: bool = False) -> str:
    """``0.310``; a dash where there is no value; ``grouped`` writes ``1,200``."""
    if value is None:
        return NO_VALUE
    return (f"{value:,.{digits}f}" if grouped else f"{value:.{digits}f}").replace("-", MINUS)


def signed(value: float | None, *, digits: int = 3) -> str:
    """``+0.312`` or ``-0.018`` with a true minus sign; a dash where there is no value."""
    if value is None:
        return NO_VALUE
    text = f"{value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else f"{0:.{digits}f}"


def p_value(value: float | None) -> str:
    """``0.012`` or ``<0.001``; a dash where there is none."""
    return "<0.001" if value is not None and value < 0.001 else number(value)


def plural(count: int, noun: str) -> str:
    """``1 item``, ``1,200 items``, ``2 categories``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"


def partly_scored(cell: "Cell") -> str:
    """``30 of 40 items scored``; empty where all are."""
    return f"{cell.n_scored:,} of {cell.n:,} items scored" if cell.n_scored < cell.n else ""


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; empty without names."""
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def duration(seconds: float) -> str:
    """``47 s``, ``4 min 47 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def date(text: str) -> str:
    """An ISO 8601 time as ``22 November 2026, 08:14 UTC``; any other text unchanged."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def clamp(text: str, *, limit: int) -> tuple[str, int]:
    """Return the first ``limit`` characters, cut at a word, and how many were left out."""
    if len(text) <= limit:
        return text, 0
    cut = text[:limit]
    space = cut.rfind(" ")
    if space > limit * 0.8:
        cut = cut[:space]
    return cut, len(text) - len(cut)
