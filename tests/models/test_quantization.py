"""A base model in 4 bits: what is quantised, how far that moves it, and training on it."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grpo_mmpc.config import ModelSection
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.rollout.log_probabilities import log_probabilities
from grpo_mmpc.rollout.parity_check import MEAN_TOLERANCE
from grpo_mmpc.rollout.prompts import model_inputs
from tests.rollout.vllm_policies import prompt_rows
from tests.training.tiny_families import write_model

pytestmark = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install 'grpo-mmpc[quantization]'"
)

REWARDS = Path(__file__).parents[1] / "training" / "counting_rewards.py"
NF4 = {"quantization": "nf4", "init_kwargs": {"dtype": "float32"}}


def quantised(model) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}


@pytest.mark.parametrize(
    ("family", "language"),
    [("qwen3_vl", "model.language_model."), ("smolvlm", "model.text_model."), ("gemma4", "model.language_model.")],
)
def test_every_linear_layer_of_the_language_model_is_quantised_and_no_other(family, language, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    source = ModelSection(name_or_path=str(write_model(family, tmp_path)))
    linear = {name for name, m in load_policy(source).named_modules() if isinstance(m, torch.nn.Linear)}
    model = load_policy(source.model_copy(update=NF4))
    assert quantised(model) == {name for name in linear if name.startswith(language)}
    assert {name for name in linear if not name.startswith(language)}, "a tower and a head have layers too"


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])
@pytest.mark.slow
def test_a_policy_in_4_bits_is_near_its_base_on_what_the_base_samples(architecture, tmp_path):
    """What the tolerance of the parity check rests on: engines serve, and sample from, the base in
    half precision."""
    plain = ModelSection(name_or_path=f"nano:{architecture}", init_kwargs={"dtype": "bfloat16"})
    processor = load_processor(plain)
    base, policy = load_policy(plain), load_policy(plain.model_copy(update={"quantization": "nf4"}))
    differences: list[float] = []
    torch.manual_seed(0)
    for row in prompt_rows(tmp_path):
        inputs = model_inputs([row], processor, device="cpu")
        inputs |= {name: tensor.bfloat16() for name, tensor in inputs.items() if tensor.is_floating_point()}
        sampled = base.generate(**inputs, max_new_tokens=32, do_sample=True, top_k=0, use_cache=True)
        ids = sampled[0, inputs["input_ids"].shape[1] :].tolist()
        a, b = (log_probabilities(model, processor, row, ids, suppressed_token_ids=()) for model in (base, policy))
        differences += [abs(x - y) for x, y in zip(a, b, strict=True)]
    mean = sum(differences) / len(differences)
    print(f"{architecture}: mean {mean:.4f}, max {max(differences):.3f}, {len(differences)} tokens")
    assert 1e-3 < mean < MEAN_TOLERANCE["nf4"]


def test_an_adapter_is_trained_on_a_base_in_4_bits_and_evaluated_between_steps(make_config):
    config = make_config(
        model=NF4,
        rewards={"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]},
        trainer={"save_strategy": "steps", "save_steps": 1, "max_steps": 2},
    )
    assert run_training(config) == 0
    checkpoint = Path(config.run_dir) / "checkpoints" / "checkpoint-2"
    weights = load_file(checkpoint / "adapter_model.safetensors")
    still = [name for name, weight in weights.items() if "lora_B" in name and not torch.any(weight)]
    assert weights and still == []
    assert quantised(load_policy(config.model, adapter=checkpoint))


@pytest.mark.slow
def test_a_vllm_of_the_base_as_it_is_passes_the_parity_check_and_is_corrected_for(make_config):
    pytest.importorskip("vllm")
    config = make_config(
        model=NF4,
        rewards={"mix": [{"name": f"{REWARDS}:digest", "weight": 1.0}]},
        rollout={"backend": "vllm", "engine": {"max_model_len": 160}},
        evaluation={"before": False, "checkpoints": False},
    )
    assert run_training(config) == 0
    reports = [json.loads(line) for line in (Path(config.run_dir) / "parity.jsonl").read_text().splitlines()]
    assert {report["dtype"] for report in reports} == {"nf4"}
    assert all(report["problems"] == [] for report in reports)
    assert all(1e-3 < report["mean_difference"] < MEAN_TOLERANCE["nf4"] for report in reports)
    steps = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    assert all(step["sampling/masked_fraction"] < 0.1 for step in steps)


def test_two_ways_to_quantise_are_refused():
    both = "model.init_kwargs.quantization_config={load_in_4bit: true}"
    with pytest.raises(ConfigError, match=r"is set beside model\.init_kwargs\.quantization_config; remove one"):
        load_recipe(["recipes/nano.yaml", "model.quantization=nf4", both])
