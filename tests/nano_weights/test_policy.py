"""The embedded policies: real classes, cheap prompts, the behaviour needed of a base model."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grpo_mmpc.nano.drawing import draw
from grpo_mmpc.nano.texts import read_attributes
from grpo_mmpc.nano.vocabulary import KINDS
from grpo_mmpc.tasks import IMAGE_TO_TEXT, TASKS, TEXT_TO_IMAGE, Task
from grpo_mmpc.utils.model_paths import resolve_model
from nano_weights import policy
from nano_weights.build import ASSETS
from nano_weights.policy import FAMILIES, NUM_IMAGE_TOKENS, load_policy
from nano_weights.pool import unseen_items
from nano_weights.quality import GIST_OPENINGS, complete

NUM_ITEMS = 45
"""Unseen items behind the behaviour tests: five of each category."""

REAL_CLASSES = {
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
    "gemma3": ("Gemma3ForConditionalGeneration", "Gemma3Processor"),
}
IMAGE_TOKENS = {"qwen2_5_vl": "<|image_pad|>", "gemma3": "<image_soft_token>"}
families = pytest.mark.parametrize("family", FAMILIES)
both_tasks = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@cache
def _loaded(family: str) -> tuple[Any, Any]:
    folder = resolve_model(f"nano:{family}")
    return load_policy(folder)


@cache
def _completions(family: str, task_name: str, seller_style: bool) -> list[str]:
    items = unseen_items(num_items=NUM_ITEMS)
    shown: dict[str, Any] = (
        {"images": [draw(item.attributes, jitter=item.jitter) for item in items]}
        if task_name == "image_to_text"
        else {"titles": [item.title for item in items]}
    )
    return complete(*_loaded(family), TASKS[task_name], **shown, seller_style=seller_style)


def _recall(completions: list[str], task: Task, kind: str) -> float:
    truths = [item.attributes for item in unseen_items(num_items=NUM_ITEMS)]
    hits = [
        read_attributes(task.parse(text).prediction or "").get(kind) == truth[kind]
        for truth, text in zip(truths, completions, strict=True)
        if kind in truth
    ]
    return sum(hits) / len(hits)


@families
def test_a_nano_policy_has_the_classes_of_the_real_family(family: str) -> None:
    model, processor = _loaded(family)
    assert (type(model).__name__, type(processor).__name__) == REAL_CLASSES[family]
    assert 2e6 < model.num_parameters() < 4e6


@families
@both_tasks
def test_each_instruction_is_one_token_so_the_assets_match_the_prompts(family: str, task: Task) -> None:
    """A changed instruction must fail here: rebuild the assets with ``make nano``."""
    tokenizer = _loaded(family)[1].tokenizer
    assert len(tokenizer.encode(task.instruction, add_special_tokens=False)) == 1


@families
def test_an_image_prompt_costs_nine_image_tokens_and_little_else(family: str) -> None:
    _, processor = _loaded(family)
    prompt = processor.apply_chat_template(IMAGE_TO_TEXT.messages(), add_generation_prompt=True, tokenize=False)
    ids = processor(text=[prompt], images=[Image.new("RGB", (84, 84))])["input_ids"][0]
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKENS[family])
    assert list(ids).count(image_id) == NUM_IMAGE_TOKENS
    # Qwen2.5-VL: <|im_start|> user \n <|vision_start|> 9 images <|vision_end|> instruction
    # <|im_end|> \n <|im_start|> assistant \n = 3 + 1 + 9 + 1 + 1 + 2 + 3 = 20.
    # Gemma-3: <bos> <start_of_turn> user \n\n\n <start_of_image> 9 images <end_of_image> \n\n
    # instruction <end_of_turn> \n <start_of_turn> model \n = 4 + 1 + 9 + 1 + 1 + 1 + 2 + 3 = 22.
    assert len(ids) == {"qwen2_5_vl": 20, "gemma3": 22}[family]


@families
@both_tasks
def test_begin_of_sequence_occurs_once_where_the_family_has_one(family: str, task: Task) -> None:
    """With the chat template's text and default tokenizer settings, as TRL and vLLM tokenize it."""
    _, processor = _loaded(family)
    title = "Nordvik Kettle" if task is TEXT_TO_IMAGE else None
    prompt = processor.apply_chat_template(task.messages(title=title), add_generation_prompt=True, tokenize=False)
    pictures = {"images": [Image.new("RGB", (84, 84))]} if task is IMAGE_TO_TEXT else {}
    ids = list(processor(text=[prompt], **pictures)["input_ids"][0])
    if family == "gemma3":
        assert ids.count(processor.tokenizer.bos_token_id) == 1
        assert ids[0] == processor.tokenizer.bos_token_id
    else:
        assert processor.tokenizer.bos_token_id is None


