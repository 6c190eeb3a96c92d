"""Verdicts of an ablation in which runs are missing: chance must not look like a finding."""

from pathlib import Path

import numpy as np
import pytest

from grpo_mmpc.ablation.comparison import compare
from grpo_mmpc.ablation.results import Cost, Results, RunResult
from grpo_mmpc.evaluation.evaluation_folder import Evaluation, TaskScores
from grpo_mmpc.reports.ablation.findings import cautions, findings
from grpo_mmpc.reports.common.findings import texts
from grpo_mmpc.statistics.crossed import pooled_variance
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, TOO_FEW_CHANGED, TOO_FEW_SEEDS, WORSE

METRICS = ("bleu", "chrf", "rouge_l", "token_f1", "jaccard", "tfidf_cosine", "bertscore_f1", "attribute_recall")
ITEMS = 40


def run_of(mix, seed, scores):
    count = len(next(iter(scores.values())))
    table = TaskScores(
        item_ids=[str(i) for i in range(count)], categories=["x"] * count, scores=scores, statistics={}, summary={}
    )
    evaluation = Evaluation(
        folder=Path(mix),
        suite="cqbench",
        version="2",
        mode="corrected",
        settings={},
        checkpoint="final",
        tasks={"image_to_text": table},
    )
    no_cost = Cost(wall_s=None, training_s=None, tokens_per_s=None, reward_s=None)
    return RunResult(mix=mix, seed=seed, folder=Path(mix), evaluation=evaluation, rewards={}, steps=[], cost=no_cost)


def results_of(pairs, *, generator, of_seeds=1.0, of_items=0.1, shift=0.0):
    """Make runs that differ by nothing but seeds and items; ``shift`` is added to mix ``b``."""
    items = {name: of_items * generator.normal(size=ITEMS) for name in METRICS}
    runs = []
    for mix, seed in pairs:
        scores = {
            name: of_seeds * generator.normal()
            + items[name]
            + of_items * generator.normal(size=ITEMS)
            + shift * (mix == "b")
            for name in METRICS
        }
        runs.append(run_of(mix, seed, scores))
    return Results(runs=runs, base={}, missing=[], data_order={})


def compared(results, *, mixes, reference="a"):
    return compare(results, mixes=mixes, reference=reference, metrics=None, resamples=200)


def verdicts(comparison):
    return {cell.verdict for row in comparison.rows for cell in row.cells if cell.mix != comparison.reference}


def grid(mixes, seeds, *, without=()):
    return [(mix, seed) for seed in seeds for mix in mixes if (mix, seed) not in without]


@pytest.mark.parametrize("without", [[("c", 2)], [("a", 1)], [("b", 1), ("b", 2)]], ids=str)
def test_a_missing_run_does_not_turn_chance_into_findings(without):
    generator, false, repeats = np.random.default_rng(7), 0, 40
    for _ in range(repeats):
        results = results_of(grid("abcdef", (0, 1, 2), without=without), generator=generator)
        comparison = compared(results, mixes=list("abcdef"))
        assert comparison.family == 5 * len(METRICS)  # nobody is left out: all mixes together tell of seeds
        false += bool(verdicts(comparison) & {BETTER, WORSE})
    assert false / repeats <= 0.125  # 5 % and two standard errors of 40 draws


def test_the_pooled_variance_of_incomplete_runs_is_that_of_the_additive_fit():
    # Both mixes at seeds 0 and 1, one of them alone at seed 2: the lone run tells nothing of
    # differences.
    values = np.array([[0.0, 1.0, 7.0], [0.0, 3.0, np.nan]])
    pooled = pooled_variance(values, num_seeds=2, of_difference=True)
    assert (pooled.variance, pooled.degrees) == (pytest.approx(2 * 1.0 / 2), 1)  # differences 0 and 2: variance 2
    single = pooled_variance(values, num_seeds=1, of_difference=True)
    assert single.variance == pytest.approx(2 * pooled.variance)


def test_one_shared_seed_is_judged_by_all_mixes_or_not_at_all():
    generator = np.random.default_rng(8)
    pairs = grid("abcd", (0, 1, 2), without=[("b", 1), ("b", 2)])
    results = results_of(pairs, generator=generator, shift=1.0)
    comparison = compared(results, mixes=list("abcd"))
    row = comparison.rows[0]
    cell = row.cells[1]
    assert cell.num_seeds == 1
    assert cell.verdict == NO_EVIDENCE  # one standard deviation of seeds: not to be distinguished by one seed
    assert cell.difference.se_seeds > 5 * cell.difference.se_items
    assert "The comparison of b rests on 1 seed" in cautions(comparison, results)[0].text
    assert "is kept at 5%" not in " ".join(texts(cautions(comparison, results)))

    few = results_of([("a", 0), ("a", 1), ("b", 0)], generator=generator, shift=9.0)
    comparison = compared(few, mixes=["a", "b"])
    assert verdicts(comparison) == {TOO_FEW_SEEDS}
    assert comparison.family == 0
    assert findings(comparison, None)[0].text.endswith("nothing could be compared with a (too few seeds).")
    assert not any("Holm" in text for text in texts(cautions(comparison, few)))

    apart = results_of([("a", 0), ("b", 1)], generator=generator)
    assert verdicts(compared(apart, mixes=["a", "b"])) == {TOO_FEW_SEEDS}


def test_complete_pairs_of_three_seeds_keep_the_promise_and_say_so():
    results = results_of(grid("abcdef", (0, 1, 2)), generator=np.random.default_rng(9))
    comparison = compared(results, mixes=list("abcdef"))
    assert verdicts(comparison) == {NO_EVIDENCE}
    assert findings(comparison, None)[0].text.endswith("no evidence that any mix differs from a.")
    assert "is kept at 5%" in " ".join(texts(cautions(comparison, results)))


def verdicts_on(differences):
    """Compare two mixes that differ by ``[N, M]`` under each of three seeds."""
    columns = dict(zip(METRICS, differences.T, strict=False))
    nothing = {name: np.zeros(len(differences)) for name in columns}
    runs = [run_of(mix, seed, columns if mix == "b" else nothing) for mix in "ab" for seed in range(3)]
    return verdicts(compared(Results(runs=runs, base={}, missing=[], data_order={}), mixes=["a", "b"]))


def test_where_few_items_changed_by_much_there_is_no_verdict():
    generator = np.random.default_rng(10)
    for _ in range(5):  # t alone has a false verdict in one of six
        changed = generator.random((360, len(METRICS))) < 0.1
        assert verdicts_on(0.1 * (generator.exponential(size=changed.shape) - 1) * changed) == {TOO_FEW_CHANGED}


def test_skewed_changes_of_all_items_are_called_different_no_oftener_than_promised():
    generator, repeats = np.random.default_rng(11), 40
    false = [verdicts_on(0.1 * (generator.exponential(size=(40, len(METRICS))) - 1)) for _ in range(repeats)]
    # 5 % and two standard errors of 40 draws; t alone has 12 %.
    assert np.mean([bool(found & {BETTER, WORSE}) for found in false]) <= 0.119


def test_a_real_difference_of_skewed_changes_is_found():
    generator = np.random.default_rng(12)
    assert verdicts_on(0.1 * generator.exponential(size=(100, 4))) == {BETTER}
    assert verdicts_on(generator.exponential(size=(600, 4)) * (generator.random((600, 4)) < 0.4)) == {BETTER}
