"""Prompts that a trainer makes together are those that the model is asked one by one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_mmpc.config.sections import ModelSection
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout.trainer_prompts import check_trainer_prompts
from grpo_mmpc.training.trl_seams import forwarded_inputs
from grpo_mmpc.types import PromptRow
from tests.rollout.test_set_aside import image_row, title_row


@pytest.fixture(scope="module", params=["qwen2_5_vl", "gemma3"])
def processor(request: pytest.FixtureRequest) -> Any:
    return load_processor(ModelSection(name_or_path=f"nano:{request.param}"))


@pytest.fixture
def rows(tmp_path: Path) -> list[PromptRow]:
    images = [image_row(tmp_path, name, size) for name, size in (("a", (80, 80)), ("b", (120, 60)), ("c", (2000, 4)))]
    return [*images, title_row("short", "a mug"), title_row("long", "a large red mug with a blue lid")]


def changed(processor: Any, monkeypatch: pytest.MonkeyPatch, change: Any) -> Any:
    render = processor.apply_chat_template
    monkeypatch.setattr(processor, "apply_chat_template", lambda *a, **k: change(render, *a, **k))
    return processor


def test_families_that_ship_are_trained_on_the_prompts_that_are_asked(processor: Any, rows: list[PromptRow]) -> None:
    check_trainer_prompts(rows, processor, forwarded=forwarded_inputs())


def test_a_processor_that_pads_by_default_is_refused_with_what_to_set(
    processor: Any, rows: list[PromptRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma-4's does: its pads became tokens of the prompt."""

    def pads(render: Any, *args: Any, **kwargs: Any) -> Any:
        return render(*args, **{"processor_kwargs": {"padding": True}, **kwargs})

    with pytest.raises(TrainingError, match=r"it pads.*chat_template_kwargs=\{processor_kwargs: \{padding: false\}\}"):
        check_trainer_prompts(rows, changed(processor, monkeypatch, pads), forwarded=forwarded_inputs())


def test_a_tensor_that_the_trainer_does_not_pass_on_is_named(
    processor: Any, rows: list[PromptRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaVA-OneVision's ``batch_num_images`` ended in a traceback at the first step."""

    def counts(render: Any, *args: Any, **kwargs: Any) -> Any:
        encoded = render(*args, **kwargs)
        encoded["batch_num_images"] = torch.ones(1)
        return encoded

    with pytest.raises(TrainingError, match="returns batch_num_images, which TRL does not pass on"):
        check_trainer_prompts(rows, changed(processor, monkeypatch, counts), forwarded=forwarded_inputs())


def test_a_processor_that_cannot_make_lists_is_refused_in_words(
    processor: Any, rows: list[PromptRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tensors(render: Any, *args: Any, **kwargs: Any) -> Any:
        return render(*args, **{"return_tensors": "pt", **kwargs})

    with pytest.raises(TrainingError, match="does not make prompts as TRL asks"):
        check_trainer_prompts(rows, changed(processor, monkeypatch, tensors), forwarded=forwarded_inputs())


def test_rows_that_are_all_refused_are_an_error_with_the_reason(processor: Any, tmp_path: Path) -> None:
    gone = image_row(tmp_path, "gone", (80, 80))
    (tmp_path / "gone.png").unlink()
    with pytest.raises(TrainingError, match=r"none of 1 prompts can be trained on: .*gone\.png"):
        check_trainer_prompts([gone], processor, forwarded=forwarded_inputs())


def test_no_prompts_are_nothing_to_refuse(processor: Any) -> None:
    check_trainer_prompts([], processor, forwarded=forwarded_inputs())
