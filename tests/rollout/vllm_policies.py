"""Nano policies with a random adapter, beside a vLLM of the same base."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from grpo_mmpc.config import RunConfig
from grpo_mmpc.models.adapter import Adapter, read_adapter
from grpo_mmpc.models.families import suppressed_token_ids
from grpo_mmpc.nano.drawing import draw
from grpo_mmpc.nano.items import sample_items
from grpo_mmpc.rollout.vllm.arguments import engine_arguments
from grpo_mmpc.rollout.vllm.engine import LocalVLLM
from grpo_mmpc.tasks import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from grpo_mmpc.types import PromptRow

TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
SIZES = ((84, 84), (300, 200), (60, 140), (84, 84), (500, 500), (33, 91))
"""Pixels of the images: upright, lying, larger and smaller than what the policies were trained
on."""


@dataclass(kw_only=True)
class Bench:
    """A policy, its engine and prompts of both tasks."""

    config: RunConfig
    model: Any
    processor: Any
    engine: LocalVLLM
    suppressed: list[int]
    rows: list[PromptRow]


def vllm_config(architecture: str, folder: Path, **model: Any) -> RunConfig:
    """A recipe whose rollouts come from vLLM; Gemma-3 with the mask that vLLM has on a CPU."""
    return RunConfig.model_validate(
        {
            "run_dir": str(folder / "run"),
            "model": {
                "name_or_path": f"nano:{architecture}",
                "init_kwargs": {"dtype": "float32"},
                **({"image_attention": "causal"} if architecture == "gemma3" else {}),
                **model,
            },
            "adapter": {"r": 4, "lora_alpha": 8, "target_modules": TARGETS},
            "data": {"catalogue": "nano:catalogue"},
            "rewards": {"mix": [{"name": "bleu", "weight": 1.0}]},
            "rollout": {"backend": "vllm", "engine": {"max_model_len": 160}},
        }
    )


def prompt_rows(folder: Path) -> list[PromptRow]:
    """Prompts of both tasks, with images of several sizes."""
    rows = []
    for number, (item, size) in enumerate(zip(sample_items(num_items=len(SIZES), seed=5), SIZES, strict=True)):
        path = folder / f"{number}.png"
        draw(item.attributes, jitter=item.jitter).resize(size, Image.Resampling.BICUBIC).save(path)
        for task in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
            shows_image = task is IMAGE_TO_TEXT
            rows.append(
                PromptRow(
                    prompt_id=f"{task.name}:{item.item_id}",
                    item_id=item.item_id,
                    category=item.category,
                    task=task.name,
                    messages=task.messages(title=None if shows_image else item.title),
                    prompt_image_path=str(path) if shows_image else None,
                    image_path=str(path),
                    reference=item.title if shows_image else None,
                    title=item.title,
                )
            )
    return rows


def with_random_adapter(model: Any, *, seed: int) -> Any:
    """A PeftModel whose adapter changes what the policy says."""
    import torch
    from peft import LoraConfig, get_peft_model

    peft_model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM"))
    randomise(peft_model, seed=seed)
    assert isinstance(peft_model, torch.nn.Module)
    return peft_model.eval()


def randomise(model: Any, *, seed: int) -> None:
    """Draw every adapter weight anew."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.15, generator=generator)


def make_bench(architecture: str, folder: Path) -> Bench:
    """Everything for one architecture; close ``engine`` afterwards."""
    from grpo_mmpc.models.policy import load_policy
    from grpo_mmpc.models.processor import load_processor

    config = vllm_config(architecture, folder)
    processor = load_processor(config.model)
    model = with_random_adapter(load_policy(config.model), seed=1)
    suppressed = suppressed_token_ids(processor, model.config)
    engine = LocalVLLM(engine_arguments(config), processor, suppressed_token_ids=suppressed)
    return Bench(
        config=config, model=model, processor=processor, engine=engine, suppressed=suppressed, rows=prompt_rows(folder)
    )


def named(bench: Bench, name: str) -> Adapter:
    """The bench's adapter as bytes."""
    return read_adapter(bench.model, name=name)


def rescaled(adapter: Adapter, *, name: str, factor: float) -> Adapter:
    """The same tensors with another ``lora_alpha``: another adapter."""
    config = json.loads(adapter.config)
    config["lora_alpha"] *= factor
    return replace(adapter, name=name, config=json.dumps(config).encode())
