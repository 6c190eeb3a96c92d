"""Distances of two sets of images: KID as one value per item, FID of the whole set."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_mmpc.metrics.image_sets import frechet_distance, kid_contributions
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.utils.cpu_compat import ensure_importable


class Identity(torch.nn.Module):
    """Lets torchmetrics take features instead of images."""

    num_features = 12

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def feature_sets(n: int, *, dimensions: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n, dimensions)), rng.random((n, dimensions)) ** 2 + 0.1


def torchmetrics_value(metric: Any, real: np.ndarray, generated: np.ndarray) -> float:
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    value = metric.compute()
    return (value[0] if isinstance(value, tuple) else value).item()


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
@pytest.mark.parametrize("n", [2, 7, 60, 1100])
def test_the_mean_contribution_is_torchmetrics_kid_without_an_item_and_its_own_counterpart(n: int) -> None:
    ensure_importable()
    from torchmetrics.image.kid import KernelInceptionDistance

    real, generated = feature_sets(n)
    metric = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=n)
    theirs = torchmetrics_value(metric, real, generated)
    cross = (real @ generated.T / real.shape[1] + 1) ** 3
    apart = (cross.sum() - np.trace(cross)) / (n * (n - 1))
    found = kid_contributions(real=real, generated=generated).mean()
    assert found == pytest.approx(theirs + 2 * cross.mean() - 2 * apart, abs=1e-6)


def test_two_pairs_in_one_dimension_by_hand() -> None:
    # x = 0, 1; y = 1, 2; k(a, b) = (ab + 1)^3. k(x1,x2) = 1, k(y1,y2) = 27; k(x1,y2) = 1,
    # k(x2,y1) = 8. s1 = s2 = 1 + 27 - (1 + 8) = 19
    found = kid_contributions(real=np.array([[0.0], [1.0]]), generated=np.array([[1.0], [2.0]]))
    assert found.tolist() == pytest.approx([19.0, 19.0])


def test_images_that_resemble_their_own_item_do_not_lower_the_distance_of_equal_sets() -> None:
    # Equal marginals, once with a correlation of .8 between a real image and its render.
    rng = np.random.default_rng(6)
    means = []
    for share in (0.0, 0.8):
        values = []
        for _ in range(300):
            real = rng.normal(size=(30, 4))
            generated = share * real + math.sqrt(1 - share**2) * rng.normal(size=(30, 4))
            values.append(kid_contributions(real=real, generated=generated).mean())
        means.append((np.mean(values), np.std(values) / math.sqrt(300)))
    for mean, error in means:
        assert abs(mean) < 3.5 * error


def test_contributions_spread_as_the_jackknife_says() -> None:
    real, generated = feature_sets(200, seed=3)
    contributions = kid_contributions(real=real, generated=generated)
    without = np.array(
        [
            kid_contributions(real=np.delete(real, i, axis=0), generated=np.delete(generated, i, axis=0)).mean()
            for i in range(200)
        ]
    )
    jackknife = math.sqrt(199 / 200 * ((without - without.mean()) ** 2).sum())
    assert contributions.std(ddof=1) / math.sqrt(200) == pytest.approx(jackknife, rel=0.02)


def test_kid_of_equal_distributions_is_zero_on_average() -> None:
    rng = np.random.default_rng(5)
    values = [kid_contributions(real=rng.random((20, 4)), generated=rng.random((20, 4))).mean() for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(300)
    assert min(values) < 0.0  # unbiased, so that it has to fall below 0 at times


def test_frechet_distance_by_hand() -> None:
    # {0, 2}: mean 1, variance 2; {1, 5}: mean 3, variance 8. (1 - 3)^2 + 2 + 8 - 2 sqrt(2 * 8) = 6
    assert frechet_distance(real=np.array([[0.0], [2.0]]), generated=np.array([[1.0], [5.0]])) == pytest.approx(6.0)


@pytest.mark.parametrize("n", [2, 5, 13, 200])  # fewer and more images than dimensions
def test_frechet_distance_equals_torchmetrics(n: int) -> None:
    ensure_importable()
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, generated = feature_sets(n, seed=n)
    expected = torchmetrics_value(FrechetInceptionDistance(feature=Identity()), real, generated)
    assert frechet_distance(real=real, generated=generated) == pytest.approx(expected, abs=1e-5)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_sets_may_differ_in_number() -> None:
    real, generated = feature_sets(30)
    assert frechet_distance(real=real, generated=real) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(real=real, generated=generated[:9]) > 0.0


class FakeInception:
    """Features [1, number in the name, its square]; zeros for memory images, NaN for ``broken``."""

    def __init__(self) -> None:
        self.pictures: list[Image.Image] = []

    def features(self, images: Sequence[Any]) -> np.ndarray:
        return np.array([self._one(image) for image in images], dtype=float).reshape(len(images), 3)

    def _one(self, image: Any) -> list[float]:
        if isinstance(image, Image.Image):
            self.pictures.append(image)
            return [0.0, 0.0, 0.0]
        if "broken" in image:
            return [math.nan] * 3
        number = int(image.rpartition("/")[2])
        return [1.0, number / 4, number**2 / 16]


def inputs(**changes: Any) -> MetricInputs:
    return replace(
        MetricInputs(
            task="text_to_image",
            predictions=["p"] * 7,
            references=["t"] * 7,
            real_images=["real/1", "real/2", "real/3", "real/4", None, "broken", "real/5"],
            rendered_images=["r/2", "r/2", None, "broken", "r/1", "r/1", "r/5"],
            categories=["a", "a", "b", "b", "a", "a", "c"],
            inception=FakeInception(),
        ),
        **changes,
    )


def test_kid_compares_within_categories_and_leaves_out_items_without_a_real_image() -> None:
    scores = METRICS["kid"].score(inputs())
    features = FakeInception().features
    expected = kid_contributions(real=features(["real/1", "real/2"]), generated=features(["r/2", "r/2"]))
    assert scores[:2] == pytest.approx(expected.tolist())
    # no real image, an unreadable one, alone in its category
    assert [math.isnan(score) for score in scores] == [False, False, False, False, True, True, True]


def test_a_failed_render_counts_as_a_white_image_in_kid_and_fid() -> None:
    chosen = inputs()
    scores = METRICS["kid"].score(chosen)
    real = FakeInception().features(["real/3", "real/4"])
    white = np.zeros((2, 3))
    assert scores[2:4] == pytest.approx(kid_contributions(real=real, generated=white).tolist())
    picture = chosen.inception.pictures[0]
    assert picture.convert("RGB").getextrema() == ((255, 255),) * 3
    two = replace(
        chosen,
        predictions=[None, "p"],
        references=["t"] * 2,
        real_images=["real/3", "real/4"],
        rendered_images=[None, "broken"],
        categories=["b"] * 2,
    )
    assert METRICS["fid"].of_set(two) == pytest.approx(frechet_distance(real=real, generated=white))


def test_fid_has_a_value_of_the_set_only() -> None:
    chosen = inputs()
    assert all(math.isnan(score) for score in METRICS["fid"].score(chosen))
    features = FakeInception().features
    expected = frechet_distance(
        real=features([f"real/{i}" for i in (1, 2, 3, 4, 5)]),
        generated=np.concatenate([features(["r/2", "r/2"]), np.zeros((2, 3)), features(["r/5"])]),
    )
    assert METRICS["fid"].of_set(chosen) == pytest.approx(expected)


@pytest.mark.parametrize(
    "changes",
    [{"inception": None}, {"rendered_images": ()}, {"real_images": ()}, {"real_images": ["real/1", *[None] * 6]}],
)
def test_sets_that_cannot_be_compared_are_unscored(changes: dict[str, Any]) -> None:
    assert all(math.isnan(score) for score in METRICS["kid"].score(inputs(**changes)))
    assert math.isnan(METRICS["fid"].of_set(inputs(**changes)))


def test_without_categories_all_items_are_one_set() -> None:
    scores = METRICS["kid"].score(inputs(categories=()))
    assert [math.isnan(score) for score in scores] == [False, False, False, False, True, True, False]
