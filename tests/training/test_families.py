"""Families of models that a recipe may name: what each comes to on images of several shapes.

The models are tiny and random, of the real architecture; each is trained for two steps, with a
greedy evaluation before and after, as ``grpo-mmpc train`` does it.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from grpo_mmpc.cli import main
from grpo_mmpc.config.sections import ModelSection
from grpo_mmpc.models.families import image_token_id, num_image_features
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rewards import mix
from grpo_mmpc.training import trainer as trainers
from grpo_mmpc.training import unpadded
from tests.training.tiny_families import FAMILIES, write_model

SHAPES = [(84, 84), (60, 120), (200, 60), (150, 150)]
REWARD = Path(__file__).parent / "counting_rewards.py"
VLLM_NEEDS = {
    "gemma3": {"image_attention": "causal"},
    "gemma4_large": {"image_attention": "causal"},
    "qwen3_5": {"init_kwargs": {"dtype": "bfloat16"}},  # the only precision of its linear attention in vLLM on a CPU
}
"""What a recipe says of a model for a vLLM on a CPU."""
ENGINE_NEEDS = {"qwen3_5": {"enable_prefix_caching": False}}  # which wants chunked prefill, off on a CPU
TRAINED = sorted(set(FAMILIES) - {"llava_onevision"})
QUICK = {"qwen3_vl", "gemma4", "smolvlm", "llava_next", "internvl"}
"""Beside the two of the nano policies, which other tests train."""


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 items whose images have four shapes and whose titles have four lengths."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "images").mkdir()
    lines = []
    for i in range(24):
        image = f"images/{i}.png"
        Image.effect_noise(SHAPES[i % 4], 20 + 3 * i).convert("RGB").save(folder / image)
        item = {"item_id": f"shop-{i}", "category": "all", "title": f"no. {i}" + " mug" * (i % 4), "image": image}
        lines.append(json.dumps(item) + "\n")
    (folder / "items.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def recipe(make_config, shop, tmp_path, monkeypatch):
    """A function that writes the recipe of a family."""

    def write(family: str, *, rollout: dict | None = None, model: dict | None = None, **trainer) -> Path:
        if family == "smolvlm":  # its processor wants the package, for the time stamps of videos alone
            monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
        config = make_config(
            model={"name_or_path": str(write_model(family, tmp_path / family)), **(model or {})},
            rollout=rollout or {},
            adapter={"target_modules": r".*(language_model|text_model).*\.(q|k|v|o|gate|up|down)_proj"},
            data={"catalogue": str(shop), "held_out": 0.25},
            rewards={"mix": [{"name": f"{REWARD}:digest", "weight": 1.0}]},
            trainer={"save_strategy": "steps", "save_steps": 2, "max_completion_length": 12} | trainer,
            evaluation={"tasks": ["image_to_text"]},
        )
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
        return path

    return write


@pytest.fixture
def any_text_is_an_answer(monkeypatch):
    """A random model writes no JSON: any text is an answer here, so that rewards differ."""

    def read(self, completions, tasks):
        told = {"completions": list(completions), "predictions": list(completions)}
        return told | {"formats": ["json"] * len(tasks), "targets": ["text"] * len(tasks)}

    monkeypatch.setattr(mix.RewardMix, "_read", read)


@pytest.mark.usefixtures("any_text_is_an_answer")
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in TRAINED]
)
def test_a_family_is_trained_on_the_prompts_it_is_asked_and_answers_greedily(
    family, recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(unpadded, "tolerance_of", lambda dtype: {"float32": 1e-5}[dtype])
    compared, compare = [], trainers.check_against_unpadded
    monkeypatch.setattr(trainers, "check_against_unpadded", lambda *a, **k: compared.append(compare(*a, **k)))
    assert main(["train", str(recipe(family))]) == 0
    assert compared == [None]
    run = tmp_path / "run"
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"next: grpo-mmpc compare {run}/evaluations/base")
    weights = load_file(run / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    still = [name for name, weight in weights.items() if "lora_B" in name and not torch.any(weight)]
    assert weights and still == []


@pytest.mark.slow
@pytest.mark.usefixtures("any_text_is_an_answer")
@pytest.mark.parametrize("family", TRAINED)
def test_a_vllm_of_a_family_is_the_policy_before_and_after_an_update(family, recipe, tmp_path):
    pytest.importorskip("vllm")
    path = recipe(
        family,
        rollout={"backend": "vllm", "engine": {"max_model_len": 512, **ENGINE_NEEDS.get(family, {})}},
        model=VLLM_NEEDS.get(family),
        learning_rate=1e-2,
    )
    assert main(["train", str(path)]) == 0
    reports = [json.loads(line) for line in (tmp_path / "run" / "parity.jsonl").read_text().splitlines()]
    assert {tuple(report["problems"]) for report in reports} == {()}
    if family != "qwen3_5":
        assert max(report["max_difference"] for report in reports) < 1e-4
        assert reports[1]["mean_difference_to_base"] > 10 * reports[1]["mean_difference"]


def test_gemma_4_with_padding_asked_for_is_refused_with_what_to_set(recipe, capsys):
    padding = {"processor_kwargs": {"padding": True}}
    assert main(["train", str(recipe("gemma4", chat_template_kwargs=padding))]) == 2
    error = capsys.readouterr().err
    assert "Gemma4Processor gives the prompt image_to_text:shop-" in error
    assert "trainer.chat_template_kwargs={processor_kwargs: {padding: false}}" in error


def test_llava_onevision_is_refused_before_its_model_loads(recipe, capsys):
    assert main(["train", str(recipe("llava_onevision"))]) == 2
    assert "LlavaOnevisionProcessor returns batch_num_images, which TRL does not pass on" in capsys.readouterr().err


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_image_features_are_counted_as_the_processor_does_or_not_at_all(family, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    folder = write_model(family, tmp_path)
    processor = load_processor(ModelSection(name_or_path=str(folder)))
    content = [{"type": "image", "image": Image.new("RGB", (200, 60))}, {"type": "text", "text": "title?"}]
    inputs = processor.apply_chat_template(
        [[{"role": "user", "content": content}]], tokenize=True, return_dict=True, return_tensors="pt"
    )
    tokens = int((inputs["input_ids"] == image_token_id(FAMILIES[family]()[0])).sum())
    assert tokens > 0
    is_counted = family.startswith("qwen") or family == "gemma3"
    assert num_image_features(inputs, processor) == (tokens if is_counted else None)
