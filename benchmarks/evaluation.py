"""Evaluation beside straightforward computation, one pair after the other.

Text, images, statistics.

    python benchmarks/evaluation.py            # 9,000 titles, 1,000 images; about 15 minutes
    python benchmarks/evaluation.py --quick    # a minute

``paper_text``: all text metrics of paper mode against what a script does that takes one pair after
the other (a TF-IDF fitted on the two titles, ``bert_score.score`` called with one pair, sacrebleu
on one pair). ``bert_score.score`` loads its model in every call; the figure
``paper_text_ratio_loaded_once`` is the ratio against a ``BERTScorer`` that is kept.
``corrected_text``: the text metrics of corrected mode against nltk, sacrebleu, rouge-score,
scikit-learn, a kept ``BERTScorer`` and the sentence encoder called pair by pair. ``image``: PSNR,
SSIM, MSE and both CLIP cosines against torchmetrics, scikit-image and CLIP called per pair. Both
sides use the same models (MiniLM, the nano CLIP) and threads. A repeat runs ours on all pairs with
fresh caches, then the per-pair side on a share of ``--baseline-pairs``, whose time is scaled to all
pairs. ``statistics_seconds``: a whole comparison of two evaluations of 9,000 items x 12 metrics x 9
categories, 10,000 resamples and permutations, in a fresh process;
``statistics_rss_mb``: the memory that it adds there; ``statistics_rss_growth_mb``: how much more
ten times the items add.
"""

# ruff: noqa: E402  torchvision's operators must be declared before Transformers is imported
import argparse
import json
import logging
import math
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from grpo_mmpc.encoders.bertscore import BertScoreEncoder
from grpo_mmpc.encoders.clip import ClipEncoder
from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.encoders.sentence import SentenceEncoder
from grpo_mmpc.evaluation.comparison import compare_evaluations
from grpo_mmpc.metrics.image import letterbox
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.official.text import PAPER_METRICS
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.nano import texts
from grpo_mmpc.nano.drawing import draw
from grpo_mmpc.nano.items import NanoItem, sample_items
from grpo_mmpc.nano.renderer import NanoRenderer
from grpo_mmpc.utils.manifest import environment
from grpo_mmpc.utils.model_paths import resolve_model

LAYERS = 6
CORRECTED = (
    *("bleu", "chrf", "rouge_l", "token_f1", "jaccard", "tfidf_cosine", "bertscore_f1", "embedding_cosine"),
    *("attribute_recall", "parse_rate"),
)
IMAGE = ("psnr", "ssim", "mse", "clip_image_image", "clip_text_image")

Scores = dict[str, list[float]]


def make_items(count: int) -> tuple[list[NanoItem], list[str]]:
    """Products and what an untrained policy says of them.

    Half of the answers in the seller's words, half in its own.
    """
    items, rng = sample_items(num_items=count, seed=9), random.Random(0)
    said = [item.title if rng.random() < 0.1 else texts.weak_caption(item.attributes, rng) for item in items]
    return items, said


def fresh_scorers() -> dict[str, Any]:
    """Encoders without anything cached."""
    return {
        "bertscore": BertScoreEncoder(model="nano:minilm", num_layers=LAYERS),
        "sentence": SentenceEncoder(model="nano:minilm"),
    }


def score_at_once(names: Sequence[str], table: Any, inputs: MetricInputs) -> Scores:
    """Our side: every metric on all items."""
    return {name: table[name].score(inputs) for name in names}


def bert_scorer() -> Callable[[str, str], float]:
    """bert-score itself, called with one pair, its model kept."""
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=resolve_model("nano:minilm"), num_layers=LAYERS)
    return lambda said, truth: float(scorer.score([said], [truth])[2][0])


def bert_score_call() -> Callable[[str, str], float]:
    """bert-score's function, called with one pair; it loads its model each time."""
    from bert_score import score
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = resolve_model("nano:minilm")
    return lambda said, truth: float(score([said], [truth], model_type=model, num_layers=LAYERS)[2][0])


