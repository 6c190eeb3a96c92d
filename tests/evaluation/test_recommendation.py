"""The recommendation benchmark of a policy: who completes, what is measured again, what a reader is told."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest

from grpo_mmpc.cpu_compat import ensure_importable
from grpo_mmpc.evaluation import recommendation
from grpo_mmpc.evaluation.recommendation import PolicyBenchmark
from grpo_mmpc.recbench.engines import run_local
from grpo_mmpc.recbench.results import read_results
from grpo_mmpc.rendering.nano import NanoRenderer
from tests.recbench.catalogues import settings_for, small_catalogue

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
        max_tokens={},
        load_renderer=options.pop("load_renderer", lambda: (None, "")),
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
    assert said[-1] == "base: the recommendation benchmark was already run with these settings"
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
    benchmark = benchmark_of(catalogue, tmp_path)
    for name in ("base", "final"):
        benchmark.run(lambda: nullcontext(Policy()), name=name, policy=name)
    assert read_results(tmp_path / "base" / "recbench")["cautions"] == []
    [caution] = read_results(tmp_path / "final" / "recbench")["cautions"]
    assert caution.startswith("2 of the 32 items took part in this policy's training")


def test_missing_images_are_rendered_from_prompts(catalogue, tmp_path):
    benchmark = benchmark_of(catalogue, tmp_path, "missing=[image]", load_renderer=lambda: (NanoRenderer(), "nano"))
    benchmark.run(lambda: nullcontext(Policy()), name="base", policy="p")
    coverage = methods(tmp_path, "base")["completed:base"]["image"]
    assert (coverage["masked"], coverage["covered"]) == (32, 32)
    assert len(list((tmp_path / "base" / "recbench" / "images").glob("*.png"))) == 32


def test_without_a_renderer_missing_images_stay_missing_with_the_reason(catalogue, tmp_path):
    benchmark_of(catalogue, tmp_path, "missing=[image]").run(lambda: nullcontext(Policy()), name="base", policy="p")
    coverage = methods(tmp_path, "base")["completed:base"]["image"]
    assert coverage["reasons"] == {"no renderer: evaluation.renderer is not set": 32}
