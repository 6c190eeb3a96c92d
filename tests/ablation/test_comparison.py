"""From run folders to verdicts, words and the page, on fake runs whose numbers are known."""

import csv
import json
import re
import runpy
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.ablation.comparison import compare
from grpo_mmpc.ablation.pareto import Pareto, Point, pareto
from grpo_mmpc.ablation.results import collect
from grpo_mmpc.ablation.runner import run_local
from grpo_mmpc.ablation.spec import load_ablation
from grpo_mmpc.reports.ablation.findings import cautions, findings
from grpo_mmpc.reports.ablation.report import write_report
from grpo_mmpc.reports.common.findings import texts
from grpo_mmpc.statistics.crossed import Estimate
from grpo_mmpc.statistics.verdicts import BETTER, NO_EVIDENCE, UNSCORED
from tests.ablation.conftest import FAKE
from tests.reports.golden import check_golden, visible_text


@pytest.fixture
def finished(planned, monkeypatch, tmp_path):
    """Two mixes x three seeds, all done.

    bleu 0.34 + 0.001 seed, token_f1 0.2 above, the untrained model 0.24.
    """
    monkeypatch.setenv("FAKE_STEP_S", "0")

    def run(*, supervised=False, **changes):
        folder, runs, jobs = planned(pareto=["image_to_text.bleu", "image_to_text.rouge_l"], seeds=[0, 1, 2], **changes)
        if supervised:
            run_local(jobs[1:], given=[{}, {}], retries=0)
        else:  # in this process: to start others takes longer than what they do
            train = runpy.run_path(str(FAKE))["main"]
            for job in jobs[1:]:
                monkeypatch.setattr(sys, "argv", ["fake", "train", str(job.config)])
                assert train() == 0
        return folder, runs, jobs, load_ablation(tmp_path / "fake.yaml")

    return run


def test_means_differences_marks_and_verdicts(finished):
    _, runs, jobs, _ = finished()
    results = collect(runs, jobs)
    comparison = compare(results, mixes=["bleu", "token_f1"], reference="bleu", metrics=None, resamples=300)
    bleu, rouge = comparison.rows
    reference, other = bleu.cells
    # Items add 0, 0.02 .. 0.08 in turn, 0.04 on average; seeds add 0, 0.001 and 0.002.
    assert reference.by_seed == pytest.approx({0: 0.34, 1: 0.341, 2: 0.342})
    assert reference.level.value == pytest.approx(0.341)
    assert bleu.base == pytest.approx(0.24)
    assert other.difference.value == pytest.approx(0.2)
    assert (reference.was_reward, other.was_reward) == (True, False)
    assert (bleu.trained_by, rouge.trained_by) == (["bleu"], [])
    assert (reference.verdict, other.verdict) == ("", BETTER)
    assert comparison.family == 2  # one mix against the reference, two metrics
    assert results.data_order == {0: "", 1: "", 2: ""}
    said = findings(comparison, None)
    assert [finding.tone for finding in said] == ["better", "better"]
    assert texts(said) == [
        "On the 1 metric that no mix was trained on, token_f1 is better than bleu in ROUGE-L, and "
        "not shown to be worse "
        "in any.",
        "token_f1 against bleu: better in BLEU +0.200 and ROUGE-L +0.200.",
    ]


def test_a_metric_without_a_verdict_is_named_beside_those_without_evidence(finished):
    _, runs, jobs, _ = finished()
    comparison = compare(collect(runs, jobs), mixes=["bleu", "token_f1"], reference="bleu", metrics=None, resamples=300)
    rows = [
        replace(row, cells=[row.cells[0], replace(row.cells[1], verdict=verdict)])
        for row, verdict in zip(comparison.rows, (NO_EVIDENCE, UNSCORED), strict=True)
    ]
    said = texts(findings(replace(comparison, rows=rows), None))
    assert said[-1] == "token_f1 against bleu: no evidence of a difference in 1 of 2 metrics; unscored in ROUGE-L."
    assert said[0].endswith("nothing could be compared with bleu (unscored).")