def paper_per_pair(bert_f1: Callable[[str, str], float]) -> Callable[[str, str], dict[str, float]]:
    """What the official script computes for one pair, one library call after the other."""
    from sacrebleu.metrics.bleu import BLEU
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

    bleu = BLEU(smooth_method="none", effective_order=False, tokenize="13a")

    def cleaned(title: str) -> str:
        return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9\s]", " ", title.lower())).strip()

    def score(said: str, truth: str) -> dict[str, float]:
        a, b = cleaned(truth), cleaned(said)
        vectors = TfidfVectorizer(stop_words="english", ngram_range=(1, 2), max_features=1000).fit_transform([a, b])
        words_a, words_b = set(a.split()), set(b.split())
        return {
            "tfidf_cosine": float(cosine_similarity(vectors[0:1], vectors[1:2])[0, 0]),
            "tfidf_euclidean": 1 / (1 + float(euclidean_distances(vectors[0:1], vectors[1:2])[0, 0])),
            "jaccard": len(words_a & words_b) / len(words_a | words_b),
            "word_overlap": len(words_a & words_b) / len(words_a | words_b),
            "bertscore_f1": bert_f1(said, truth),
            "bleu": bleu.sentence_score(truth, [said]).score / 100,
        }

    return score


def corrected_per_pair(titles: Sequence[str]) -> Callable[[str, str], dict[str, float]]:
    """The corrected-mode metrics of one pair by the field's packages.

    TF-IDF fitted once, on all true titles.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import sentence_chrf
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sklearn.feature_extraction.text import TfidfVectorizer

    from grpo_mmpc.metrics.text import jaccard, token_f1, tokens

    tokenizer, smoothing = Tokenizer13a(), SmoothingFunction().method3
    rouge = RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=lambda title: list(tokens(title))))
    words: Any = {"tokenizer": tokens, "token_pattern": None, "lowercase": False}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), **words).fit(titles)
    bert_f1 = bert_scorer()
    sentence: Any = SentenceEncoder(model="nano:minilm")

    def embedded(title: str) -> torch.Tensor:
        ids = sentence._tokenizer([title], return_tensors="pt", truncation=True)
        with torch.no_grad():
            return torch.nn.functional.normalize(sentence._model(**ids)[0][0].mean(dim=0), dim=0)

    def score(said: str, truth: str) -> dict[str, float]:
        reference, hypothesis = tokenizer(truth).split(), tokenizer(said).split()
        order = min(4, len(reference))
        return {
            "bleu": sentence_bleu([reference], hypothesis, weights=[1 / order] * order, smoothing_function=smoothing),
            "chrf": sentence_chrf(said, [truth]).score / 100,
            "rouge_l": rouge.score(truth, said)["rougeL"].fmeasure,
            "token_f1": token_f1(prediction=said, reference=truth),
            "jaccard": jaccard(prediction=said, reference=truth),
            "tfidf_cosine": float((vectorizer.transform([said]) @ vectorizer.transform([truth]).T)[0, 0]),
            "bertscore_f1": min(1.0, max(0.0, bert_f1(said, truth))),
            "embedding_cosine": float(embedded(said) @ embedded(truth)),
        }

    return score


def compare_sides(
    ours: Callable[[], Scores], theirs: Callable[[int], dict[str, float]], *, count: int, measured: int, repeats: int
) -> tuple[float, float, dict[str, float]]:
    """Return median seconds of both sides for all items, and the largest differences.

    Args:
        ours: Scores all items.
        theirs: Scores one item.
        count: Items.
        measured: How many of them the other side scores, spread evenly.
        repeats: The two sides alternate so often; each repeat has its share of ``measured``.
    """
    seconds: list[float] = []
    spent = 0.0
    worst: dict[str, float] = {}
    chosen = list(range(0, count, max(1, count // measured)))[:measured]
    for repeat in range(repeats):
        start = time.perf_counter()
        scores = ours()
        seconds.append(time.perf_counter() - start)
        for i in chosen[repeat::repeats]:
            start = time.perf_counter()
            expected = theirs(i)
            spent += time.perf_counter() - start
            for name, value in expected.items():
                worst[name] = max(worst.get(name, 0.0), abs(value - scores[name][i]))
    return statistics.median(seconds), spent * count / len(chosen), worst


def compare_text(
    names: Sequence[str], table: Any, per_pair: Callable[[str, str], dict[str, float]], pairs: Any, **options: int
) -> tuple[dict[str, Any], dict[str, bool], str]:
    """Our text metrics against a per-pair function."""
    items, said = pairs
    titles = [item.title for item in items]

    def ours() -> Scores:
        inputs = MetricInputs(
            task="image_to_text",
            predictions=said,
            references=titles,
            attributes=[item.attributes for item in items],
            **fresh_scorers(),
        )
        return score_at_once(names, table, inputs)

    fast, slow, worst = compare_sides(ours, lambda i: per_pair(said[i], titles[i]), count=len(items), **options)
    # Floating point for formulas, batching in single precision for encoders.
    checks = {
        f"same_{name}": gap <= (1e-4 if name in ("bertscore_f1", "embedding_cosine") else 1e-6)
        for name, gap in worst.items()
    }
    return _result(fast, slow), checks, f"largest differences {worst}"


def image_per_pair() -> Callable[[str, str, str], dict[str, float]]:
    """The image metrics of one pair by the field's packages, files opened for each."""
    from skimage.metrics import structural_similarity
    from torchmetrics.functional import mean_squared_error
    from torchmetrics.functional.image import peak_signal_noise_ratio

    encoder: Any = ClipEncoder(model="nano:clip")
    model, tokenizer, processor = encoder._model, encoder._tokenizer, encoder._processor

    def square(path: str) -> Any:
        return np.asarray(letterbox(open_image(path)), dtype=np.float64) / 255

    def tensor(path: str) -> torch.Tensor:
        return torch.from_numpy(square(path)).permute(2, 0, 1)[None].contiguous()

    def unit(features: Any) -> torch.Tensor:
        return torch.nn.functional.normalize(features.pooler_output, dim=-1)[0]

    def picture(path: str) -> torch.Tensor:
        return unit(model.get_image_features(**processor(images=open_image(path), return_tensors="pt")))

    def score(drawn: str, real: str, title: str) -> dict[str, float]:
        with torch.no_grad():
            words = tokenizer(title, return_tensors="pt", truncation=True, max_length=encoder.max_text_tokens)
            return {
                "psnr": float(peak_signal_noise_ratio(tensor(drawn), tensor(real), data_range=1.0)),
                "ssim": max(
                    0.0, float(structural_similarity(square(drawn), square(real), channel_axis=2, data_range=1.0))
                ),
                "mse": float(mean_squared_error(tensor(drawn), tensor(real))),
                "clip_image_image": float(picture(drawn) @ picture(real)),
                "clip_text_image": float(picture(drawn) @ unit(model.get_text_features(**words))),
            }

    return score


