"""The benchmark of a policy: completions, what is measured again, what is printed."""

import json
import os
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.nano.renderer import NanoRenderer
from grpo_mmpc.pipelines import evaluate
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.recbench import suite as recommendation
from grpo_mmpc.recbench.engines import run_local
from grpo_mmpc.recbench.report.findings import completion_findings
from grpo_mmpc.recbench.results import read_results
from grpo_mmpc.recbench.suite import _TASKS, PolicyBenchmark
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.cpu_compat import ensure_importable
from tests.recbench.catalogues import settings_for, small_catalogue
from tests.utils.test_distributed import World

ensure_importable()


class Policy:
    """Names the colour of every item, and nothing else."""

    rows_at_once = 16

    def __init__(self, *, malformed: int = 0) -> None:
        self.asked = 0
        self._malformed = malformed

    def generate(self, rows, sampling):
        assert sampling.temperature == 0.0
        self.asked += len(rows)
        key = "title" if rows[0].task == "image_to_text" else "prompt"
        texts = [json.dumps({key: f"a {row.title.split()[0]} thing"}) for row in rows]
        return ["no JSON"] * self._malformed + texts[self._malformed :]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """A few tiny cells are done before a worker process has started."""

    def run(folder, cells, *, parallel, device, show):
        return run_local(folder, cells, parallel=1, device=device, show=show)

    monkeypatch.setattr(recommendation, "run_local", run)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return small_catalogue(tmp_path_factory.mktemp("policy") / "catalogue", categories=("Bags",))


def benchmark_of(catalogue, folder, *overrides, said=None, **options):
    lines = [] if said is None else said
    return PolicyBenchmark(
        settings=settings_for("fills=[zeros,completed]", *overrides),
        catalogue=catalogue,
        evaluations=folder,
        sampling={modality: TASKS[task].greedy() for modality, task in _TASKS.items()},
        load_renderer=options.pop("load_renderer", lambda: None),
        renderer=options.pop("renderer", None),
        trained_on=frozenset({"Bags-00", "Bags-01"}),
        about={"command": "test", "catalogue": "small"},
        say=lines.append,
        **options,
    )


def methods(folder, name):
    return read_results(folder / name / "recbench")["groups"][0]["coverage"]


def test_the_policy_completes_exactly_the_items_that_lose_their_title(catalogue, tmp_path):
    policy = Policy()
    benchmark_of(catalogue, tmp_path, "rates=[0.5]").run(lambda: nullcontext(policy), name="base", policy="p")
    coverage = methods(tmp_path, "base")["completed:base"]["text"]
    assert 0 < coverage["masked"] < 32
    assert policy.asked == coverage["masked"] == coverage["covered"]


def test_a_malformed_completion_stays_zero_and_is_counted(catalogue, tmp_path):
    policy = Policy(malformed=3)
    benchmark_of(catalogue, tmp_path).run(lambda: nullcontext(policy), name="base", policy="p")
    coverage = methods(tmp_path, "base")["completed:base"]["text"]
    # Three in each of the two batches of 16.
    assert coverage == {"masked": 32, "covered": 26, "reasons": {"malformed completion": 6}}


def test_what_was_run_is_not_run_again_unless_policy_or_settings_change(catalogue, tmp_path):
    policy, said = Policy(), []
    benchmark = benchmark_of(catalogue, tmp_path, said=said)
    for _ in range(2):
        benchmark.run(lambda: nullcontext(policy), name="base", policy="p")
    assert policy.asked == 32
    assert said[-3] == "base: the recommendation benchmark was already run with these settings"
    benchmark.run(lambda: nullcontext(policy), name="base", policy="another")
    assert policy.asked == 64
    changed = replace(benchmark, settings=settings_for("fills=[zeros,completed]", "seeds=[5]"))
    changed.run(lambda: nullcontext(policy), name="base", policy="another")
    assert read_results(tmp_path / "base" / "recbench")["settings"]["seeds"] == [5]


def test_a_later_policy_is_measured_beside_the_base_on_cells_that_are_there(catalogue, tmp_path):
    benchmark = benchmark_of(catalogue, tmp_path)
    benchmark.run(lambda: nullcontext(Policy()), name="base", policy="p")
    before = {path.name for path in (tmp_path / "recbench-work" / "cells").iterdir()}
    benchmark.run(lambda: nullcontext(Policy(malformed=3)), name="final", policy="q")
    assert set(methods(tmp_path, "final")) == {"zeros", "completed:base", "completed:final"}
    added = {path.name for path in (tmp_path / "recbench-work" / "cells").iterdir()} - before
    assert len(added) == 2 * 2  # the final policy's own: a JSON and a Parquet file for each of two seeds


