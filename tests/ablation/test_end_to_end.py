"""Real steps of the nano policy under two mixes, as a user runs them: locally, and on Ray."""

import json
from pathlib import Path

import pytest
import yaml

from grpo_mmpc.ablation.results import prompts_by_step
from grpo_mmpc.cli import main

ROOT = Path(__file__).parents[2]
TINY = yaml.safe_load((ROOT / "tests/ablation/tiny.yaml").read_text())


@pytest.fixture
def tiny(tmp_path, small_catalogue, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "tiny.yaml"
    changes = {"data.catalogue": str(small_catalogue), "data.held_out": 0.2, "evaluation.max_items": 9}
    path.write_text(yaml.safe_dump(TINY | {"overrides": TINY["overrides"] | changes}, sort_keys=False))
    return path


@pytest.mark.slow
def test_two_runs_of_one_step_end_in_a_page(tiny, tmp_path, capsys):
    folder = tmp_path / "out"
    content = yaml.safe_load(tiny.read_text())
    tiny.write_text(yaml.safe_dump(content | {"seeds": [0]}))
    command = ["ablate", str(tiny), "trainer.max_steps=1", "--out", str(folder), "--cpus-per-run", "1"]
    assert main(command) == 0
    assert f"written to {folder / 'ablation.html'}" in capsys.readouterr().out
    content = json.loads((folder / "ablation.json").read_text())
    assert content["missing"] == []
    assert content["data_order"] == {"0": "the same"}
    bleu = next(row for row in content["metrics"] if row["metric"] == "bleu")
    assert bleu["base"] is not None
    assert [list(cell["by_seed"]) for cell in bleu["cells"]] == [["0"], ["0"]]
    assert (folder / "bleu/seed-0/evaluations/base/cqbench/summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_small_ablation_runs_and_ends_in_its_page(tiny, tmp_path, capsys, engine):
    folder = tmp_path / "out"
    few = ["--parallel", "2", "--cpus-per-run", "1", "--run-anyway"]
    assert main(["ablate", str(tiny), "--out", str(folder), "--engine", engine, *few]) == 0
    said = capsys.readouterr().out
    assert f"written to {folder / 'ablation.html'}" in said
    content = json.loads((folder / "ablation.json").read_text())
    assert content["missing"] == []
    bleu = next(row for row in content["metrics"] if row["metric"] == "bleu")
    assert bleu["base"] is not None
    assert [sorted(cell["by_seed"]) for cell in bleu["cells"]] == [["0", "1"], ["0", "1"]]
    # Equal prompts per step over mixes, other ones with another seed.
    prompts = {mix: [prompts_by_step(folder / mix / f"seed-{seed}") for seed in (0, 1)] for mix in ("bleu", "token_f1")}
    assert list(prompts["bleu"][0]) == ["step-000001", "step-000002"]
    assert prompts["bleu"] == prompts["token_f1"]
    assert prompts["bleu"][0] != prompts["bleu"][1]
    # A finished run can be reported by itself, compared with the shared evaluation of the untrained
    # model.
    assert (folder / "bleu/seed-0/evaluations/base/cqbench/summary.json").is_file()
    capsys.readouterr()
    assert main(["ablate", str(tiny), "--out", str(folder), "--engine", engine, "--run-anyway"]) == 0
    assert "5 of 5 jobs are finished" in capsys.readouterr().out
