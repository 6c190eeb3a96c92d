"""Which items are missing: the same everywhere, nested over rates, as many as asked for."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.masks import Missingness, missing_items, paper_missing_items

ITEMS = [f"B{n:05d}" for n in range(2000)]


def at(rate: float, *, salt: str = "s", clustered_by=None, modality="text") -> Missingness:
    return Missingness(rate=rate, modality=modality, clustered_by=clustered_by, salt=salt)


def missing(rate: float, items=ITEMS, **kwargs) -> np.ndarray:
    return missing_items(items, missingness=at(rate, **kwargs), groups=None)


@given(rates=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_an_item_missing_at_one_rate_is_missing_at_every_higher_one(rates):
    low, high = sorted(rates)
    assert not (missing(low, ITEMS[:200]) & ~missing(high, ITEMS[:200])).any()


def test_at_rate_one_everything_is_missing_and_at_zero_nothing():
    assert missing(1.0).all()
    assert not missing(0.0).any()


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_the_realised_share_is_close_to_the_rate(rate):
    shares = [missing(rate, salt=f"s{n}").mean() for n in range(20)]
    # standard deviation of a share of 2,000 items: at most sqrt(0.25 / 2000) = 0.011
    assert max(abs(share - rate) for share in shares) < 4 * 0.0112
    assert abs(np.mean(shares) - rate) < 4 * 0.0112 / np.sqrt(20)


def test_an_item_s_fate_depends_on_nothing_but_its_identifier_and_the_salt():
    whole = dict(zip(ITEMS, missing(0.5), strict=True))
    part = ITEMS[::-3]
    assert missing(0.5, part).tolist() == [whole[item] for item in part]
    for modality in ("text", "image", "both"):
        assert (missing(0.5, modality=modality) == missing(0.5)).all()
    # two independent halves agree on half of the items
    assert 0.45 < (missing(0.5, salt="other") == missing(0.5)).mean() < 0.55


def in_another_process(call: str, *, hash_seed: str) -> list[bool]:
    code = (
        "import json; from grpo_mmpc.recbench.masks import *; "
        f"items = [f'B{{n:05d}}' for n in range(2000)]; print(json.dumps({call}.tolist()))"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_mask_is_the_same_in_every_process():
    missingness = "Missingness(rate=0.3, modality='text', clustered_by=None, salt='s')"
    call = f"missing_items(items, missingness={missingness}, groups=None)"
    assert in_another_process(call, hash_seed="1") == missing(0.3).tolist()
    assert in_another_process(call, hash_seed="2") == missing(0.3).tolist()


def test_the_mask_of_the_paper_differs_between_processes_with_the_same_seed():
    """Flaw of the protocol, kept behind paper mode: the sample is drawn from an unordered set."""
    call = "paper_missing_items(items, rate=0.3, seed=999)"
    first, second = (in_another_process(call, hash_seed=seed) for seed in ("1", "2"))
    assert first != second
    assert sum(first) == sum(second) == 600  # exactly int(0.3 * 2000)


def test_the_mask_of_the_paper_has_the_exact_size():
    assert paper_missing_items(ITEMS, rate=0.5, seed=0).sum() == 1000
    assert paper_missing_items(ITEMS, rate=1.0, seed=0).all()


def test_items_of_a_brand_go_missing_together_and_items_without_one_alone():
    brands = [f"brand-{n % 50}" if n < 1500 else None for n in range(2000)]
    found = missing_items(ITEMS, missingness=at(0.5, clustered_by="brand"), groups=brands)
    fates = {brand: set(found[[b == brand for b in brands]].tolist()) for brand in set(brands)}
    assert all(len(fate) == 1 for brand, fate in fates.items() if brand is not None)
    assert {next(iter(fate)) for brand, fate in fates.items() if brand is not None} == {True, False}
    assert (found[1500:] == missing(0.5)[1500:]).all()


def test_clusters_are_nested_too():
    groups = [f"brand-{n % 50}" for n in range(2000)]
    low, high = (missing_items(ITEMS, missingness=at(r, clustered_by="brand"), groups=groups) for r in (0.3, 0.6))
    assert not (low & ~high).any()
    assert low.sum() < high.sum()


@pytest.mark.parametrize("rate", [-0.1, 1.1, 50, float("nan")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(RecBenchError, match="expected a share of the items between 0 and 1"):
        at(rate)