def test_a_trained_policy_is_reported_with_the_items_that_it_was_trained_on(catalogue, tmp_path):
    said: list[str] = []
    benchmark = benchmark_of(catalogue, tmp_path, said=said)
    for name in ("base", "final"):
        benchmark.run(lambda: nullcontext(Policy()), name=name, policy=name)
    assert read_results(tmp_path / "base" / "recbench")["cautions"] == []
    assert not any("took part in this policy's training" in line for line in said[:-3])
    [caution] = read_results(tmp_path / "final" / "recbench")["cautions"]
    assert caution.startswith("2 of the 32 items took part in this policy's training")
    verdict, told, place = said[-3:]
    assert verdict.startswith("final, VBPR, 100% of titles missing: Completed by final: Recall@20 ")
    assert told == f"final: {caution}"
    assert place.startswith("recommendation benchmark of final:")


def test_missing_images_are_rendered_from_prompts(catalogue, tmp_path):
    benchmark = benchmark_of(catalogue, tmp_path, "missing=[image]", load_renderer=NanoRenderer, renderer="nano")
    benchmark.run(lambda: nullcontext(Policy()), name="base", policy="p")
    coverage = methods(tmp_path, "base")["completed:base"]["image"]
    assert (coverage["masked"], coverage["covered"]) == (32, 32)
    assert len(list((tmp_path / "base" / "recbench" / "images").glob("*.png"))) == 32


def test_without_a_renderer_missing_images_stay_missing_with_the_reason(catalogue, tmp_path):
    benchmark_of(catalogue, tmp_path, "missing=[image]").run(lambda: nullcontext(Policy()), name="base", policy="p")
    coverage = methods(tmp_path, "base")["completed:base"]["image"]
    assert coverage["reasons"] == {"no renderer: evaluation.renderer is not set": 32}


def test_another_renderer_makes_missing_images_anew_and_missing_titles_not(catalogue, tmp_path):
    said: list[str] = []
    for overrides, again in (((), False), (("missing=[image]",), True)):
        folder = tmp_path / str(again)
        for renderer in ("one", "another"):
            benchmark = benchmark_of(
                catalogue, folder, *overrides, said=said, load_renderer=NanoRenderer, renderer=renderer
            )
            benchmark.run(lambda: nullcontext(Policy()), name="base", policy="p")
        assert any("already run" in line for line in said) != again
        said.clear()


def test_a_benchmark_in_which_recommenders_failed_is_not_finished(catalogue, tmp_path):
    benchmark, said = benchmark_of(catalogue, tmp_path), []
    benchmark.run(lambda: nullcontext(Policy()), name="base", policy="p")
    path = tmp_path / "base" / "recbench" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"failures": 1}))
    policy = Policy()
    replace(benchmark, say=said.append).run(lambda: nullcontext(policy), name="base", policy="p")
    assert not any("already run" in line for line in said)
    assert policy.asked == 0  # completions are kept
    assert json.loads(path.read_text())["failures"] == 0


def test_the_result_is_told_with_its_verdict_and_place(catalogue, tmp_path):
    said: list[str] = []
    benchmark = benchmark_of(catalogue, tmp_path, "fills=[zeros,no_missing,completed]", said=said)
    benchmark.run(lambda: nullcontext(Policy()), name="base", policy="p")
    [group] = read_results(tmp_path / "base" / "recbench")["groups"]
    [finding] = completion_findings(group, "completed:base")
    assert finding.text.startswith("Completed by base: Recall@20 0.")
    assert said[-2] == f"base, VBPR, 100% of titles missing: {finding.text}"
    assert said[-1] == f"recommendation benchmark of base: {tmp_path / 'base' / 'recbench' / 'results.json'}"


@pytest.mark.parametrize("into_run", [True, False])
def test_evaluating_into_a_run_names_the_command_that_shows_the_benchmark(monkeypatch, capsys, tmp_path, into_run):
    monkeypatch.setattr(evaluate, "RunData", MagicMock())
    monkeypatch.setattr(evaluate, "doubts", lambda config, data: [])
    monkeypatch.setattr(evaluate, "build_suite", lambda config, data: SimpleNamespace(name="cqbench"))
    monkeypatch.setattr(evaluate, "policy_identity", lambda config, *, adapter: "p")
    monkeypatch.setattr(evaluate, "Evaluator", MagicMock())
    monkeypatch.setattr(evaluate, "benchmark_policy", lambda evaluator, engine, *, name, policy: None)
    config = load_recipe(["recipes/nano.yaml", "recipes/recbench/nano_in_training.yaml", f"run_dir={tmp_path}"])
    evaluate.run_evaluation(config, checkpoint=None, out=None if into_run else tmp_path / "out")
    line = f"the recommendation benchmark of all policies evaluated so far: grpo-mmpc report {tmp_path}"
    assert (line in capsys.readouterr().out) is into_run


