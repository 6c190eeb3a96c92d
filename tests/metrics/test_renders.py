"""Image metrics of the table on real files: failures, odd formats, every file opened once."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.metrics.image import OpenedImage, letterbox, mse, psnr, ssim
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.table import METRICS

WORST = {
    "psnr": 0.0,
    "ssim": 0.0,
    "mse": 1.0,
    "lpips": 1.0,
    "clip_image_image": -1.0,
    "clip_text_image": -1.0,
    "dino_image_image": -1.0,
}


class FakeEncoder:
    """CLIP, DINOv2, LPIPS and Inception in one; counts how many images reach it at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def image_image(self, *, image_paths: Sequence[Any], other_paths: Sequence[Any]) -> list[float]:
        assert all(isinstance(source, OpenedImage) for source in [*image_paths, *other_paths])
        self.sizes.append(2 * len(image_paths))
        return [0.5] * len(image_paths)

    def image_text(self, *, image_paths: Sequence[Any], texts: Sequence[str]) -> list[float]:
        return [len(text) / 100 for text in texts]

    def distances(self, *, predictions: np.ndarray, references: np.ndarray) -> list[float]:
        self.sizes.append(len(predictions))
        return [float(abs(p.astype(float) - r).mean()) for p, r in zip(predictions, references, strict=True)]

    def features(self, images: Sequence[Any]) -> np.ndarray:
        self.sizes.append(len(images))
        return np.zeros((len(images), 4))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """One file of every kind that a catalogue or a renderer may hold."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    gradient = np.linspace(0, 65535, 50 * 50).reshape(50, 50).astype(np.uint16)
    translucent = noise.convert("RGBA")
    translucent.putalpha(128)
    pictures = {
        "photo.jpg": noise,
        "smallest.png": Image.new("RGB", (4, 4), "red"),
        "strip.png": noise.resize((1000, 10)),
        "rgba.png": translucent,
        "palette.png": noise.convert("P", palette=Image.Palette.ADAPTIVE),
        "grey.png": noise.convert("L"),
        "deep.png": Image.fromarray(gradient),
        "picture.webp": noise,
        "white.png": Image.new("RGB", (64, 64), "white"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    noise.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", noise.size, "blue")])
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:400])
    return {path.name: str(path) for path in tmp_path.iterdir()}


def inputs(renders: Sequence[str | None], reals: Sequence[str | None], **changes: Any) -> MetricInputs:
    encoder = FakeEncoder()
    made = MetricInputs(
        task="text_to_image",
        predictions=["p"] * len(renders),
        references=["Red Bag"] * len(renders),
        rendered_images=renders,
        real_images=reals,
        clip=encoder,
        dino=encoder,
        lpips=encoder,
        inception=encoder,
        read_image=open_image,
    )
    return replace(made, **changes)


def test_any_file_equals_itself_and_scores_within_range_against_any_other(files: dict[str, str]) -> None:
    names = [path for name, path in files.items() if name != "truncated.jpg"]
    itself = inputs(names, names)
    assert METRICS["mse"].score(itself) == [0.0] * len(names)
    assert METRICS["psnr"].score(itself) == [100.0] * len(names)
    assert METRICS["ssim"].score(itself) == pytest.approx([1.0] * len(names))
    others = inputs(names, [*names[1:], names[0]])
    for name in ("psnr", "ssim", "mse", "lpips"):
        low, high = sorted([METRICS[name].worst, METRICS[name].best])
        assert all(low <= score <= high for score in METRICS[name].score(others)), name


def test_scores_are_those_of_the_letterboxed_pixels(files: dict[str, str]) -> None:
    pair = inputs([files["strip.png"]], [files["photo.jpg"]])
    prediction, reference = (np.asarray(letterbox(open_image(files[name]))) for name in ("strip.png", "photo.jpg"))
    error = mse(predictions=prediction[None], references=reference[None])[0]
    assert METRICS["mse"].score(pair) == [error]
    assert METRICS["psnr"].score(pair) == [psnr(error)]
    assert METRICS["ssim"].score(pair) == [max(0.0, ssim(prediction=prediction, reference=reference))]


def test_failed_renders_score_worst_and_items_without_truth_are_unscored(files: dict[str, str]) -> None:
    good, broken = files["photo.jpg"], files["truncated.jpg"]
    #          fine   nothing  damaged  absent        truth: unknown  damaged  absent       unknown,
    # and no render
    renders = [good, None, broken, good + ".none", good, good, good, None]
    reals = [good, good, good, good, None, broken, good + ".none", None]
    chosen = inputs(renders, reals)
    for name, worst in WORST.items():
        scores = METRICS[name].score(chosen)
        assert METRICS[name].worst == worst
        assert scores[1:4] == [worst] * 3, name
        assert scores[0] != worst
        if name != "clip_text_image":
            assert all(math.isnan(score) for score in scores[4:]), name
    # the title is the truth there: 7 characters
    assert METRICS["clip_text_image"].score(chosen) == [0.07, -1.0, -1.0, -1.0, 0.07, 0.07, 0.07, -1.0]
    untitled = replace(chosen, references=[" ", None, *["Bag"] * 6])
    assert [math.isnan(score) for score in METRICS["clip_text_image"].score(untitled)] == [True] * 2 + [False] * 6


def test_a_damaged_truth_is_unscored_whether_or_not_the_render_failed(files: dict[str, str]) -> None:
    # otherwise a policy that fails there would be compared on more items than one that does not
    chosen = inputs([None, files["photo.jpg"]], [files["truncated.jpg"]] * 2)
    assert all(math.isnan(score) for score in METRICS["ssim"].score(chosen))


def test_lpips_is_cut_at_its_worst_value(files: dict[str, str]) -> None:
    # the fake's distance is the mean difference in levels, far above 1
    assert METRICS["lpips"].score(inputs([files["white.png"]], [files["photo.jpg"]])) == [1.0]


def test_missing_encoders_leave_only_their_metrics_unscored(files: dict[str, str]) -> None:
    chosen = inputs([files["photo.jpg"]], [files["grey.png"]], clip=None, dino=None, lpips=None, inception=None)
    for name in ("lpips", "clip_image_image", "clip_text_image", "dino_image_image", "kid"):
        assert math.isnan(METRICS[name].score(chosen)[0]), name
    assert METRICS["psnr"].score(chosen)[0] > 0.0


def test_every_file_is_opened_once_for_all_metrics(files: dict[str, str]) -> None:
    opened: Counter[str] = Counter()

    def read(path: str) -> Image.Image:
        opened[path] += 1
        return open_image(path)

    chosen = inputs([files["photo.jpg"], files["grey.png"]], [files["rgba.png"], files["deep.png"]], read_image=read)
    for metric in METRICS.values():
        if "image" in metric.targets:
            metric.score(chosen)
    assert opened == {files[name]: 1 for name in ("photo.jpg", "grey.png", "rgba.png", "deep.png")}


def test_few_images_are_held_at_a_time_whatever_the_number_of_items(files: dict[str, str]) -> None:
    held: list[int] = []
    alive: dict[int, Any] = {}

    def read(path: str) -> Image.Image:
        import weakref

        image = open_image(path)
        alive[id(image)] = weakref.finalize(image, alive.pop, id(image))
        held.append(len(alive))
        return image

    chosen = inputs([files["white.png"]] * 100, [files["grey.png"]] * 100, read_image=read)
    assert len(METRICS["ssim"].score(chosen)) == 100
    assert max(held) <= 64  # two rounds of 16 pairs
    assert max(chosen.clip.sizes) <= 32


def test_scores_follow_their_items(files: dict[str, str]) -> None:
    names = [path for name, path in sorted(files.items()) if name != "truncated.jpg"] * 4  # more than one round
    reals = [*names[3:], *names[:3]]
    order = np.random.default_rng(1).permutation(len(names))
    for name in ("psnr", "ssim", "mse"):
        straight = METRICS[name].score(inputs(names, reals))
        shuffled = METRICS[name].score(inputs([names[i] for i in order], [reals[i] for i in order]))
        assert shuffled == [straight[i] for i in order]


def test_a_changed_copy_of_the_inputs_is_scored_anew(files: dict[str, str]) -> None:
    first = inputs([files["photo.jpg"]], [files["photo.jpg"]])
    assert METRICS["mse"].score(first) == [0.0]
    assert METRICS["mse"].score(replace(first, rendered_images=[files["white.png"]]))[0] > 0.0
