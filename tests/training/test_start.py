"""A run goes on from an adapter: held to the recipe before a model loads, trained on as it is, and
known by its content."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.errors import ConfigError, TrainingError
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.training.session import TrainingSession

TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
BOTH = pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])


@pytest.fixture(scope="session")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter that changes its model, by architecture."""
    from peft import LoraConfig, get_peft_model

    from grpo_mmpc.config.sections import ModelSection

    folders = {}
    for name in ("qwen2_5_vl", "gemma3"):
        section = ModelSection(name_or_path=f"nano:{name}", init_kwargs={"dtype": "float32"})
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
        model = get_peft_model(load_policy(section), lora)
        torch.manual_seed(0)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.05)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(str(folders[name]))
    return folders


@pytest.fixture
def write(make_config, tmp_path):
    """Write a recipe that goes on from an adapter; returns the words of the command line."""

    def recipe(start: Path, *overrides: str, architecture: str = "qwen2_5_vl", adapter: Any = None) -> list[str]:
        content = make_config(architecture, model={"init_from": str(start)}).model_dump(mode="json")
        content["adapter"] = adapter
        if adapter is None:
            del content["adapter"]
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return [str(path), *overrides]

    return recipe


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@BOTH
def test_what_the_adapter_section_leaves_out_is_taken_from_the_adapter(starts, write, architecture):
    config = load_recipe(write(starts[architecture], architecture=architecture))
    options = config.adapter.options()
    assert (options["r"], options["lora_alpha"], options["lora_dropout"]) == (4, 8, 0.0)
    modules = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in weights(starts[architecture])}
    assert set(options["target_modules"]) == modules
    again = load_recipe(
        write(starts[architecture], "adapter.lora_dropout=0.1", adapter=options, architecture=architecture)
    )
    assert again.adapter.options() == options | {"lora_dropout": 0.1}


def test_every_weight_is_not_trained_from_an_adapter(starts, write):
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(starts["qwen2_5_vl"], "adapter=null"))
    assert any("adapter: null trains every weight" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("adapter", "key", "message"),
    [
        ({"r": 8}, "adapter.r", "is 8, and 4 in"),
        ({"lora_alpha": 4}, "adapter.lora_alpha", "is 4, and 8 in"),
        ({"use_rslora": True}, "adapter.use_rslora", "is true, and false in"),
        ({"target_modules": r".*language_model.*\.(q|v)_proj"}, "adapter.target_modules", "gives 16 tensors"),
    ],
    ids=str,
)
def test_another_lora_than_the_starts_is_refused_by_its_key(starts, write, adapter, key, message):
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(starts["qwen2_5_vl"], adapter=adapter))
    assert len(caught.value.problems) == 1
    assert f"{key}: " in caught.value.problems[0] and message in caught.value.problems[0]


def _rename(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({key.replace("layers", "blocks"): t for key, t in load_file(path).items()}, path)


def _change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "holds no adapter_config.json"),
        (_rename, "its 56 tensors are for modules that the model does not have"),
        (lambda folder: _change(folder, init_lora_weights="pissa"), "init_lora_weights=pissa"),
        (lambda folder: _change(folder, base_model_name_or_path="nano:gemma3"), "which has other weights than"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "cannot be read"),
    ],
    ids=["missing", "other keys", "pissa", "other base", "damaged"],
)
def test_an_adapter_that_is_not_this_models_is_refused_before_a_model_loads(starts, write, tmp_path, harm, message):
    start = Path(shutil.copytree(starts["qwen2_5_vl"], tmp_path / "start"))
    harm(start)
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(start, adapter={"r": 4, "lora_alpha": 8, "target_modules": TARGETS}))
    [problem] = caught.value.problems
    assert "model.init_from: " in problem and message in problem


@pytest.mark.parametrize(("architecture", "task"), [("qwen2_5_vl", "image_to_text"), ("gemma3", "text_to_image")])
def test_the_start_is_trained_on_and_beta_measures_from_it(make_config, starts, architecture, task):
    start = starts[architecture]
    config = make_config(
        architecture,
        model={"init_from": str(start)},
        tasks=[task],
        rewards={"mix": [{"name": "tests/training/counting_rewards.py:digest", "weight": 1.0}]},
        trainer={"beta": 0.1, "max_steps": 2, "save_strategy": "steps", "save_steps": 1},
    )
    Path(config.run_dir).mkdir()
    session = TrainingSession(config, RunData(config))
    named = dict(session.trainer.model.named_parameters())
    live = {key: named[key.replace(".weight", ".default.weight")] for key in weights(start)}
    assert all(torch.equal(live[key], tensor) for key, tensor in weights(start).items())
    session.train(before=None, after_save=None)
    assert all(not torch.equal(live[key], tensor) for key, tensor in weights(start).items())
    reference = {key: named[key.replace(".weight", ".ref.weight")] for key in weights(start)}
    assert all(torch.equal(reference[key], tensor) for key, tensor in weights(start).items())
    rows = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # against the base model it would not be
    assert rows[1]["kl"] > 1e-6
    saved = Path(config.run_dir) / "checkpoints" / "checkpoint-2"
    assert not (saved / "ref").exists()
    assert all(torch.equal(live[key], tensor) for key, tensor in weights(saved).items())


def test_a_run_from_a_start_goes_on_as_if_it_had_not_stopped(config_in, starts, tmp_path):
    def run(name: str, *steps: int) -> dict[str, torch.Tensor]:
        for max_steps in steps:
            config = config_in(
                tmp_path / name,
                model={"init_from": str(starts["qwen2_5_vl"])},
                rewards={"mix": [{"name": "tests/training/counting_rewards.py:digest", "weight": 1.0}]},
                trainer={"beta": 0.1, "max_steps": max_steps, "lr_scheduler_type": "constant"},
            )
            Path(config.run_dir).mkdir(exist_ok=True)
            TrainingSession(config, RunData(config)).train(before=None, after_save=None)
        return weights(tmp_path / name / "checkpoints" / f"checkpoint-{steps[-1]}")

    whole, continued = run("whole", 2), run("continued", 1, 2)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in continued.items())


def test_before_is_the_start_and_another_start_does_not_go_on(make_config, starts, tmp_path):
    start = Path(shutil.copytree(starts["qwen2_5_vl"], tmp_path / "start"))
    config = make_config(
        model={"init_from": str(start)},
        trainer={"max_steps": 1},
        evaluation={"max_items": 3, "renderer": None, "metrics": ["bleu"], "checkpoints": False},
    )
    assert run_training(config) == 0
    run_dir = Path(config.run_dir)
    summaries = {
        name: json.loads((run_dir / "evaluations" / name / "cqbench" / "summary.json").read_text())
        for name in ("base", "final")
    }
    assert summaries["base"]["policy"] == policy_identity(config, adapter=start)
    assert policy_identity(config, adapter=None) not in (summary["policy"] for summary in summaries.values())
    _change(start, lora_alpha=9)
    with pytest.raises(TrainingError, match=r"the adapter in model\.init_from=.* has changed since"):
        run_training(config)
