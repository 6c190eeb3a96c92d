"""The ablation file and the runs it stands for."""

from pathlib import Path

import pytest
import yaml

from grpo_mmpc.ablation.grid import expand
from grpo_mmpc.ablation.spec import combinations, load_ablation
from grpo_mmpc.cli import main
from grpo_mmpc.config.problems import first_difference
from grpo_mmpc.errors import ConfigError

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes" / "ablations").glob("*.yaml"))


def test_two_axes_give_every_combination_and_seed_the_last_axis_changing_fastest(planned):
    axes = {
        "mix": {"a": {}, "b": {"set": {"rewards.mix": [{"name": "token_f1", "weight": 1.0}]}}},
        "rate": {"low": {"set": {"trainer.learning_rate": 1e-4}}, "high": {"set": {"trainer.learning_rate": 1e-3}}},
    }
    folder, runs, jobs = planned(axes=axes, reference="a+low", seeds=[3, 5])
    mixes = ["a+low", "a+high", "b+low", "b+high"]
    assert [run.name for run in runs] == [f"{mix}/seed-{seed}" for seed in (3, 5) for mix in mixes]
    last = runs[-1].config
    assert (last.seed, last.trainer["learning_rate"], last.rewards.mix[0].name) == (5, 1e-3, "token_f1")
    assert last.run_dir == str(folder / "b+high" / "seed-5")
    assert [job.name for job in jobs][:2] == ["base-0", "a+low/seed-3"]  # one base for all: same model, same items


def test_what_a_value_sets_wins_over_the_overrides_of_the_file_and_those_over_files(planned):
    _, runs, _ = planned(
        overrides={"trainer.max_steps": 7, "trainer.beta": 0.5}, axes={"mix": {"bleu": {"set": {"trainer.beta": 0.1}}}}
    )
    trainer = runs[0].config.trainer
    assert (trainer["max_steps"], trainer["beta"], trainer["learning_rate"]) == (7, 0.1, 1e-3)


def test_runs_after_another_start_from_its_last_checkpoint_of_the_same_seed_and_share_the_untrained_model(planned):
    folder, runs, jobs = planned(axes={"mix": {"bleu": {}, "more": {"after": "bleu"}}}, reference="base")
    starts = {run.name: run.config.model.init_from for run in runs}
    for seed in (0, 1):
        assert starts[f"bleu/seed-{seed}"] is None
        checkpoint = folder / "bleu" / f"seed-{seed}" / "checkpoints" / "checkpoint-2"
        assert starts[f"more/seed-{seed}"] == str(checkpoint)
    assert [job.after for job in jobs] == [None, None, "bleu/seed-0", None, "bleu/seed-1"]
    assert [yaml.safe_load(job.recipe)["model"]["init_from"] for job in jobs if job.is_base] == [None]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"more": {"after": "blue"}}, "more starts after 'blue', which is no run; did you mean 'bleu'?"),
        ({"more": {"after": "more"}}, "more starts after more, which starts after another run"),
        (
            {"more": {"after": "bleu", "set": {"adapter.r": 3}}},
            "model, adapter: a run goes on from another one's only with the same ones (more/seed-0, more/seed-1)",
        ),
        (
            {"short": {"set": {"trainer.max_steps": -1}}, "more": {"after": "short"}},
            "trainer.max_steps: short/seed-0 must say it, since another run starts after it (more/seed-0)",
        ),
    ],
    ids=["unknown", "circle", "other adapter", "epochs"],
)
def test_a_run_that_could_not_start_after_another_is_refused(planned, values, message):
    with pytest.raises(ConfigError) as error:
        planned(axes={"mix": {"bleu": {}, **values}})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"model.name_or_path": "nano:gemma3"},
        {"trainer.chat_template_kwargs": {"processor_kwargs": {"padding": False}}},  # it is asked other prompts
    ],
)
def test_runs_that_are_measured_differently_get_an_untrained_evaluation_each(planned, change):
    axes = {"mix": {"bleu": {}, "other": {"set": change}}}
    _, _, jobs = planned(axes=axes)
    assert [job.name for job in jobs if job.is_base] == ["base-0", "base-1"]


