"""What each fill makes of missing rows, worked out by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench import fills
from grpo_mmpc.recbench.fills import FILLS, FillInputs, MaskedFeatures, fill, mask_features
from grpo_mmpc.recbench.propagation import propagate
from grpo_mmpc.recbench.records import Pairs

NOTHING = [np.nan, np.nan]


def masked(rows: list[Any]) -> MaskedFeatures:
    """Rows of NaN are missing."""
    values = np.array(rows, dtype=np.float32)
    return mask_features(values, missing=np.isnan(values).all(axis=1))


def pairs(*taken: tuple[int, int]) -> Pairs:
    array = np.array(sorted(taken), dtype=np.int64).reshape(-1, 2)
    return Pairs(users=array[:, 0], items=array[:, 1])


def test_zeros_know_nothing() -> None:
    filled = fill("zeros", masked([[1, 2], NOTHING, NOTHING]), FillInputs())
    assert filled.values.tolist() == [[1, 2], [0, 0], [0, 0]]
    assert (filled.covered, filled.reasons) == (0, {"left empty": 2})


def test_the_mean_is_of_all_observed_items() -> None:
    filled = fill("mean", masked([[1, 2], NOTHING, [3, 6], [5, 1]]), FillInputs())
    assert filled.values.tolist() == [[1, 2], [3, 3], [3, 6], [5, 1]]  # (1 + 3 + 5) / 3, (2 + 6 + 1) / 3
    assert (filled.covered, filled.reasons) == (1, {})


def test_the_category_mean_is_of_the_observed_items_of_the_category() -> None:
    rows = [[1, 2], NOTHING, [3, 6], [5, 1], NOTHING, NOTHING, NOTHING, NOTHING]
    groups = ["bags", "bags", "bags", "toys", "toys", "hats", None, ""]
    filled = fill("category_mean", masked(rows), FillInputs(groups=groups))
    assert filled.values[[1, 4]].tolist() == [[2, 4], [5, 1]]
    assert not filled.values[5:].any()
    assert filled.covered == 2
    assert filled.reasons == {"the item has no category": 2, "no item of the category is observed": 1}


def test_the_paper_s_random_fill_is_standard_normal_whatever_the_scale_of_the_features() -> None:
    rows = np.full((4000, 8), 0.01, dtype=np.float32)
    missing = np.arange(4000) % 4 > 0
    filled = fill("random_paper", mask_features(rows, missing=missing), FillInputs(seed=1))
    drawn = filled.values[missing]  # 24,000 numbers: the mean's standard error is 0.0065
    assert abs(drawn.mean()) < 0.03
    assert drawn.std() == pytest.approx(1.0, abs=0.03)


def test_the_matched_random_fill_has_the_observed_mean_and_deviation_in_each_dimension() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(6000, 3)) * [0.1, 2.0, 0.0] + [5.0, 0.0, 1.0]).astype(np.float32)
    missing = np.arange(6000) >= 2000
    filled = fill("random_matched", mask_features(rows, missing=missing), FillInputs(seed=1))
    drawn, observed = filled.values[missing], rows[~missing]
    np.testing.assert_allclose(drawn.mean(axis=0), observed.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(drawn.std(axis=0), observed.std(axis=0), rtol=0.05, atol=1e-6)
    assert (drawn[:, 2] == 1.0).all()


@pytest.mark.parametrize("name", ["random_paper", "random_matched"])
def test_random_fills_follow_the_seed_and_an_item_keeps_its_draw_when_more_are_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fills, "_ROWS_PER_DRAW", 3)
    rows = np.tile(np.float32([1.0, -1.0]), (10, 1))  # both rates observe the same moments: 1, -1 and no deviation
    rows[0], rows[1] = [3.0, 1.0], [-1.0, -3.0]
    few, many = np.arange(10) >= 8, np.arange(10) >= 5

    def draw(missing: np.ndarray, seed: int) -> np.ndarray:
        return fill("random_paper", mask_features(rows, missing=missing), FillInputs(seed=seed)).values

    assert (draw(few, 0)[8:] == draw(many, 0)[8:]).all()
    once = fill(name, mask_features(rows, missing=many), FillInputs(seed=0)).values
    assert (once == fill(name, mask_features(rows, missing=many), FillInputs(seed=0)).values).all()
    assert (once[many] != fill(name, mask_features(rows, missing=many), FillInputs(seed=1)).values[many]).all()


def test_the_nearest_items_by_the_other_modality_give_their_mean() -> None:
    text = masked([[1, 0], [3, 0], [0, 8], NOTHING])
    # Cosines with (1, 0): 1, 0.8, 0. The length does not count: (40, 30) is not nearer than (2, 0).
    image = masked([[2, 0, 0], [40, 30, 0], [0, 1, 0], [1, 0, 0]])
    one = fill("nearest_neighbour", text, FillInputs(other=image, num_neighbours=1))
    two = fill("nearest_neighbour", text, FillInputs(other=image, num_neighbours=2))
    more = fill("nearest_neighbour", text, FillInputs(other=image))  # ten, of which there are three
    assert [filled.values[3].tolist() for filled in (one, two)] == [[1, 0], [2, 0]]
    np.testing.assert_allclose(more.values[3], [4 / 3, 8 / 3], rtol=1e-6)
    assert more.covered == 1


def test_items_without_both_modalities_are_no_neighbours_and_zero_rows_are_none() -> None:
    text = masked([[5, 5], [7, 7], [0, 0], [1, 2], NOTHING, NOTHING, NOTHING])
    image = masked([NOTHING, [0, 0], [1, 0], [0, 1], [1, 0], NOTHING, [0, 0]])
    filled = fill("nearest_neighbour", text, FillInputs(other=image, num_neighbours=1))
    # Item 4 looks exactly like item 2, whose text is empty; 0 has no image and 1 an empty one: 3 is
    # left.
    assert filled.values[4:].tolist() == [[1, 2], [0, 0], [0, 0]]
    assert filled.reasons == {"the other modality is missing too": 1, "the other modality is a zero vector": 1}


@pytest.mark.filterwarnings("ignore:Could not adhere to working_memory")
def test_neighbours_do_not_depend_on_the_blocks_they_are_looked_for_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    text, image = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(40, 7)).astype(np.float32)
    missing = rng.random(40) < 0.5
    inputs = FillInputs(other=mask_features(image, missing=np.zeros(40, bool)), num_neighbours=3)
    whole = fill("nearest_neighbour", mask_features(text, missing=missing), inputs)
    monkeypatch.setattr(fills, "WORKING_MEMORY_MB", 1e-4)
    one_by_one = fill("nearest_neighbour", mask_features(text, missing=missing), inputs)
    unit = image / np.linalg.norm(image, axis=1, keepdims=True)
    for i in np.flatnonzero(missing):
        nearest = sorted(np.flatnonzero(~missing), key=lambda j: -float(unit[i] @ unit[j]))[:3]
        np.testing.assert_allclose(whole.values[i], text[nearest].mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.values, one_by_one.values, rtol=1e-5, atol=1e-6)


def test_features_spread_over_items_that_share_training_users() -> None:
    # User 0 took items 0 and 1, user 1 took 1 and 2: a chain 0 - 1 - 2 of degrees 1, 2, 1; item 3
    # is alone.
    train = pairs((0, 0), (0, 1), (1, 1), (1, 2), (2, 3))
    filled = fill("feature_propagation", masked([[4, 0], NOTHING, [0, 2], NOTHING]), FillInputs(train=train))
    # Item 1 hears 1 / sqrt(1 * 2) of both ends: (4 + 0) / sqrt 2 and (0 + 2) / sqrt 2.
    np.testing.assert_allclose(filled.values[1], [4 / 2**0.5, 2 / 2**0.5], rtol=1e-5)
    assert (filled.covered, filled.reasons) == (1, {"no observed item is linked to it by training users": 1})
    # Both ends missing: each is the middle's (1, 1) / sqrt 2.
    ends = fill("feature_propagation", masked([NOTHING, [1, 1], NOTHING, NOTHING]), FillInputs(train=train))
    np.testing.assert_allclose(ends.values[[0, 2]], np.full((2, 2), 0.5**0.5), rtol=1e-5)


def test_propagation_is_the_published_iteration_on_the_graph_of_shared_users() -> None:
    rng = np.random.default_rng(3)
    interactions = rng.random((30, 20)) < 0.15
    values = rng.normal(size=(20, 40)).astype(np.float32)
    missing = rng.random(20) < 0.7
    graph = interactions.T.astype(float) @ interactions
    np.fill_diagonal(graph, 0.0)
    scale = 1 / np.sqrt(graph.sum(axis=1))
    graph = scale[:, None] * graph * scale
    expected = np.where(missing[:, None], 0.0, values)
    for _ in range(40):
        expected = np.where(missing[:, None], graph @ expected, values)
    found = propagate(values, missing=missing, train=pairs(*np.argwhere(interactions).tolist()))
    assert found.is_reached.all()
    np.testing.assert_allclose(found.vectors, expected[missing], rtol=1e-3, atol=1e-4)


def test_every_item_within_forty_steps_of_an_observed_one_hears_of_it() -> None:
    chain = pairs(*((user, item) for user in range(49) for item in (user, user + 1)))
    values = np.ones((50, 1), dtype=np.float32)
    found = propagate(values, missing=np.arange(50) > 0, train=chain)
    assert (
        np.flatnonzero(found.vectors[:, 0] > 0).tolist() == np.flatnonzero(found.is_reached).tolist() == list(range(40))
    )


def test_propagation_does_not_read_missing_rows_and_needs_no_interactions() -> None:
    filled = fill("feature_propagation", masked([[1, 1], NOTHING]), FillInputs(train=pairs()))
    assert filled.values.tolist() == [[1, 1], [0, 0]]
    assert filled.covered == 0


def test_completions_replace_missing_rows_only_and_say_why_some_do_not() -> None:
    completed = np.float32([[9, 9], [1, 2], NOTHING, NOTHING, [0, 0]])
    lacking = [None, None, "the title is empty", None, None]
    features = masked([[5, 6], *[NOTHING] * 4])
    filled = fill("completed", features, FillInputs(completed=completed, lacking=lacking))
    assert filled.values.tolist() == [[5, 6], [1, 2], [0, 0], [0, 0], [0, 0]]
    assert filled.covered == 1
    assert filled.reasons == {
        "the title is empty": 1,
        "its completion has no vector": 1,
        "its completion is a zero vector": 1,
    }
    unexplained = fill("completed", features, FillInputs(completed=completed))
    assert unexplained.reasons == {"no completion": 2, "its completion is a zero vector": 1}


def test_with_nothing_observed_only_draws_and_completions_have_an_answer() -> None:
    everything = masked([NOTHING, NOTHING])
    inputs = FillInputs(
        groups=["a", "b"],
        other=masked([[1, 0], [0, 1]]),
        train=pairs((0, 0), (0, 1)),
        completed=np.ones((2, 2), np.float32),
    )
    covered = {name: fill(name, everything, inputs).covered for name in FILLS}
    assert covered == dict.fromkeys(FILLS, 0) | {"random_paper": 2, "completed": 2}


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        (
            "completed",
            FillInputs(completed=np.float32([[1, 1], [np.nan, 1]])),
            "vectors of 1 items are not finite: item 1;",
        ),
        (
            "completed",
            FillInputs(completed=np.float32([[1, 1], [np.inf, 1]])),
            "vectors of 1 items are not finite: item 1;",
        ),
    ],
)
def test_vectors_that_are_not_finite_are_named(name: str, inputs: FillInputs, message: str) -> None:
    with pytest.raises(RecBenchError, match=message):
        fill(name, masked([[1, 1], NOTHING]), inputs)


def test_observed_items_without_features_are_an_error_that_names_them() -> None:
    values = np.float32([[1, 1], [np.nan, 1], NOTHING])
    with pytest.raises(RecBenchError, match="2 items count as observed but their features are not finite: b, c;"):
        mask_features(values, missing=np.zeros(3, bool), item_ids=["a", "b", "c"])


NUMBERS = st.floats(-1000, 1000, width=32)


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, FillInputs]:
    """Features, missing flags and everything that fills may go by, of up to nine items."""
    size = draw(st.integers(1, 9))
    matrix = arrays.arrays(np.float32, (size, 3), elements=NUMBERS)
    flags = arrays.arrays(np.bool_, size)
    interactions = draw(arrays.arrays(np.bool_, (4, size)))
    completed = draw(matrix)
    completed[draw(flags)] = np.nan
    inputs = FillInputs(
        seed=draw(st.integers(0, 3)),
        groups=draw(st.lists(st.sampled_from(["a", "b", None]), min_size=size, max_size=size)),
        other=mask_features(draw(matrix), missing=draw(flags)),
        num_neighbours=draw(st.integers(1, 4)),
        train=pairs(*np.argwhere(interactions).tolist()),
        completed=completed,
    )
    return draw(matrix), draw(flags), inputs


@pytest.mark.parametrize("name", FILLS)
@given(catalogue=catalogues(), other_truth=NUMBERS)
@settings(max_examples=60, deadline=None)
def test_every_fill_keeps_observed_rows_is_finite_and_cannot_see_the_truth(
    name: str, catalogue: tuple[np.ndarray, np.ndarray, FillInputs], other_truth: float
) -> None:
    values, missing, inputs = catalogue
    features = mask_features(values, missing=missing)
    filled = fill(name, features, inputs)
    assert filled.values[~missing].tobytes() == values[~missing].tobytes()
    assert np.isfinite(filled.values).all()
    assert filled.covered + sum(filled.reasons.values()) == missing.sum()
    changed = np.where(missing[:, None], np.float32(other_truth), values)
    again = fill(name, mask_features(changed, missing=missing), inputs)
    assert again.values.tobytes() == filled.values.tobytes()
    assert features.values is not filled.values and np.isnan(features.values[missing]).all()
