"""The recommenders by name, their grids and their defaults."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from grpo_mmpc.recbench.ranking import FullSort
from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
from grpo_mmpc.recbench.records import ItemFeatures
from tests.recbench.worlds import shuffled_over_items, taste_world, trained


def test_all_recommenders_of_the_benchmark_are_there():
    expected = ["vbpr", "bm3", "freedom", "mmgcn", "lightgcn", "bpr", "most_popular", "random"]
    assert list(RECOMMENDERS) == expected
    assert [spec.name for spec in RECOMMENDERS.values()] == expected


@pytest.mark.parametrize(
    ("name", "points", "holds"),
    [
        ("vbpr", 7, {}),
        ("bm3", 8, {"cl_weight": 2.0}),
        ("mmgcn", 6, {"layers": 3}),
        ("freedom", 8, {"knn": 10, "item_layers": 1, "user_item_layers": 2, "image_weight": 0.1}),
        ("most_popular", 1, {}),
    ],
)
def test_grids_have_the_published_values(name, points, holds):
    combinations = RECOMMENDERS[name].combinations()
    assert len(combinations) == points
    assert all(holds.items() <= point.items() for point in combinations)
    assert len({tuple(point.items()) for point in combinations}) == points


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_every_point_of_a_grid_is_one_that_the_recommender_takes(name):
    split, features = taste_world(2, num_users=8, num_items=40)
    spec = RECOMMENDERS[name]
    assert {*spec.grid} <= {*spec.defaults}
    for point in spec.combinations():
        spec.build(split, features, generator=torch.Generator(), device="cpu", embedding_dim=4, **point)


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_every_recommender_is_trained_and_ranks_the_same_twice(name):
    split, features = taste_world(2, num_users=40, num_items=120)
    spec, ranks = RECOMMENDERS[name], []
    for told in (features, features, shuffled_over_items(features, seed=1)):
        generator = torch.Generator().manual_seed(0)
        model = spec.build(split, told, generator=generator, device="cpu", **spec.defaults)
        fitted = trained(model, split, max_epochs=3)
        full_sort = FullSort(targets=split.test, seen=[split.train], num_users=40, num_items=120, seed=0, max_rank=120)
        ranks.append(full_sort.ranks(fitted.embeddings).tolist())
        assert (fitted.epochs > 0) == spec.is_trained
    assert ranks[0] == ranks[1]
    assert (ranks[0] != ranks[2]) == spec.uses_features


@pytest.mark.parametrize("name", [name for name, spec in RECOMMENDERS.items() if spec.without_features])
def test_a_recommender_that_is_another_one_without_features_has_its_grid_and_learns_the_same_bits(name):
    split, _ = taste_world(2, num_users=40, num_items=120)
    alone, other = RECOMMENDERS[name], RECOMMENDERS[RECOMMENDERS[name].without_features]
    assert (alone.grid, alone.defaults) == (other.grid, other.defaults)
    found = []
    for spec in (alone, other):
        generator = torch.Generator().manual_seed(0)
        model = spec.build(split, ItemFeatures(), generator=generator, device="cpu", **spec.defaults)
        found.append(trained(model, split, max_epochs=3).embeddings)
    assert found[0].users.equal(found[1].users) and found[0].items.equal(found[1].items)


def test_names_and_grids_are_read_without_importing_pytorch():
    code = "import sys; import grpo_mmpc.recbench.recommenders.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert find_spec("torch") is not None