@pytest.mark.parametrize(
    ("change", "reference", "message"),
    [
        (
            {"evaluation.mode": "paper"},
            "bleu",
            'evaluation.mode is "corrected" in bleu/seed-0 and "paper" in other/seed-0',
        ),
        ({"data.catalogue": "elsewhere"}, "bleu", "data.catalogue is"),
        ({"evaluation.encoders.clip": {"model": "nano:clip"}}, "bleu", "evaluation.encoders is"),
        (
            {"evaluation.renderer": "nano"},
            "bleu",
            'evaluation.renderer is null in bleu/seed-0 and "nano" in other/seed-0',
        ),
        (
            {"model.name_or_path": "nano:gemma3"},
            "base",
            "bleu/seed-0 and other/seed-0 have different base models",
        ),
    ],
)
def test_runs_that_could_not_be_compared_are_refused_before_any_starts(planned, change, reference, message):
    with pytest.raises(ConfigError) as error:
        planned(axes={"mix": {"bleu": {}, "other": {"set": change}}}, reference=reference)
    assert message in str(error.value)


def test_an_axis_of_the_picture_that_is_not_among_the_metrics_is_refused(planned):
    with pytest.raises(ConfigError, match=r"pareto: image_to_text.attribute_recall_type is not one of metrics"):
        planned(metrics=["image_to_text.bleu"])
    planned(metrics=["image_to_text.bleu", "image_to_text.attribute_recall_*"])


def test_a_token_which_no_run_folder_holds_is_asked_of_the_environment_and_not_shown(planned):
    with pytest.raises(ConfigError) as error:
        planned(overrides={"model.init_kwargs.token": "hf_secret"})
    assert "model.init_kwargs.token: runs are started from their folders, which hold no tokens" in str(error.value)
    assert "HF_TOKEN" in str(error.value) and "hf_secret" not in str(error.value)


def test_problems_of_all_runs_are_reported_once_with_the_runs_that_have_them(ablation, tmp_path, capsys):
    path = ablation(
        overrides={"trainer.max_stepz": 5},
        axes={"mix": {"bleu": {}, "blue": {"set": {"rewards.mix": [{"name": "blue", "weight": 1.0}]}}}},
        pareto=["image_to_text.bleu", "image_to_text.bluff"],
    )
    assert main(["ablate", str(path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{path}: trainer.max_stepz: unknown key; did you mean 'max_steps'? (all runs)" in said
    assert "unknown reward 'blue'; did you mean 'bleu'?" in said
    assert "(blue/seed-0, blue/seed-1)" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": [1]}, "seedz: unknown key; did you mean 'seeds'?"),
        ({"axes": {"mix": {"bleu": {"file": []}}}}, "axes.mix.bleu.file: unknown key; did you mean 'files'?"),
        ({"reference": "blue"}, "reference: no run 'blue'; did you mean 'bleu'?"),
        ({"seeds": [1, 1]}, "seeds: a seed appears twice"),
        ({"axes": {"mix": {"../x": {}}}, "reference": "base"}, "'../x' becomes part of a path"),
        ({"axes": {"mix": {"base": {}}}}, "'base' is the model before training"),
    ],
)
def test_a_file_that_is_wrong_says_what_and_what_to_do(ablation, changes, message):
    with pytest.raises(ConfigError, match=r"configuration has") as error:
        load_ablation(ablation(**changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("pareto", "message"),
    [
        (["image_to_text.bluu", "image_to_text.bleu"], "no metric 'bluu'; did you mean 'bleu'?"),
        (
            ["text_to_image.ssim", "image_to_text.bleu"],
            "text_to_image.ssim is of a task that bleu/seed-0 does not evaluate",
        ),
        (["image_to_text.ssim", "image_to_text.bleu"], "ssim has no value per item in image_to_text"),
    ],
)
def test_metrics_that_no_run_would_have_are_refused(planned, pareto, message):
    with pytest.raises(ConfigError) as error:
        planned(pareto=pareto)
    assert message in str(error.value)


def test_the_first_difference_of_two_recipes_is_named_with_both_values():
    old, new = {"a": 1, "trainer": {"beta": 0.1, "x": [1]}}, {"a": 1, "trainer": {"beta": 0.2, "x": [1]}}
    assert first_difference(old, new) == "trainer.beta was 0.1, is now 0.2"
    assert first_difference(old, old) == ""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_ablation_recipe_passes_every_check_of_its_runs(path, monkeypatch):
    from grpo_mmpc.cli.ablate import _load

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    spec = load_ablation(path)
    runs = expand(spec, path=path, folder=Path("runs/ablations") / spec.name, load=_load)
    assert spec.name == path.stem
    assert len(runs) == len(combinations(spec)) * len(spec.seeds)
    assert f"grpo-mmpc ablate recipes/ablations/{path.name}" in path.read_text()
    assert yaml.safe_load(path.read_text())["seeds"] == [0, 1, 2]


def test_the_nano_ablation_has_at_least_five_mixes():
    assert len(combinations(load_ablation(ROOT / "recipes/ablations/nano_reward_mixes.yaml"))) >= 5
