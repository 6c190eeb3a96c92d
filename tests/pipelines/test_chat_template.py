"""Whoever asks a policy asks what training asked: ``trainer.chat_template_kwargs`` hold for all."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer, GenerationMixin

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.completion.service import CompletionService
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.recorded import load_recorded_policy
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.pipelines.evaluate import run_evaluation
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.utils.model_paths import resolve_model

THINKS = "{%- if enable_thinking is not defined or enable_thinking -%}{{ 'think first' }}{%- endif -%}"
NO_THINKING = {"enable_thinking": False}
REWARD = f"{Path(__file__).parents[1] / 'training/counting_rewards.py'}:digest"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory) -> Path:
    """A policy that is told to think first unless its chat template is given another word."""
    folder = Path(shutil.copytree(resolve_model("nano:qwen2_5_vl"), tmp_path_factory.mktemp("model") / "thinker"))
    with (folder / "chat_template.jinja").open("a") as template:
        template.write(THINKS)
    return folder


@pytest.fixture
def asked(thinker, monkeypatch) -> list[str]:
    """The end of every prompt that a model generates from, after the user's turn."""
    ends: list[str] = []
    generate, tokenizer = GenerationMixin.generate, AutoTokenizer.from_pretrained(thinker)

    def spy(self: Any, *args: Any, **inputs: Any) -> Any:
        ends.extend(text.rpartition("<|im_start|>")[2] for text in tokenizer.batch_decode(inputs["input_ids"]))
        return generate(self, *args, **inputs)

    monkeypatch.setattr(GenerationMixin, "generate", spy)
    return ends


@pytest.fixture(scope="module")
def config(config_in, thinker, tmp_path_factory) -> RunConfig:
    return config_in(
        tmp_path_factory.mktemp("thinks") / "run",
        model={"name_or_path": str(thinker)},
        rewards={"mix": [{"name": REWARD, "weight": 1.0}]},
        trainer={"chat_template_kwargs": NO_THINKING, "max_steps": 1, "save_strategy": "steps", "save_steps": 1},
        evaluation={"max_items": 2, "checkpoints": False},
    )


@pytest.fixture
def checkpoint(config) -> Path:
    folder = Path(config.run_dir) / "checkpoints/checkpoint-1"
    if not folder.is_dir():
        assert run_training(config) == 0
    return folder


@pytest.fixture
def shop(small_catalogue, tmp_path) -> Path:
    """Two items without a title."""
    folder = Path(shutil.copytree(small_catalogue, tmp_path / "shop"))
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()][:2]
    (folder / "items.jsonl").write_text("".join(json.dumps(row | {"title": None}) + "\n" for row in rows))
    return folder


def test_training_and_its_evaluations_ask_with_the_options(config, asked):
    shutil.rmtree(config.run_dir, ignore_errors=True)
    assert run_training(config) == 0
    assert len(asked) > 8 and set(asked) == {"assistant\n"}


def test_an_evaluation_with_the_recipe_asks_the_same_and_another_recipe_does_not_count_as_it(
    config, checkpoint, asked, tmp_path
):
    def evaluate(config: RunConfig) -> list[str]:
        asked.clear()
        run_evaluation(config, checkpoint=checkpoint, out=tmp_path / "out")
        return list(asked)

    assert set(evaluate(config)) == {"assistant\n"}
    assert evaluate(config) == []
    other = config.model_copy(update={"trainer": {**config.trainer, "chat_template_kwargs": {}}})
    assert set(evaluate(other)) == {"assistant\nthink first"}


@pytest.fixture(params=["complete", "serve"])
def command(request, shop, tmp_path, monkeypatch) -> Iterator[list[str]]:
    """A command that asks a checkpoint of a run, whose recipe it is not given."""
    if request.param == "complete":
        return ["complete", str(shop), "--out", str(tmp_path / "out"), "--checkpoint"]
    item = next(load_catalogue(shop, keep_titled=True).records())

    def answer(service: Any) -> None:
        service._answer([(shop, item)])
        raise KeyboardInterrupt

    class Service(CompletionService):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.run = partial(answer, self)

    module = "grpo_mmpc.pipelines.serve_completion"
    monkeypatch.setattr(f"{module}.CompletionService", Service)
    monkeypatch.setattr(f"{module}.application", lambda service: None)
    monkeypatch.setattr(f"{module}.listening", lambda *_, **__: nullcontext())
    return ["serve", "--complete", "--port", "0", "--checkpoint"]


