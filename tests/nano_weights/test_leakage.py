"""Nothing about the default catalogue may leak into an embedded model."""

from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.nano.items import DEFAULT_NUM_ITEMS, DEFAULT_SEED, NanoItem, sample_items, signature
from nano_weights import build, clip, pretrain, training
from nano_weights.pool import POOL_SIZE, pretraining_items, unseen_items


@pytest.fixture(scope="module")
def catalogue() -> list[NanoItem]:
    return sample_items(num_items=DEFAULT_NUM_ITEMS, seed=DEFAULT_SEED)


@pytest.fixture(scope="module")
def pool() -> list[NanoItem]:
    return pretraining_items(num_items=build.POOL_SIZE, seed=0)


def test_no_attribute_combination_of_the_default_catalogue_is_in_the_pool(
    catalogue: list[NanoItem], pool: list[NanoItem]
) -> None:
    known = {signature(item) for item in catalogue}
    assert len(known) == DEFAULT_NUM_ITEMS
    assert known.isdisjoint(signature(item) for item in pool)


def test_no_title_of_the_default_catalogue_is_in_the_pool(catalogue: list[NanoItem], pool: list[NanoItem]) -> None:
    assert {item.title for item in catalogue}.isdisjoint(item.title for item in pool)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "clip"])
def test_every_build_draws_reads_and_trains_on_items_of_the_pool_only(
    name: str, catalogue: list[NanoItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions of the build that take items are watched until the weights are saved."""
    used: list[NanoItem] = []

    def watch(module: Any, function: str, *, position: int) -> None:
        original = getattr(module, function)

        def watched(*args: Any, **kwargs: Any) -> Any:
            used.extend(args[position])
            return original(*args, **kwargs)

        monkeypatch.setattr(module, function, watched)

    class SavedError(Exception):
        """Ends the build once training is over."""

    def stop(*args: Any, **kwargs: Any) -> None:
        raise SavedError

    watch(training, "draw_images", position=0)
    watch(build, "corpus", position=0)
    watch(clip, "train_clip", position=3)
    watch(pretrain, "train_vision", position=3)
    watch(pretrain, "train_language", position=3)
    monkeypatch.setattr("nano_weights.policy.save_policy", stop)
    monkeypatch.setattr(clip, "save_clip", stop)
    with pytest.raises(SavedError):
        build.build(name, tmp_path / name, seed=0, smoke=True)
    known = {signature(item) for item in catalogue}
    assert len(used) >= 3 * 256  # the corpus, the pictures and at least one training, 256 items each
    assert known.isdisjoint(signature(item) for item in used)


def test_quality_is_measured_outside_both_the_pool_and_the_default_catalogue(catalogue: list[NanoItem]) -> None:
    """Settings are chosen by the quality table: the default catalogue stays out of it."""
    measured = {signature(item) for item in unseen_items(num_items=360)}
    pool = {signature(item) for item in pretraining_items(num_items=POOL_SIZE, seed=0)}
    assert len(measured) == 360
    assert measured.isdisjoint(pool | {signature(item) for item in catalogue})
