"""The command line as a stranger meets it: what it says, and what it returns."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grpo_mmpc.cli import main, parse_arguments
from grpo_mmpc.config import is_file
from grpo_mmpc.pipelines.recipe import load_policy_recipe, load_recipe
from tests.recbench.report.fake_results import results

ROOT = Path(__file__).parents[2]


def test_a_recipe_with_many_mistakes_gets_one_answer_that_names_them_all(tmp_path, capsys):
    broken = tmp_path / "my_rewards.py"
    broken.write_text("def brand_match(:\n    pass\n")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "run_dir: runs/x\n"
        "model: {name_or_path: nano:qwen2_5_vl}\n"
        "adapter: {r: 4, lora_alhpa: 8, target_modules: [q_proj]}\n"
        "data: {catalogue: somewhere}\n"
        "rewards:\n"
        "  mix:\n"
        "    - {name: blue, weight: 1.0}\n"
        f'    - {{name: "{broken}:brand_match", weight: high}}\n'
        "trainer: {max_step: 5, output_dir: elsewhere, num_generations: 1}\n"
        "evaluaton: {}\n"
    )
    assert main(["train", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert "error: the configuration has 7 problems:" in said
    for part in (
        "evaluaton: unknown key; did you mean 'evaluation'?",
        "unknown reward 'blue'; did you mean 'bleu'?",
        "rewards.mix.1.weight: input should be a valid number, found 'high'",
        "my_rewards.py, line 1",
        "trainer.max_step: unknown key; did you mean 'max_steps'?",
        "trainer.output_dir: is not set here: checkpoints are written to run_dir/checkpoints; set run_dir",
        "adapter.lora_alhpa: unknown key; did you mean 'lora_alpha'?",
    ):
        assert part in said, said


def test_what_only_asks_the_policy_imports_no_reward(tmp_path, monkeypatch):
    rewards = tmp_path / "my_rewards.py"
    rewards.write_text("raise RuntimeError('imported')\n")
    recipe = [str(ROOT / "recipes/nano.yaml"), f"rewards.mix=[{{name: '{rewards}:mine', weight: 1.0}}]"]
    asked = []
    monkeypatch.setattr("grpo_mmpc.pipelines.evaluate.run_evaluation", lambda *_, **__: asked.append("evaluate"))
    monkeypatch.setattr("grpo_mmpc.rollout.vllm.serve.run_server", lambda *_, **__: asked.append("serve") or 0)
    assert main(["evaluate", *recipe, "--base"]) == main(["serve", *recipe]) == 0
    load_policy_recipe(recipe, checkpoint=None)
    assert asked == ["evaluate", "serve"]
    assert main(["train", *recipe, "--check"]) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.num_generations=3", "trainer: TRL refuses these values:"),
        ("trainer.max_steps=many", "trainer.max_steps: expected a whole number, found 'many'"),
        ("trainer.learning_rate=[1]", "trainer.learning_rate: expected a number, found [1]"),
        ("trainer.use_cpu=3", "trainer.use_cpu: expected true or false, found 3"),
    ],
)
def test_values_that_trl_cannot_use_are_reported_before_a_model_loads(capsys, override, message):
    assert main(["train", str(ROOT / "recipes/nano.yaml"), override]) == 2
    assert message in capsys.readouterr().err


def test_overrides_may_stand_behind_options_and_other_leftovers_are_refused(capsys):
    parsed = parse_arguments(["evaluate", "recipe.yaml", "--base", "seed=1"])
    assert parsed.recipe == ["recipe.yaml", "seed=1"]
    for words in (["evaluate", "recipe.yaml", "--base", "--fast"], ["rewards", "list", "seed=1"]):
        with pytest.raises(SystemExit):
            parse_arguments(words)
        assert "unrecognized arguments" in capsys.readouterr().err


def test_check_says_where_training_cuts_answers_that_evaluations_do_not(tmp_path, capsys):
    recipe = [str(ROOT / "recipes/nano.yaml"), f"run_dir={tmp_path / 'run'}", "--check"]
    assert main(["train", *recipe, "trainer.max_completion_length=48"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "! text_to_image is evaluated with answers of up to 64 tokens and trained with 48 at most: what is cut off "
        "there is malformed. Set trainer.max_completion_length=64"
    ) in said
    assert "image_to_text is evaluated" not in said


def test_check_prints_the_resolved_recipe_and_trains_nothing(tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", str(ROOT / "recipes/nano.yaml"), f"run_dir={run_dir}", "seed=5", "--check"]) == 0
    out, summary = capsys.readouterr()
    assert f"run_dir: {run_dir}" in out
    assert "seed: 5" in out
    assert not run_dir.exists()
    for said in (
        r"data: 3,600 items of nano:catalogue: 3,\d+ to train on, \d+ held out; 0 lack title or image",
        r"training: 80 steps of 4 prompts with 16 completions on 1 process: 320 prompts, 0\.1 epochs; 5 % of the items "
        r"are seen\n",
        r"evaluation: 360 held-out items can show a difference of about 0\.0\d\d in a metric between 0 and 1",
    ):
        assert re.search(said, summary), summary
    assert summary.endswith("\nok\n")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.catalogue=nano:catalog", "did you mean 'nano:catalogue'?"),
        ("data.catalogue=nowhere", "nowhere"),
        ("data.held_out=0.99999", "held_out"),
    ],
)
def test_check_also_reads_the_catalogue(tmp_path, capsys, override, said):
    recipe = [str(ROOT / "recipes/nano.yaml"), f"run_dir={tmp_path / 'run'}", override, "--check"]
    assert main(["train", *recipe]) == 2
    assert said in capsys.readouterr().err


def test_check_also_looks_at_the_run_folder(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(["train", str(ROOT / "recipes/nano.yaml"), f"run_dir={tmp_path}", "--check"]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator: TRL takes bf16 here")
def test_a_recipe_for_gpus_can_be_checked_without_one_and_is_refused_when_it_starts(tmp_path, capsys, small_catalogue):
    recipe = [str(ROOT / "recipes/qwen2_5_vl_7b.yaml"), f"run_dir={tmp_path / 'run'}"]
    recipe += [f"data.catalogue={small_catalogue}", "data.held_out=0.2"]
    assert main(["train", *recipe, "--check"]) == 0
    nano = ["model.name_or_path=nano:qwen2_5_vl", "model.init_kwargs={}", "model.processor_kwargs={}"]
    assert main(["train", *recipe, *nano]) == 2
    assert "no GPU is visible here; on a CPU set trainer.use_cpu=true" in capsys.readouterr().err


def test_a_recipe_that_vllm_cannot_follow_is_refused_with_the_other_mistakes(capsys):
    overrides = ["rollout.backend=vllm", "adapter.target_modules=all-linear", "rollout.engine={seed: 3}", "sead=1"]
    assert main(["train", str(ROOT / "recipes/nano.yaml"), *overrides]) == 2
    said = capsys.readouterr().err
    assert "the configuration has 3 problems" in said
    assert "adapter.target_modules: 'all-linear' may reach modules whose adapters vLLM ignores" in said
    assert "rollout.engine.seed: is not set here: set the top-level key seed" in said


def test_a_missing_catalogue_and_a_missing_checkpoint_are_named(tmp_path, capsys):
    recipe = str(ROOT / "recipes/nano.yaml")
    assert main(["train", recipe, f"run_dir={tmp_path / 'run'}", f"data.catalogue={tmp_path / 'nowhere'}"]) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err
    assert main(["evaluate", recipe, "--checkpoint", str(tmp_path), f"run_dir={tmp_path / 'run'}"]) == 2
    assert f"{tmp_path} holds no adapter_config.json" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_explained_without_a_traceback(tmp_path, capsys, small_catalogue):
    arguments = [
        f"run_dir={tmp_path / 'run'}",
        f"data.catalogue={small_catalogue}",
        "model.name_or_path=nobody/nothing",
    ]
    assert main(["train", str(ROOT / "recipes/nano.yaml"), *arguments]) == 2
    said = capsys.readouterr().err
    assert "nobody/nothing" in said
    assert "give a local folder or an embedded model" in said


@pytest.mark.parametrize(
    ("policy", "recbench", "shown"),
    [
        (["--base"], True, "base"),
        (["--checkpoint", "run/checkpoints/checkpoint-5"], True, "checkpoint-5"),
        (["--base"], False, None),
    ],
)
def test_a_recommendation_benchmark_outside_of_a_run_gets_its_own_page(
    tmp_path, monkeypatch, capsys, policy, recbench, shown
):
    def evaluated(config, *, checkpoint, out, workers):
        folder = out / "controls" / ("base" if checkpoint is None else checkpoint.name) / "recbench"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results(cautions=["Read this first."])))
        return out

    monkeypatch.setattr("grpo_mmpc.pipelines.evaluate.run_evaluation", evaluated)
    monkeypatch.setattr("grpo_mmpc.models.adapter_folder.open_checkpoint", lambda checkpoint: None)
    recipes = [str(ROOT / "recipes/nano.yaml"), *[str(ROOT / "recipes/recbench/nano_in_training.yaml")] * recbench]
    assert main(["evaluate", *recipes, *policy, "--out", str(tmp_path / "out")]) == 0
    pages = list((tmp_path / "out").rglob("report.html"))
    said = capsys.readouterr().out
    if shown is None:
        assert (pages, said) == ([], "")
        return
    assert pages == [tmp_path / "out" / "controls" / shown / "recbench" / "report.html"]
    assert "Read this first." in pages[0].read_text("utf-8")
    assert f"recommendation report: {pages[0]}" in said


def test_a_benchmark_that_could_not_be_run_has_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("grpo_mmpc.pipelines.evaluate.run_evaluation", lambda config, *, checkpoint, out, workers: out)
    recipes = [str(ROOT / "recipes/nano.yaml"), str(ROOT / "recipes/recbench/nano_in_training.yaml")]
    assert main(["evaluate", *recipes, "--base", "--out", str(tmp_path / "out")]) == 0
    assert "report" not in capsys.readouterr().out


def test_every_installed_reward_is_listed_with_its_summary_and_arguments(capsys):
    assert main(["rewards", "list", "--verbose"]) == 0
    said = capsys.readouterr().out
    for name in ("bleu", "bertscore", "clip_similarity", "json_format"):
        assert re.search(rf"^{name} +\S", said, re.MULTILINE), name
    assert "bertscore(*, model" in said


def test_links_and_pictures_of_the_readme_exist():
    text = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_an_override_may_be_longer_than_a_file_name():
    specs = [
        {"name": name, "weight": 0.125}
        for name in ("bleu", "rouge_l", "chrf", "token_f1", "jaccard", "length_band", "english_only")
    ]
    override = f"rewards.mix={json.dumps(specs)}"
    assert len(override) > 255
    config = load_recipe(["recipes/nano.yaml", override, "tasks=[image_to_text]"])
    assert [spec.name for spec in config.rewards.mix] == [spec["name"] for spec in specs]


def test_a_file_is_told_from_an_override_also_where_its_path_holds_an_equals_sign(tmp_path):
    path = tmp_path / "seed=1" / "config.yaml"
    assert not is_file(str(path))
    path.parent.mkdir()
    path.write_text("seed: 1")
    assert is_file(str(path))
    assert is_file("recipes/nano.yaml")


@pytest.mark.parametrize(("words", "near"), [(["trian"], "train"), (["data", "valdate", "x"], "validate")])
def test_a_mistyped_command_is_told_the_nearest_one(words, near, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert f"did you mean '{near}'?" in capsys.readouterr().err


def test_only_a_training_is_launched_as_several_processes(tmp_path, monkeypatch, capsys):
    """Each would evaluate everything, and the second one would find the folder taken."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "recipes/nano.yaml", "--base", "--out", str(tmp_path)]) == 2
    assert "start it without accelerate launch or torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["train", "none.yaml"], ["sft", "none.yaml"], ["doctor", "--worst-step"]])