def test_variants_of_one_product_are_resampled_as_wholes(finished):
    _, runs, jobs, _ = finished()
    for job in jobs[1:]:
        samples = job.final / "samples.parquet"
        table = pq.read_table(samples)
        pairs = [f"product-{row // 2}" for row in range(len(table))]
        pq.write_table(table.append_column("group", pa.array(pairs)), samples)
    comparison = compare(collect(runs, jobs), mixes=["bleu", "token_f1"], reference="bleu", metrics=None)
    row = comparison.rows[0]
    assert (row.n_scored, row.n_products) == (20, 10)
    # Deviations of items are -4, -2, 0, 2, 4 hundredths in turn, so those of pairs -6, 2, 0, -2, 6,
    # twice over: (10 / 9) * 2 * 80 / 20**2 = 0.444 is the variance of the mean, 0.667 hundredths
    # its root; of 20 single items (20 / 19) * 4 * 40 / 20**2 = 0.421 and 0.649.
    assert row.cells[0].level.se_items == pytest.approx(0.00667, rel=0.02)


def test_costs_count_every_step_whether_it_draws_rollouts_reuses_them_or_is_logged_with_others(finished):
    _, runs, jobs, _ = finished()
    rows = [
        # Draws 4 s x 100 = 400 tokens and waits 4 s x 0.25 = 1 s.
        {"step": 1, "step_time": 4.0, "tokens_per_second": 100.0, "reward_time/wait_share": 0.25},
        # Reuses them.
        {"step": 2, "step_time": 1.0, "tokens_per_second": 0.0, "reward_time/wait_share": 0.0},
        # Three steps of 2 s on average, of which two drew: 6 s x 50 = 300 tokens, 6 s x 0.5 = 3 s
        # of waiting.
        {"step": 5, "step_time": 2.0, "tokens_per_second": 50.0, "reward_time/wait_share": 0.5},
    ]
    job = next(job for job in jobs if job.name == runs[0].name)
    (job.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    [cost] = [run.cost for run in collect(runs, jobs).runs if run.folder == job.folder]
    assert cost.training_s == pytest.approx(11.0)  # 4 + 1 + 3 x 2
    assert cost.tokens_per_s == pytest.approx(700 / 11)
    assert cost.reward_s == pytest.approx(4.0)


def test_a_run_without_logged_steps_has_no_costs_of_steps(finished):
    _, runs, jobs, _ = finished()
    job = next(job for job in jobs if job.name == runs[0].name)
    (job.folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    [cost] = [run.cost for run in collect(runs, jobs).runs if run.folder == job.folder]
    assert (cost.training_s, cost.tokens_per_s, cost.reward_s) == (None, None, None)


def test_the_model_before_training_can_be_the_reference(finished):
    _, runs, jobs, _ = finished(reference="base")
    comparison = compare(
        collect(runs, jobs), mixes=["bleu", "token_f1"], reference="base", metrics=["image_to_text.rouge_l"]
    )
    [row] = comparison.rows
    assert [cell.difference.value for cell in row.cells] == pytest.approx([0.101, 0.301])
    assert "than the model before training" in findings(comparison, None)[0].text


def test_the_page_holds_verdict_picture_examples_and_nothing_unescaped(finished):
    folder, runs, jobs, spec = finished()
    report = write_report(spec, runs, jobs, folder=folder)
    page = report.paths[0].read_text("utf-8")
    assert report.findings[0].text in page
    assert report.missing == set()
    for part in (
        "Every mix, every metric",
        'class="pareto"',
        "Where mixes differ most",
        "&lt;script&gt;",
        "Training curves",
        "3 seeds:",
        "knows only the products of the nano catalogue",
    ):
        assert part in page
    assert not re.search(r"<script|<b>mug|(?:src|href)=\"(?!data:|#)", page)
    assert f"{spec.launcher} -m grpo_mmpc train {runs[0].config.run_dir}.yaml" in page
    content = json.loads(report.paths[1].read_text())
    assert content["pareto"]["front"] == ["token_f1"]
    assert content["costs"]["bleu"]["tokens_per_s"] == 100.0
    rows = list(csv.DictReader(report.paths[2].open(encoding="utf-8")))
    assert [(row["metric"], row["mix"], row["verdict"]) for row in rows] == [
        ("bleu", "bleu", ""),
        ("bleu", "token_f1", "better"),
        ("rouge_l", "bleu", ""),
        ("rouge_l", "token_f1", "better"),
    ]


def test_golden_page(finished, monkeypatch):
    monkeypatch.setattr("grpo_mmpc.reports.ablation.page.command_line", lambda: "grpo-mmpc ablate fake.yaml")
    folder, runs, jobs, spec = finished(supervised=True)
    page = write_report(spec, runs, jobs, folder=folder).paths[0].read_text("utf-8")
    replaced = {
        re.escape(str(folder)): "OUT",
        re.escape(spec.launcher): "PYTHON",
        r"\d+(\.\d)? s\b": "TIME",
    }
    check_golden("ablation", visible_text(page), replaced=replaced)


def test_a_page_is_built_from_what_is_there_and_says_what_is_missing(planned, tmp_path):
    folder, runs, jobs = planned()
    spec = load_ablation(tmp_path / "fake.yaml")
    assert texts(write_report(spec, runs, jobs, folder=folder).findings) == [
        "No run has finished: there is nothing to compare yet."
    ]
    jobs[1].log.parent.mkdir(parents=True, exist_ok=True)
    jobs[1].log.write_text("CUDA out of <memory>\n")
    (folder / "token_f1" / "fail").touch()
    run_local(jobs[1:], given=[{}], retries=0)
    report = write_report(spec, runs, jobs, folder=folder)
    assert report.missing == {"token_f1/seed-0", "token_f1/seed-1"}
    page = report.paths[0].read_text("utf-8")
    assert "Not run, or not finished" in page
    assert "the fake run has to fail" in page


def test_mixes_that_saw_other_prompts_are_told_of(finished):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, runs, jobs, _ = finished()
    pq.write_table(pa.table({"prompt_id": ["other"]}), folder / "token_f1/seed-1/rollouts/step-000002.parquet")
    for rollout in (folder / "bleu/seed-2/rollouts").iterdir():
        rollout.unlink()
    results = collect(runs, jobs)
    assert results.data_order == {0: "", 1: "bleu and token_f1 at step-000002", 2: None}
    comparison = compare(results, mixes=["bleu", "token_f1"], reference="bleu", metrics=None, resamples=200)
    text = " ".join(texts(cautions(comparison, results)))
    assert "NOT see the same prompts in the same order (seed 1:" in text
    assert "Within seed 0, all mixes saw the same" in text
    assert "was not checked for seed 2" in text


def test_the_front_holds_what_no_other_mix_beats_in_both(finished):
    def at(value):
        return Estimate(value=value, interval=None, p=None, se_items=0, se_seeds=0, degrees=0)

    _, runs, jobs, spec = finished()
    comparison = compare(collect(runs, jobs), mixes=["bleu", "token_f1"], reference="bleu", metrics=None, resamples=200)
    front = pareto(comparison, spec.pareto)
    assert front.front == ["token_f1"]
    assert pareto(comparison, None) is None
    points = [Point(mix="a", x=at(1.0), y=at(0.0), on_front=True), Point(mix="b", x=at(0.0), y=at(1.0), on_front=True)]
    assert (
        "No mix is ahead of another in both."
        in findings(comparison, Pareto(x=front.x, y=front.y, points=points))[-1].text
    )