def test_pictures_of_an_earlier_policy_are_found_from_another_working_directory(catalogue, tmp_path, monkeypatch):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    options = {"load_renderer": NanoRenderer, "renderer": "nano"}
    monkeypatch.chdir(run)
    first = benchmark_of(catalogue, Path("evaluations"), "missing=[image]", **options)
    first.run(lambda: nullcontext(Policy()), name="base", policy="p")
    lines = (run / "evaluations" / "base" / "recbench" / "answers.jsonl").read_text().splitlines()[1:]
    assert all(json.loads(line)["value"].startswith("images/") for line in lines)
    monkeypatch.chdir(elsewhere)
    second = replace(first, evaluations=run / "evaluations")
    second.run(lambda: nullcontext(Policy()), name="final", policy="q")
    assert methods(run / "evaluations", "final")["completed:base"]["image"]["covered"] == 32


def test_what_loses_title_and_image_at_once_is_asked_of_nobody(catalogue, tmp_path):
    policy, said = Policy(), []
    benchmark_of(catalogue, tmp_path, "missing=[both]", said=said).run(
        lambda: nullcontext(policy), name="base", policy="p"
    )
    assert policy.asked == 0
    assert "cannot be completed from anything" in said[-1]


def test_all_ranks_complete_the_rows_that_the_main_process_drew(catalogue, tmp_path, monkeypatch):
    """Masks of paper mode differ by process; ranks that complete different rows would hang."""
    drawn = {0: [0, 1, 2], 1: [3, 4, 5, 6, 7]}
    ranks_of_thread: dict[int, int] = {}

    def widest(settings, data):
        mask = np.zeros(len(data.item_ids), dtype=bool)
        mask[drawn[ranks_of_thread[threading.get_ident()]]] = True
        return {"text": mask}

    monkeypatch.setattr(recommendation, "widest_masks", widest)
    shown: dict[int, list[str]] = {}

    class Recording(Policy):
        def __init__(self, rank):
            super().__init__()
            self._rank = rank

        def generate(self, rows, sampling):
            shown.setdefault(self._rank, []).extend(row.item_id for row in rows)
            return super().generate(rows, sampling)

    def work(rank, ranks):
        ranks_of_thread[threading.get_ident()] = rank
        benchmark = benchmark_of(catalogue, tmp_path, "rates=[0.2]", ranks=ranks)
        monkeypatch.setattr(PolicyBenchmark, "_measure", lambda *_, **__: None)
        monkeypatch.setattr(PolicyBenchmark, "_tell", lambda *_: None)
        benchmark.run(lambda: nullcontext(Recording(rank)), name="base", policy="p")

    assert World().run(work) == [None, None]
    assert len(shown[0]) == 3
    assert shown[0] == shown[1]


def test_completions_that_cannot_be_read_fail_on_every_rank(catalogue, tmp_path, monkeypatch):
    def broken(path):
        raise OSError("disk gone")

    monkeypatch.setattr(recommendation, "CompletionLog", broken)

    def work(rank, ranks):
        benchmark_of(catalogue, tmp_path, ranks=ranks).run(lambda: nullcontext(Policy()), name="base", policy="p")

    main, other = World().run(work)
    assert isinstance(main, OSError)
    assert isinstance(other, EvaluationError) and "disk gone" in str(other)


def test_answers_of_an_earlier_policy_are_data_which_names_no_file_elsewhere_and_may_be_torn(catalogue, tmp_path):
    options = {"load_renderer": NanoRenderer, "renderer": "nano"}
    first = benchmark_of(catalogue, tmp_path, "missing=[image]", **options)
    first.run(lambda: nullcontext(Policy()), name="base", policy="p")
    path = tmp_path / "base" / "recbench" / "answers.jsonl"
    lines = path.read_text().splitlines()
    outside = catalogue.folder / "images" / "Bags-00.png"
    lines[1] = json.dumps(json.loads(lines[1]) | {"value": str(outside)})
    lines[2] = json.dumps(json.loads(lines[2]) | {"value": os.path.relpath(outside, path.parent)})
    path.write_text("\n".join([*lines[:-1], lines[-1][:20]]))
    first.run(lambda: nullcontext(Policy()), name="final", policy="q")
    assert methods(tmp_path, "final")["completed:base"]["image"]["covered"] == 32 - 3
