"""The metric table's promises: malformed is worst, unknown is NaN, order is kept."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.errors import ImageError
from grpo_mmpc.metrics.metric import Metric, MetricInputs
from grpo_mmpc.metrics.table import METRICS, attribute_recall_metrics
from grpo_mmpc.types import TARGET_KINDS

TITLE = "Acme Red Cotton Tote Bag, Large, Pack of 2"


class FakeScores(NamedTuple):
    precision: list[float]
    recall: list[float]
    f1: list[float]


class FakeBertScore:
    """Scores 0.9 raw, -0.2 rescaled, and remembers what it was asked."""

    def __init__(self, *, has_baseline: bool = False) -> None:
        self.has_baseline = has_baseline
        self.asked: list[tuple[str, str]] = []

    def reads(self, texts: Sequence[str]) -> list[bool]:
        return [True] * len(texts)

    def score(
        self, *, predictions: Sequence[str], references: Sequence[str], rescale_with_baseline: bool = False
    ) -> FakeScores:
        self.asked += zip(predictions, references, strict=True)
        values = [-0.2 if rescale_with_baseline else 0.9] * len(predictions)
        return FakeScores(values, values, values)


class FakeSentence:
    def reads(self, texts: Sequence[str]) -> list[bool]:
        return [True] * len(texts)

    def cosine(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        return [0.25] * len(predictions)


class FakeClip:
    def image_text(self, *, image_paths: Sequence[str], texts: Sequence[str]) -> list[float]:
        return [len(path) + len(text) / 100 for path, text in zip(image_paths, texts, strict=True)]

    def image_image(self, *, image_paths: Sequence[str], other_paths: Sequence[str]) -> list[float]:
        return [len(path) + len(other) / 100 for path, other in zip(image_paths, other_paths, strict=True)]


def title_inputs() -> MetricInputs:
    """Perfect, malformed, without reference, blank reference, wrong."""
    return MetricInputs(
        task="image_to_text",
        predictions=[TITLE, None, TITLE, TITLE, "xyzzy"],
        references=[TITLE, TITLE, None, "  ", TITLE],
        attributes=[
            {"type": "tote bag", "color": "red"},
            {"type": "tote bag"},
            {},
            {"color": "blue"},
            {"color": "red"},
        ],
        bertscore=FakeBertScore(),
        sentence=FakeSentence(),
    )


def equal(left: list[float], right: list[float]) -> bool:
    return len(left) == len(right) and all(
        a == pytest.approx(b) or (math.isnan(a) and math.isnan(b)) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("name", ["bleu", "corpus_bleu", "chrf", "rouge_l", "token_f1", "jaccard", "tfidf_cosine"])
def test_lexical_metrics_give_one_zero_for_malformed_and_nan_without_reference(name: str) -> None:
    scores = METRICS[name].score(title_inputs())
    assert equal(scores[:4], [1.0, 0.0, math.nan, math.nan])
    assert scores[4] < 0.05  # chrF finds no letter of "xyzzy" in the title either


def test_encoder_metrics_place_their_scores_and_the_worst_value_for_malformed() -> None:
    nan = math.nan
    assert equal(METRICS["bertscore_f1"].score(title_inputs()), [0.9, 0.0, nan, nan, 0.9])
    assert equal(METRICS["embedding_cosine"].score(title_inputs()), [0.25, -1.0, nan, nan, 0.25])


def test_a_missing_encoder_leaves_everything_unscored() -> None:
    inputs = replace(title_inputs(), bertscore=None, sentence=None)
    for name in ("bertscore_f1", "embedding_cosine", "clip_image_image", "clip_text_image"):
        assert all(math.isnan(score) for score in METRICS[name].score(inputs)), name


def test_bertscore_is_rescaled_where_a_baseline_exists_and_cut_at_zero() -> None:
    inputs = replace(title_inputs(), bertscore=FakeBertScore(has_baseline=True))
    assert METRICS["bertscore_f1"].score(inputs)[0] == 0.0


def test_malformed_and_unreferenced_items_never_reach_an_encoder() -> None:
    encoder = FakeBertScore()
    METRICS["bertscore_f1"].score(replace(title_inputs(), bertscore=encoder))
    assert encoder.asked == [(TITLE, TITLE), ("xyzzy", TITLE)]


def test_attribute_recall_needs_no_reference() -> None:
    # all stated; malformed states nothing; none known; blue not stated; red not stated
    assert equal(METRICS["attribute_recall"].score(title_inputs()), [1.0, 0.0, math.nan, 0.0, 0.0])


def test_attribute_recall_of_a_kind_scores_only_items_that_know_it() -> None:
    metrics = attribute_recall_metrics(["type", "color"])
    assert list(metrics) == ["attribute_recall_type", "attribute_recall_color"]
    assert equal(metrics["attribute_recall_type"].score(title_inputs()), [1.0, 0.0, math.nan, math.nan, math.nan])
    assert equal(metrics["attribute_recall_color"].score(title_inputs()), [1.0, math.nan, math.nan, 0.0, 0.0])


def test_parse_rate_counts_completions_that_parse() -> None:
    assert METRICS["parse_rate"].score(title_inputs()) == [1.0, 0.0, 1.0, 1.0, 1.0]


def test_corpus_bleu_is_aggregated_from_statistics_and_skips_unscored_rows() -> None:
    metric = METRICS["corpus_bleu"]
    assert metric.statistics is not None
    assert metric.aggregate is not None
    rows = metric.statistics(title_inputs())
    assert np.isnan(rows).all(axis=1).tolist() == [False, False, True, True, False]
    # a perfect title of 11 tokens (two commas), an empty text and "xyzzy": 11/12 10/10 9/9 8/8,
    # lengths 12 against 33
    value = float(metric.aggregate(np.nansum(rows, axis=0)))
    assert value == pytest.approx(math.exp(1 - 33 / 12) * (11 / 12) ** 0.25)


def test_scores_follow_their_items() -> None:
    inputs = title_inputs()
    order = [4, 2, 0, 1, 3]
    shuffled = replace(
        inputs,
        predictions=[inputs.predictions[i] for i in order],
        references=[inputs.references[i] for i in order],
        attributes=[inputs.attributes[i] for i in order],
    )
    for metric in METRICS.values():
        if "text" in metric.targets:
            scores = metric.score(inputs)
            assert equal(metric.score(shuffled), [scores[i] for i in order]), metric.name


class TestRenders:
    @staticmethod
    def inputs(**changes: object) -> MetricInputs:
        """Rendered, malformed (so nothing rendered), failed render, no real image and no title."""
        return replace(
            MetricInputs(
                task="text_to_image",
                predictions=["a red bag", None, "a bag", "a mug"],
                references=["Red Bag", "Mug", "Bag", None],
                real_images=["/real/1", "/real/2", "/real/3", None],
                rendered_images=["r/1", None, None, "r/4"],
                clip=FakeClip(),
            ),
            **changes,
        )

    def test_clip_compares_the_render_with_the_real_image(self) -> None:
        scores = METRICS["clip_image_image"].score(self.inputs())
        assert equal(scores, [3.07, -1.0, -1.0, math.nan])  # "r/1" has 3 characters, "/real/1" has 7

    def test_clip_compares_the_render_with_the_title(self) -> None:
        scores = METRICS["clip_text_image"].score(self.inputs())
        assert equal(scores, [3.07, -1.0, -1.0, math.nan])  # "Red Bag" has 7 characters

    def test_rates_count_parsed_and_rendered_completions(self) -> None:
        assert METRICS["parse_rate"].score(self.inputs()) == [1.0, 0.0, 1.0, 1.0]
        assert METRICS["render_rate"].score(self.inputs()) == [1.0, 0.0, 0.0, 1.0]

    def test_ssim_reads_both_files(self, tmp_path: Path) -> None:
        red, noise = tmp_path / "red.png", tmp_path / "noise.png"
        Image.new("RGB", (60, 40), "red").save(red)
        Image.effect_noise((64, 64), 90).convert("RGB").save(noise)
        broken = tmp_path / "broken.png"

        def read(path: str) -> Image.Image:
            if path == str(broken):
                raise ImageError("broken")
            with Image.open(path) as image:
                return image.convert("RGB")

        inputs = MetricInputs(
            task="text_to_image",
            predictions=["p"] * 5,
            references=["t"] * 5,
            real_images=[str(red), str(red), str(broken), str(red), None],
            rendered_images=[str(red), str(noise), str(red), None, str(red)],
            read_image=read,
        )
        same, different, unreadable, unrendered, unknown = METRICS["ssim"].score(inputs)
        assert same == pytest.approx(1.0)
        assert 0.0 <= different < 0.5
        assert math.isnan(unreadable)
        assert unrendered == 0.0
        assert math.isnan(unknown)

    def test_ssim_without_a_reader_says_what_to_pass(self) -> None:
        with pytest.raises(ValueError, match="open_image"):
            METRICS["ssim"].score(self.inputs())

    def test_without_a_renderer_every_image_metric_is_unscored(self) -> None:
        inputs = self.inputs(rendered_images=())
        for name in ("clip_image_image", "clip_text_image", "ssim", "render_rate"):
            assert all(math.isnan(score) for score in METRICS[name].score(inputs)), name


def test_names_are_those_of_the_table_and_every_metric_belongs_to_a_task() -> None:
    for name, metric in METRICS.items():
        assert isinstance(metric, Metric)
        assert metric.name == name
        assert set(metric.targets) <= set(TARGET_KINDS)
        assert metric.targets
        assert metric.higher_is_better == (name not in {"lpips", "kid", "fid", "mse", "attribute_abstention"})
        assert (metric.statistics is None) == (metric.aggregate is None)


RANGES = {
    # name: (worst, best); where worst is the greater one, lower is better
    "bleu": (0.0, 1.0),
    "corpus_bleu": (0.0, 1.0),
    "chrf": (0.0, 1.0),
    "rouge_l": (0.0, 1.0),
    "token_f1": (0.0, 1.0),
    "jaccard": (0.0, 1.0),
    "tfidf_cosine": (0.0, 1.0),
    "bertscore_f1": (0.0, 1.0),
    "embedding_cosine": (-1.0, 1.0),
    "attribute_recall": (0.0, 1.0),
    "attribute_exact": (0.0, 1.0),
    "attribute_precision": (0.0, 1.0),
    "attribute_f1": (0.0, 1.0),
    "attribute_abstention": (1.0, 0.0),
    "title_attribute_precision": (0.0, 1.0),
    "title_attribute_recall": (0.0, 1.0),
    "title_attribute_f1": (0.0, 1.0),
    "clip_image_image": (-1.0, 1.0),
    "clip_text_image": (-1.0, 1.0),
    "dino_image_image": (-1.0, 1.0),
    "lpips": (1.0, 0.0),
    "kid": (math.inf, 0.0),
    "fid": (math.inf, 0.0),
    "ssim": (0.0, 1.0),
    "psnr": (0.0, 100.0),
    "mse": (1.0, 0.0),
    "render_rate": (0.0, 1.0),
    "parse_rate": (0.0, 1.0),
}


def test_every_metric_states_its_range() -> None:
    assert {name: (metric.worst, metric.best) for name, metric in METRICS.items()} == RANGES


def test_a_malformed_completion_gets_the_worst_value_that_its_metric_states() -> None:
    """Score and stated worst value are written in two places and must not differ."""

    class Alike:
        has_baseline = False

        def reads(self, texts: list[str]) -> list[bool]:
            return [True] * len(texts)

        def score(self, *, predictions: list[str], references: list[str], rescale_with_baseline: bool) -> Any:
            return SimpleNamespace(f1=[1.0] * len(predictions))

        def cosine(self, *, predictions: list[str], references: list[str]) -> list[float]:
            return [1.0] * len(predictions)

    inputs = MetricInputs(
        task="image_to_text",
        predictions=["Acme red tote bag", None],
        references=["Acme red tote bag, 12 inch"] * 2,
        attributes=[{"color": "red", "brand": "Acme"}] * 2,
        bertscore=Alike(),
        sentence=Alike(),
    )
    for name, metric in METRICS.items():
        if "text" in metric.targets:
            perfect, malformed = metric.score(inputs)
            assert malformed == metric.worst < perfect, name


def test_a_failed_render_gets_the_worst_value_that_its_metric_states(tmp_path: Path) -> None:
    class Alike:
        def image_image(self, *, image_paths: list[Any], other_paths: list[Any]) -> list[float]:
            return [1.0] * len(image_paths)

        def image_text(self, *, image_paths: list[Any], texts: list[str]) -> list[float]:
            return [1.0] * len(texts)

        def distances(self, *, predictions: Any, references: Any) -> list[float]:
            return [0.0] * len(predictions)

    real = tmp_path / "real.png"
    Image.effect_noise((64, 64), 90).convert("RGB").save(real)
    inputs = MetricInputs(
        task="text_to_image",
        predictions=["a bag", "a mug"],
        references=["Bag", "Mug"],
        real_images=[str(real)] * 2,
        rendered_images=[str(real), None],
        clip=Alike(),
        dino=Alike(),
        lpips=Alike(),
        read_image=lambda path: Image.open(path).convert("RGB"),
    )
    scored = [m for m in METRICS.values() if m.targets == ("image",) and m.name not in ("kid", "fid")]
    assert len(scored) == 8
    for metric in scored:
        perfect, failed = metric.score(inputs)
        assert (perfect, failed) == (pytest.approx(metric.best), metric.worst), metric.name


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="references has 1 entries for 2 predictions"):
        MetricInputs(task="image_to_text", predictions=["a", "b"], references=["a"])
    with pytest.raises(ValueError, match="attributes"):
        MetricInputs(task="image_to_text", predictions=["a"], references=["a"], attributes=[{}, {}])
    with pytest.raises(ValueError, match="categories has 1 entries for 2 predictions"):
        MetricInputs(task="text_to_image", predictions=["a", "b"], references=["a", "b"], categories=["toys"])


def test_an_encoder_that_raises_leaves_its_own_metrics_unscored_with_the_reason(tmp_path: Path) -> None:
    class Broken:
        has_baseline = False

        def fails(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no projection\nhere")

        reads = score = cosine = image_image = image_text = distances = features = fails

    image = tmp_path / "image.png"
    Image.effect_noise((64, 64), 90).convert("RGB").save(image)
    names = ("bertscore", "sentence", "clip", "dino", "lpips", "inception")
    inputs = MetricInputs(
        task="text_to_image",
        predictions=["red bag"] * 2,
        references=["red bag"] * 2,
        real_images=[str(image)] * 2,
        rendered_images=[str(image)] * 2,
        read_image=open_image,
        **{name: Broken() for name in names},
    )
    scores = {name: metric.score(inputs) for name, metric in METRICS.items() if "attributes" != metric.targets[0]}
    assert METRICS["fid"].of_set is not None
    assert math.isnan(METRICS["fid"].of_set(inputs))
    assert inputs.failures == dict.fromkeys(
        ("bertscore", "sentence", "clip", "dinov2", "lpips", "inception"), "RuntimeError: no projection here"
    )
    needing = ("bertscore_f1", "embedding_cosine", "clip_image_image", "clip_text_image", "dino_image_image", "lpips")
    for name in (*needing, "kid"):
        assert all(map(math.isnan, scores[name])), name
    for name in ("bleu", "psnr", "ssim", "mse"):
        assert not any(map(math.isnan, scores[name])), name