def test_a_checkpoint_is_asked_what_its_run_trained_it_on(command, checkpoint, asked):
    assert main([*command, str(checkpoint)]) in (0, 130)
    assert asked and set(asked) == {"assistant\n"}


@pytest.mark.parametrize("merged", [False, True])
def test_the_code_of_an_exported_policy_asks_the_same_and_so_does_its_server(checkpoint, asked, tmp_path, merged):
    out = tmp_path / "exported"
    assert main(["export", str(checkpoint.parents[1]), "--to", str(out), *["--merged"] * merged]) == 0
    card = (out / "README.md").read_text("utf-8")
    asked.clear()
    names: dict[str, Any] = {"photo": Image.new("RGB", (84, 84), "red")}
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(code.replace('"photo.jpg"', "photo"), names)
    assert asked == ["assistant\n"]
    assert """--default-chat-template-kwargs '{"enable_thinking": false}'""" in card


def test_an_identity_knows_the_options_and_is_what_it_was_without_any(config, make_config):
    def identity(trainer: dict[str, Any]) -> str:
        return policy_identity(make_config(trainer=trainer), adapter=None)

    plain = identity({})
    assert identity({"chat_template_kwargs": None}) == identity({"chat_template_kwargs": {}}) == plain
    assert len({plain, *(identity({"chat_template_kwargs": {"enable_thinking": one}}) for one in (True, False))}) == 3


def test_what_a_run_folder_says_of_prompts_is_kept_unless_it_is_a_template_or_a_place(config, tmp_path):
    template = {"reasoning_effort": "low", "chat_template": "{{ messages }}", "videos": "http://elsewhere/a.mp4"}
    template |= NO_THINKING | {"processor_kwargs": {"padding": False}, "documents": [{"text": "a"}]}
    processing = {"size": {"longest_edge": 512}, "backend": "pil", "images_kwargs": {"device": "http://elsewhere"}}
    recorded = config.model_copy(
        update={
            "trainer": {"chat_template_kwargs": template},
            "model": config.model.model_copy(update={"processor_kwargs": processing}),
        }
    )
    (tmp_path / "config.yaml").write_text(recorded.to_yaml())
    kept, left = load_recorded_policy(tmp_path / "config.yaml")
    assert kept.chat_template_kwargs == NO_THINKING | {
        "reasoning_effort": "low",
        "processor_kwargs": {"padding": False},
    }
    assert kept.model.processor_kwargs == {"size": {"longest_edge": 512}, "backend": "pil"}
    names = ("chat_template", "videos", "documents")
    assert left == ["model.processor_kwargs.images_kwargs", *(f"trainer.chat_template_kwargs.{name}" for name in names)]


def test_servers_are_asked_with_the_options_of_the_template_and_without_those_of_the_processor(
    make_config, monkeypatch
):
    from grpo_mmpc.rollout.vllm import start

    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "grpo_mmpc.rollout.vllm.servers.ServerVLLM",
        lambda urls, **options: seen.update(options) or SimpleNamespace(image_attention="causal"),
    )
    monkeypatch.setattr("grpo_mmpc.rollout.vllm.server_facts.expected_engine", lambda config, **_: None)
    monkeypatch.setattr(start, "image_attention", lambda section, processor: None)
    config = make_config(
        rollout={"backend": "vllm", "mode": "server", "servers": ["http://a:1"]},
        trainer={"chat_template_kwargs": NO_THINKING | {"processor_kwargs": {"padding": False}}},
    )
    start.start_engine(config, None, suppressed=[], max_tokens=1)
    assert seen["chat_template_kwargs"] == NO_THINKING