@families
@pytest.mark.parametrize("size", [(640, 480), (33, 500), (1, 1), (84, 84), (1200, 2000)])
def test_a_photo_of_any_size_gets_an_answer(family: str, size: tuple[int, int]) -> None:
    text = complete(*_loaded(family), IMAGE_TO_TEXT, images=[Image.new("RGB", size, (90, 60, 200))])
    assert IMAGE_TO_TEXT.parse(text[0]).prediction is not None


def test_gemma_weights_carry_the_names_of_published_checkpoints() -> None:
    """vLLM maps exactly these prefixes; Transformers reads them as well."""
    from safetensors import safe_open

    with safe_open(ASSETS / "gemma3" / "model.safetensors", framework="np") as weights:
        prefixes = {".".join(name.split(".")[:2]) for name in weights.keys()}  # noqa: SIM118  (not a dict)
    assert prefixes == {
        "language_model.model",
        "vision_tower.vision_model",
        "multi_modal_projector.mm_input_projection_weight",
        "multi_modal_projector.mm_soft_emb_norm",
    }


def test_gemma_tokenizes_runs_of_newlines_as_vllm_looks_them_up() -> None:
    vocabulary = _loaded("gemma3")[1].tokenizer.get_vocab()
    assert {"\n", "\n\n", "\n\n\n", "\n\n\n\n"} <= set(vocabulary)


@families
def test_saved_generation_defaults_end_and_pad_but_do_not_sample(family: str) -> None:
    _, processor = _loaded(family)
    stored = json.loads((ASSETS / family / "generation_config.json").read_text(encoding="utf-8"))
    assert stored["eos_token_id"] == processor.tokenizer.eos_token_id
    assert stored["pad_token_id"] == processor.tokenizer.pad_token_id
    assert not {"temperature", "top_p", "top_k", "do_sample"} & set(stored)


@families
@both_tasks
def test_greedy_answers_are_json_and_keep_the_gist(family: str, task: Task) -> None:
    completions = _completions(family, task.name, False)
    assert all(task.parse(text).format == "json" for text in completions)
    assert _recall(completions, task, "type") >= 0.95
    openings = [(task.parse(text).prediction or "").split()[0] for text in completions]
    assert sum(opening in GIST_OPENINGS[task.name] for opening in openings) >= 0.9 * NUM_ITEMS


@families
@both_tasks
def test_colour_is_right_wherever_the_greedy_answer_names_one(family: str, task: Task) -> None:
    truths = [item.attributes for item in unseen_items(num_items=NUM_ITEMS)]
    said = [read_attributes(task.parse(text).prediction or "") for text in _completions(family, task.name, False)]
    named = [(found["color"], truth["color"]) for found, truth in zip(said, truths, strict=True) if "color" in found]
    assert len(named) >= 0.7 * NUM_ITEMS
    assert sum(a == b for a, b in named) >= 0.95 * len(named)


@families
@both_tasks
@pytest.mark.parametrize("kind", KINDS)
def test_every_attribute_can_be_said_in_the_seller_style(family: str, task: Task, kind: str) -> None:
    """GRPO builds on this: kept from opening with a gist, the base reads every attribute right."""
    assert _recall(_completions(family, task.name, True), task, kind) >= 0.9


@families
def test_weights_are_stored_in_half_precision(family: str) -> None:
    config = json.loads((ASSETS / family / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float16"
    model, _ = _loaded(family)
    weights = (Path(ASSETS) / family / "model.safetensors").stat().st_size
    # two bytes a parameter; the file's header takes some kilobytes
    assert weights < 2 * model.num_parameters() + 100_000


def test_all_nano_assets_together_stay_under_25_mb() -> None:
    files = [file for file in ASSETS.rglob("*") if file.is_file()]
    assert {file.parts[len(ASSETS.parts)] for file in files} == {"qwen2_5_vl", "gemma3", "clip"}
    assert sum(file.stat().st_size for file in files) < 25_000_000


@families
def test_only_vision_and_projector_weights_are_outside_the_language_layers(family: str) -> None:
    model, _ = _loaded(family)
    outside = {name.split(".")[1] for name, _ in model.named_parameters() if not policy.language_layers_only(name)}
    assert outside == ({"visual"} if family == "qwen2_5_vl" else {"vision_tower", "multi_modal_projector"})
