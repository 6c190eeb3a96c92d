"""How often intervals hold the truth, and how often a verdict is false, in simulated comparisons.

    python benchmarks/coverage.py            # 1,500 families of 12 metrics each; about ten minutes
    python benchmarks/coverage.py --quick    # 150 families; within a minute

Every data set has a true difference of 0 and goes through the code of ``grpo-mmpc compare``. Kinds:
``clusters`` are normal differences of 5 variants of each product, intra-class correlation 0.3;
``skewed`` are exponential; of ``zero_inflated`` ones 90 % are exactly 0, of ``partly_changed`` ones
70 %, and the rest is exponential; ``binary`` ones are -1 or 1 in 4 % of items and 0 elsewhere.
``coverage_KIND_N`` is the share of 95 % intervals that hold 0 among the data sets that are judged,
``judged_KIND_N`` the share of data sets that are (the others are "too few changed"), and
``false_verdict_KIND_N`` the share of
families of 12 unrelated metrics with any "better" or "worse", corrected by Holm's method.

``coverage_crossed_N`` are ablations, one a family: two of four mixes, three seeds, items in such
clusters, where seeds, clusters and answers add to the difference.

``false_verdict_ablation_KIND_N`` and ``false_verdict_recbench_KIND_N`` are families of 12 metrics
as above under three seeds that add nothing, through the code of ``grpo-mmpc ablate`` (two mixes)
and of ``grpo-mmpc recbench`` (two fills, N users); at most 100 families, at most 999 resamples.

Checks: coverage within 95 +- 2 % wherever more than 5 % of the data sets are judged, and false
verdicts in at most 6 % of the families; with ``--quick``, and of ablations and RecBench, give or
take two standard errors.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grpo_mmpc.ablation.comparison import compare
from grpo_mmpc.ablation.results import Cost, Results, RunResult
from grpo_mmpc.evaluation.evaluation_folder import Evaluation, TaskScores
from grpo_mmpc.evaluation.measures import Measure
from grpo_mmpc.evaluation.resampling import Difference, Resampling, differences_of, units_of
from grpo_mmpc.recbench.common_cells import common_cells
from grpo_mmpc.recbench.judgement import judge, with_verdicts
from grpo_mmpc.recbench.score_table import MIN_USERS
from grpo_mmpc.statistics.crossed import estimate, pooled_variance, replicate_values, seed_weights
from grpo_mmpc.statistics.verdicts import BETTER, WORSE, Evidence, decide
from grpo_mmpc.utils.manifest import environment

Floats = NDArray[np.float64]
METRICS = 12
SEEDS = 3
CLUSTER = 5
FAMILIES_AT_ONCE = 25


def clusters(generator: np.random.Generator, num_items: int, count: int) -> Floats:
    """Return differences of variants, ``[N, M]``, of which 0.3 of the variance is the product's."""
    between = generator.normal(0.0, math.sqrt(0.3), (num_items // CLUSTER, count))
    return np.repeat(between, CLUSTER, axis=0) + generator.normal(0.0, math.sqrt(0.7), (num_items, count))


def skewed(generator: np.random.Generator, num_items: int, count: int) -> Floats:
    """Return exponential differences around 0."""
    return generator.exponential(size=(num_items, count)) - 1.0


def zero_inflated(generator: np.random.Generator, num_items: int, count: int) -> Floats:
    """Return differences of which one in ten is not 0."""
    return skewed(generator, num_items, count) * (generator.random((num_items, count)) < 0.1)


def partly_changed(generator: np.random.Generator, num_items: int, count: int) -> Floats:
    """Return differences of which three in ten are not 0."""
    return skewed(generator, num_items, count) * (generator.random((num_items, count)) < 0.3)


def binary(generator: np.random.Generator, num_items: int, count: int) -> Floats:
    """Return differences of a yes-or-no metric that few items change."""
    return generator.choice([-1.0, 0.0, 1.0], p=[0.02, 0.96, 0.02], size=(num_items, count))


KINDS: dict[str, Callable[[np.random.Generator, int, int], Floats]] = {
    "clusters": clusters,
    "skewed": skewed,
    "zero_inflated": zero_inflated,
    "partly_changed": partly_changed,
    "binary": binary,
}
UNDER_SEEDS = (
    ("zero_inflated", 100),
    ("zero_inflated", 360),
    ("partly_changed", 1000),
    ("skewed", 40),
    ("skewed", 100),
)


def compared(differences: Floats, *, groups: NDArray[np.int64] | None, resamples: int, seed: int) -> list[Difference]:
    """Compare every column of ``[N, M]``."""
    measures = [
        Measure(
            name="x",
            higher_is_better=True,
            before=np.zeros((len(column), 1)),
            after=column[:, None],
            scored=np.ones(len(column), dtype=bool),
            aggregate=lambda sums, count: sums[..., 0] / count,
            is_mean=True,
        )
        for column in differences.T
    ]
    settings = Resampling(resamples=resamples, flips=resamples, seed=seed)
    units = units_of(np.arange(len(differences)), groups, settings, stream="x")
    return differences_of(units, measures, settings, stream="x")


def simulate(kind: str, num_items: int, *, families: int, resamples: int) -> tuple[float, float, float]:
    """Return the shares of data sets covered among those judged, judged, and of false families."""
    groups = np.repeat(np.arange(num_items // CLUSTER), CLUSTER) if kind == "clusters" else None
    covered, judged, false = [], [], []
    for start in range(0, families, FAMILIES_AT_ONCE):
        count = min(FAMILIES_AT_ONCE, families - start)
        generator = np.random.default_rng([num_items, start])
        data = KINDS[kind](generator, num_items, count * METRICS)
        evidence = []
        for one in compared(data, groups=groups, resamples=resamples, seed=start):
            interval = one.interval(confidence=0.95)
            judged.append(interval is not None and not one.few_changed)
            covered.append(interval is not None and interval.low - 1e-9 <= 0.0 <= interval.high + 1e-9)
            evidence.append(Evidence(delta=one.delta, interval=interval, p=one.p_value(), few_changed=one.few_changed))
        for family in range(count):
            decisions = decide(evidence[family * METRICS : (family + 1) * METRICS], confidence=0.95)
            false.append(any(decision.verdict in (BETTER, WORSE) for decision in decisions))
    share = float(np.mean(np.array(covered)[judged])) if any(judged) else math.nan
    return share, float(np.mean(judged)), float(np.mean(false))


def simulate_crossed(num_items: int, *, data_sets: int, resamples: int) -> float:
    """Return the share of ablations whose interval of the difference of two mixes holds 0."""
    seeds, others, clusters_of = SEEDS, 2, num_items // CLUSTER
    generator = np.random.default_rng([num_items, 1])
    luck = generator.normal(size=(data_sets, 2 + others, seeds)) / math.sqrt(2 * clusters_of)
    between = generator.normal(size=(data_sets, 1, clusters_of))
    within = generator.normal(size=(data_sets, seeds, clusters_of, CLUSTER)).mean(axis=-1)
    means = (luck[:, 0] - luck[:, 1])[:, :, None] + between + within  # [D, S, U]
    replicates = replicate_values(
        CLUSTER * means.reshape(data_sets * seeds, clusters_of, 1),
        counts=np.full(clusters_of, float(CLUSTER)),
        aggregate=lambda sums, count: sums[..., 0] / count,
        resamples=resamples,
        seed=[num_items],
    ).reshape(resamples, data_sets, seeds)
    weights = seed_weights(num_seeds=seeds, resamples=resamples, seed=[1])
    covered = []
    for one in range(data_sets):
        pooled = pooled_variance(luck[one], num_seeds=seeds, of_difference=True)
        mean = estimate(means[one].mean(axis=1), replicates[:, one], weights, num_items=clusters_of, pooled=pooled)
        covered.append(mean.interval is not None and mean.interval.low <= 0.0 <= mean.interval.high)
    return float(np.mean(covered))


def in_ablation(differences: Floats, *, resamples: int) -> set[str]:
    """Return the verdicts on a mix that differs from another one by ``[N, M]`` in M metrics."""
    names = ["bleu", "chrf", "rouge_l", "token_f1", "jaccard", "tfidf_cosine", "bertscore_f1", "embedding_cosine"]
    names += ["attribute_recall", "attribute_exact", "attribute_precision", "attribute_f1"]
    no_cost = Cost(wall_s=None, training_s=None, tokens_per_s=None, reward_s=None)
    runs = []
    for mix, share in (("a", 0.0), ("b", 1.0)):
        table = TaskScores(
            item_ids=[str(item) for item in range(len(differences))],
            categories=["x"] * len(differences),
            scores=dict(zip(names, share * differences.T, strict=True)),
            statistics={},
            summary={},
        )
        of_mix = Evaluation(
            folder=Path(mix),
            suite="cqbench",
            version="2",
            mode="corrected",
            settings={},
            checkpoint="final",
            tasks={"image_to_text": table},
        )
        runs += [
            RunResult(mix=mix, seed=seed, folder=Path(mix), evaluation=of_mix, rewards={}, steps=[], cost=no_cost)
            for seed in range(SEEDS)
        ]
    results = Results(runs=runs, base={}, missing=[], data_order={})
    found = compare(results, mixes=["a", "b"], reference="a", metrics=None, resamples=resamples)
    return {cell.verdict for row in found.rows for cell in row.cells}


def in_recbench(differences: Floats, *, resamples: int) -> set[str]:
    """Return the verdicts on a fill that differs from another one by ``[N, M]``, for M metrics."""
    found = []
    for metric, change in enumerate(differences.T):
        levels = {"zeros": np.zeros(len(change)), "mean": change}
        runs = {fill: {seed: {"x": values} for seed in range(SEEDS)} for fill, values in levels.items()}
        found.append(
            judge(
                runs,
                common=common_cells(runs, min_users=MIN_USERS),
                users={"x": np.arange(len(change))},
                metric=str(metric),
                references=["zeros"],
                ceiling=None,
                resamples=resamples,
                cells={fill: fill for fill in runs},
                ways_to_fill=list(runs),
            )
        )
    return {result.verdict for comparison in with_verdicts(found) for result in comparison.fills}


def simulate_under_seeds(
    verdicts: Callable[..., set[str]], kind: str, num_items: int, *, families: int, resamples: int
) -> float:
    """Return the share of families with a false verdict."""
    generator = np.random.default_rng([num_items, 2])
    # Scores lie between 0 and 1: differences are small enough that no range cuts an interval.
    found = [verdicts(0.05 * KINDS[kind](generator, num_items, METRICS), resamples=resamples) for _ in range(families)]
    return float(np.mean([bool(one & {BETTER, WORSE}) for one in found]))


def main() -> None:
    """Simulate every kind at every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", type=int, default=1500, help="families of each kind and size (%(default)s)")
    parser.add_argument("--resamples", type=int, default=2999, help="resamples and flips (%(default)s)")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.families, arguments.resamples = 150, 999
    figures: dict[str, float] = {"families": arguments.families, "resamples": arguments.resamples}
    checks: dict[str, bool] = {}
    for kind in KINDS:
        for num_items in (100, 360, 1000):
            share, judged, false = simulate(kind, num_items, families=arguments.families, resamples=arguments.resamples)
            name = f"{kind}_{num_items}"
            figures |= {f"judged_{name}": round(judged, 4), f"false_verdict_{name}": round(false, 4)}
            slack = 2 * math.sqrt(0.06 * 0.94 / arguments.families) if arguments.quick else 0.0
            checks[f"false_verdict_{name}"] = false <= 0.06 + slack
            if judged > 0.05:
                figures[f"coverage_{name}"] = round(share, 4)
                count = arguments.families * METRICS * judged
                slack = 2 * math.sqrt(0.05 * 0.95 / count) if arguments.quick else 0.0
                checks[f"coverage_{name}"] = abs(share - 0.95) <= 0.02 + slack
            print(f"{name}: covered {share:.3f}, judged {judged:.3f}, false {false:.3f}", file=sys.stderr, flush=True)
    for num_items in (100, 360, 1000):
        name, count = f"coverage_crossed_{num_items}", arguments.families
        share = simulate_crossed(num_items, data_sets=count, resamples=arguments.resamples)
        figures[name] = round(share, 4)
        # One resampling serves all data sets, of which each is one comparison: more chance.
        checks[name] = abs(share - 0.95) <= 0.02 + 2 * math.sqrt(0.05 * 0.95 / count)
        print(f"{name}: {share:.3f}", file=sys.stderr, flush=True)
    families = min(100, max(20, arguments.families // 15))
    for room, verdicts in (("ablation", in_ablation), ("recbench", in_recbench)):
        for kind, num_items in UNDER_SEEDS:
            name, resamples = f"false_verdict_{room}_{kind}_{num_items}", min(999, arguments.resamples)
            false = simulate_under_seeds(verdicts, kind, num_items, families=families, resamples=resamples)
            figures[name] = round(false, 4)
            checks[name] = false <= 0.06 + 2 * math.sqrt(0.06 * 0.94 / families)
            print(f"{name}: {false:.3f}", file=sys.stderr, flush=True)
    where = environment()
    print(
        json.dumps(
            {
                "benchmark": "coverage",
                "hardware": where["hardware"],
                "versions": where["versions"],
                "results": {},
                "figures": figures,
                "checks": checks,
            }
        )
    )


if __name__ == "__main__":
    main()