def test_what_trains_may_be_launched_as_several_processes(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "without accelerate launch" not in said and ("none.yaml: no such file" in said or "name one" in said)


def test_each_example_of_a_help_text_begins_a_line(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("grpo-mmpc score --") for line in said) == 3


def test_an_example_in_the_help_stays_in_one_piece_to_be_copied(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["sft", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert "  grpo-mmpc sft recipes/nano.yaml run_dir=runs/nano_sft trainer.max_steps=20" in lines
    assert "  grpo-mmpc train recipes/nano.yaml model.init_from=runs/nano_sft/checkpoints/checkpoint-20" in lines


def test_a_checkpoint_that_is_not_there_is_refused_before_the_recipe_is_checked(tmp_path, capsys):
    assert main(["evaluate", "recipes/nano.yaml", "--checkpoint", str(tmp_path / "checkpoint-80")]) == 2
    said = capsys.readouterr().err
    assert "checkpoint-80" in said and "checking the recipe" not in said


def test_closed_streams_are_no_reason_to_fail():
    command = f"{shlex.quote(sys.executable)} -m grpo_mmpc rewards list"
    for closed in (">&-", "2>&-", ">&- 2>&- <&-"):
        assert subprocess.run(["bash", "-c", f"{command} {closed}"], capture_output=True, check=False).returncode == 0


def test_the_report_of_an_ablation_is_asked_of_the_command_that_writes_it(tmp_path, capsys):
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "ablation.yaml").write_text("name: losses\n")
    assert main(["report", str(tmp_path)]) == 2
    assert "is an ablation's folder; its page is written by grpo-mmpc ablate" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"evaluations", "ablation.yaml"}
