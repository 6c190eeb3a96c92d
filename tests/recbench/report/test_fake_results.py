"""What these tests call ``results.json`` is what the benchmark writes."""

import json

from grpo_mmpc.recbench.judgement import Comparison, Contrast, FillResult
from grpo_mmpc.recbench.results import SHOWN, GroupResult, write_results
from grpo_mmpc.statistics.crossed import Estimate
from tests.recbench.report.fake_results import results, with_second


def test_groups_metrics_and_methods_have_the_keys_that_are_written(tmp_path):
    level = Estimate(value=0.2, interval=None, p=None, se_items=0.0, se_seeds=0.0, degrees=1.0)
    judged = FillResult(
        fill="zeros",
        by_seed={0: 0.2},
        by_category={"A": level},
        level=level,
        difference=None,
        same_as=None,
        question=(),
        p_holm=None,
        verdict="",
        recovery=None,
    )
    comparisons = {
        metric: Comparison(
            metric=metric,
            reference="zeros",
            ceiling=None,
            fills=[judged],
            first_completion="completed:a",
            against_first=[
                Contrast(fill="completed:b", difference=level, question=(), p_holm=1.0, verdict="no evidence")
            ],
            seeds=[0],
            categories=["A"],
            num_users=9,
        )
        for metric in SHOWN
    }
    described = {name: {} for name in ("levels", "left_out", "dropped", "coverage", "failures", "parameters")}
    group = GroupResult(
        recommender="vbpr", missing="text", rate=1.0, comparisons=comparisons, devices=["cpu"], **described
    )
    write_results(tmp_path, [group], about={})
    [written] = json.loads((tmp_path / "results.json").read_text())["groups"]
    [fake] = results()["groups"]
    assert fake.keys() == written.keys()
    assert fake["metrics"].keys() == written["metrics"].keys()
    for metric in SHOWN:
        assert fake["metrics"][metric].keys() == written["metrics"][metric].keys()
        assert (
            fake["metrics"][metric]["methods"]["zeros"].keys() == written["metrics"][metric]["methods"]["zeros"].keys()
        )
        [second] = with_second()["groups"][0]["metrics"][metric]["against_first_completion"].values()
        [written_second] = written["metrics"][metric]["against_first_completion"].values()
        assert second.keys() == written_second.keys()