def compare_images(folder: Path, *, count: int, **options: int) -> tuple[dict[str, Any], dict[str, bool], str]:
    """Real pictures against what the renderer makes of what a policy said."""
    items, said = make_items(count)
    titles = [item.title for item in items]
    real, drawn = [], []
    for i, (item, picture) in enumerate(zip(items, NanoRenderer().render(said, seeds=list(range(count))), strict=True)):
        assert picture is not None
        real.append(str(folder / f"real-{i}.png"))
        drawn.append(str(folder / f"drawn-{i}.png"))
        draw(item.attributes, jitter=item.jitter).save(real[-1])
        picture.save(drawn[-1])
    per_pair = image_per_pair()

    def ours() -> Scores:
        inputs = MetricInputs(
            task="text_to_image",
            predictions=said,
            references=titles,
            real_images=real,
            rendered_images=drawn,
            clip=ClipEncoder(model="nano:clip"),
            read_image=open_image,
        )
        return score_at_once(IMAGE, METRICS, inputs)

    fast, slow, worst = compare_sides(ours, lambda i: per_pair(drawn[i], real[i], titles[i]), count=count, **options)
    bounds = {"psnr": 1e-4}  # decibels, which torchmetrics computes from a single-precision mean
    checks = {f"same_{name}": gap <= bounds.get(name, 1e-5) for name, gap in worst.items()}
    return _result(fast, slow), checks, f"largest differences {worst}"


