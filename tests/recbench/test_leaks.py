"""No true vector of a missing item reaches a recommender."""

import numpy as np
import pytest

from grpo_mmpc.errors import RecBenchError
from grpo_mmpc.recbench.fills import Filled, FillInputs, fill, mask_features
from grpo_mmpc.recbench.leaks import check_no_truth, observed_twins

TRUTH = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
MISSING = np.arange(10) >= 4
IDS = tuple(f"id-{i}" for i in range(10))


def filled_with(values: np.ndarray, fill: str = "completed") -> Filled:
    return Filled(values=values, missing=MISSING, fill=fill, covered=2, reasons={"no completion": 4}, item_ids=IDS)


def test_a_copy_of_the_truth_overwritten_only_where_a_completion_exists_is_caught() -> None:
    """MMPCBench: with its default limit of completions, most missing items keep the truth."""
    official = TRUTH.copy()
    official[[4, 5]] = 0.5  # the two items that were completed
    with pytest.raises(
        RecBenchError, match=r"completed: 4 of 6 missing items still have their true vector: id-6, id-7, id-8, id-9;"
    ):
        check_no_truth(filled_with(official), truth=TRUTH)


def test_the_same_completions_pass_through_our_fill() -> None:
    completed = np.full_like(TRUTH, np.nan)
    completed[[4, 5]] = 0.5
    ours = fill("completed", mask_features(TRUTH, missing=MISSING), FillInputs(completed=completed))
    check_no_truth(ours, truth=TRUTH)


@pytest.mark.parametrize("row", [4, 9])
def test_a_single_leaked_row_is_caught_even_when_rounding_touched_it(row: int) -> None:
    values = np.where(MISSING[:, None], 0.0, TRUTH).astype(np.float32)
    values[row] = TRUTH[row] * np.float32(1 + 3e-7)
    with pytest.raises(RecBenchError, match=rf"1 of 6 .* id-{row};"):
        check_no_truth(filled_with(values), truth=TRUTH)
    values[row] = TRUTH[row] * np.float32(1 + 1e-4)
    check_no_truth(filled_with(values), truth=TRUTH)


def test_long_lists_of_items_are_cut() -> None:
    with pytest.raises(RecBenchError, match=r"6 of 6 .* id-4, id-5, id-6, id-7, id-8 and 1 more;"):
        check_no_truth(filled_with(TRUTH.copy()), truth=TRUTH)


def test_items_with_a_completion_of_their_own_may_have_the_true_vector_and_no_others() -> None:
    values = np.where(MISSING[:, None], 0.0, TRUTH).astype(np.float32)
    values[4] = TRUTH[4]
    check_no_truth(filled_with(values), truth=TRUTH, allowed=np.arange(10) == 4)
    with pytest.raises(RecBenchError, match="id-4"):
        check_no_truth(filled_with(values), truth=TRUTH, allowed=np.arange(10) == 5)


def test_the_vector_of_an_observed_twin_is_no_secret() -> None:
    truth = TRUTH.copy()
    truth[4], truth[6] = truth[1], truth[5]  # 4 looks like the observed 1, 6 only like the missing 5
    assert observed_twins(truth, missing=MISSING, asked=np.array([4, 6])).tolist() == [True, False]
    values = np.where(MISSING[:, None], 0.0, truth).astype(np.float32)
    values[4] = truth[4]
    check_no_truth(filled_with(values), truth=truth)
    values[6] = truth[6]
    with pytest.raises(RecBenchError, match="id-6"):
        check_no_truth(filled_with(values), truth=truth)


def test_twins_are_those_that_a_comparison_of_all_pairs_finds() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(12, 5)).astype(np.float32)[rng.integers(0, 12, size=60)]
    truth[::7] *= np.float32(1 + 2e-7)
    truth[3], truth[4] = 0.0, np.nan
    missing = rng.random(60) < 0.6
    pairs = np.linalg.norm(truth[:, None] - truth[None], axis=2) <= 1e-6 * np.linalg.norm(truth, axis=1)[:, None]
    has_content = np.nan_to_num(np.linalg.norm(truth, axis=1)) > 0
    asked = np.flatnonzero(missing & has_content)
    expected = (pairs & ~missing[None]).any(axis=1)[asked]
    assert 0 < expected.sum() < len(asked)
    assert (observed_twins(truth, missing=missing, asked=asked) == expected).all()


def test_zero_vectors_and_items_without_a_truth_are_no_leak() -> None:
    truth = TRUTH.copy()
    truth[4], truth[5] = 0.0, np.nan
    values = np.where(MISSING[:, None], 0.0, TRUTH).astype(np.float32)
    check_no_truth(filled_with(values), truth=truth)