def write_evaluations(folder: Path, *, num_items: int, num_metrics: int = 12, num_categories: int = 9) -> None:
    """Two evaluations with random scores, ``before`` and ``after``."""
    rng = np.random.default_rng(0)
    names = [name for name, metric in METRICS.items() if "text" in metric.targets and metric.statistics is None]
    names = names[:num_metrics]
    assert len(names) == num_metrics
    level = rng.uniform(size=(num_metrics, num_items))
    for side in ("before", "after"):
        columns: dict[str, Any] = {
            "item_id": [f"item-{i}" for i in range(num_items)],
            "category": [f"category {i % num_categories}" for i in range(num_items)],
            "task": ["image_to_text"] * num_items,
        }
        for row, name in enumerate(names):
            columns[f"score/{name}"] = np.clip(level[row] + rng.normal(scale=0.1, size=num_items), 0, 1)
        target = folder / side / "cqbench"
        target.mkdir(parents=True)
        pq.write_table(pa.table(columns), target / "samples.parquet")
        summary = {"suite": "cqbench", "version": 2, "mode": "corrected", "tasks": {}}
        (target / "summary.json").write_text(json.dumps(summary))


def comparison_cost(folder: Path) -> tuple[float, float]:
    """Seconds of a whole comparison, and the memory in MB that it adds to this process."""
    start, before = time.perf_counter(), _peak_mb()
    compare_evaluations(folder / "before", [folder / "after"], resamples=10_000)
    return time.perf_counter() - start, _peak_mb() - before


def fresh_comparison_cost(folder: Path, *, num_items: int) -> tuple[float, float]:
    """``comparison_cost`` in a process of its own.

    No peak that was reached before hides anything.
    """
    write_evaluations(folder, num_items=num_items)
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(comparison_cost, folder).result()


def _result(ours: float, theirs: float) -> dict[str, Any]:
    return {"ours": round(ours, 2), "baseline": round(theirs, 2), "unit": "s", "ratio": round(theirs / ours, 2)}


def _peak_mb() -> float:
    """Of this process alone; ``ru_maxrss`` begins at what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9000, help="title pairs (%(default)s)")
    parser.add_argument("--pictures", type=int, default=1000, help="picture pairs (%(default)s)")
    parser.add_argument("--baseline-pairs", type=int, default=600, help="pairs that the slow side scores (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pairs, arguments.pictures, arguments.baseline_pairs, arguments.repeats = 300, 60, 30, 2
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)  # it recommends another BLEU than the paper's, pair by pair
    options = {"measured": arguments.baseline_pairs, "repeats": arguments.repeats}
    results: dict[str, Any] = {}
    checks: dict[str, bool] = {}
    figures: dict[str, float] = {"title_pairs": arguments.pairs, "picture_pairs": arguments.pictures}
    with tempfile.TemporaryDirectory() as scratch:
        seconds, added = fresh_comparison_cost(Path(scratch) / "comparison", num_items=arguments.pairs)
        _, added_by_more = fresh_comparison_cost(Path(scratch) / "larger", num_items=10 * arguments.pairs)
        figures["statistics_seconds"] = round(seconds, 2)
        figures["statistics_rss_mb"] = round(added, 1)
        figures["statistics_rss_growth_mb"] = round(added_by_more - added, 1)
        pairs = make_items(arguments.pairs)
        titles = [item.title for item in pairs[0]]
        paper = list(PAPER_METRICS)
        sides: dict[str, Any] = {
            "paper_text": lambda: compare_text(
                paper, PAPER_METRICS, paper_per_pair(bert_score_call()), pairs, **options
            ),
            "paper_text_loaded_once": lambda: compare_text(
                paper, PAPER_METRICS, paper_per_pair(bert_scorer()), pairs, **options
            ),
            "corrected_text": lambda: compare_text(CORRECTED, METRICS, corrected_per_pair(titles), pairs, **options),
            "image": lambda: compare_images(Path(scratch), count=arguments.pictures, **options),
        }
        for name, measure in sides.items():
            results[name], found, detail = measure()
            checks |= {f"{name}_{key}": value for key, value in found.items()}
            print(f"{name}: {results[name]}; {detail}", flush=True)
    figures["paper_text_ratio_loaded_once"] = results.pop("paper_text_loaded_once")["ratio"]
    figures["peak_rss_mb"] = round(_peak_mb(), 1)
    checks["statistics_are_finite"] = math.isfinite(figures["statistics_seconds"])
    where = environment()
    print(
        json.dumps(
            {
                "benchmark": "evaluation",
                "hardware": where["hardware"],
                "versions": where["versions"],
                "results": results,
                "figures": figures,
                "checks": checks,
            }
        )
    )


if __name__ == "__main__":
    main()
