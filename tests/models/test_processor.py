"""What processors of both families say of images: token ids, numbers of features, attention."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from grpo_mmpc.config import ModelSection
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.families import (
    image_attention,
    image_token_id,
    model_config,
    num_image_features,
    suppressed_token_ids,
)
from grpo_mmpc.models.processor import load_processor
from tests.training.tiny_families import write_model


def test_image_video_and_padding_tokens_are_suppressed_but_not_one_that_ends_a_completion():
    class Tokens(SimpleNamespace):
        def __len__(self) -> int:
            return 100

    config = SimpleNamespace(
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=7,
        vision_end_token_id=None,
        get_text_config=lambda: SimpleNamespace(eos_token_id=[2, 3]),
    )
    for pad, expected in ((4, [4, 5, 6, 7]), (3, [5, 6, 7]), (2, [5, 6, 7])):
        processor = SimpleNamespace(tokenizer=Tokens(eos_token_id=2, pad_token_id=pad))
        assert suppressed_token_ids(processor, config) == expected


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("size", [(84, 84), (300, 200), (60, 140)])
def test_a_prompt_has_one_image_token_for_each_feature_of_the_vision_tower(architecture, size):
    """The same count by the processor's tokens, by our arithmetic, and by the tower itself."""
    import torch

    from grpo_mmpc.models.policy import load_policy

    section = ModelSection(name_or_path=f"nano:{architecture}", init_kwargs={"dtype": "float32"})
    processor, model = load_processor(section), load_policy(section)
    content = [{"type": "image", "image": Image.new("RGB", size, "red")}, {"type": "text", "text": "title?"}]
    inputs = processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    tower = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
    with torch.no_grad():
        features = model.get_image_features(**tower).pooler_output
    num_features = sum(part.shape[-2] if part.ndim == 2 else part.shape[0] * part.shape[1] for part in features)
    num_tokens = int((inputs["input_ids"] == image_token_id(model.config)).sum())
    assert num_tokens == num_image_features(inputs, processor) == num_features > 0


def test_a_prompt_without_an_image_has_no_features():
    processor = load_processor(ModelSection(name_or_path="nano:qwen2_5_vl"))
    assert num_image_features({"input_ids": None}, processor) == 0


def test_only_gemma_has_a_choice_of_image_attention(tmp_path):
    gemma, qwen = (ModelSection(name_or_path=f"nano:{name}") for name in ("gemma3", "qwen2_5_vl"))
    causal = gemma.model_copy(update={"image_attention": "causal"})
    assert image_attention(gemma, load_processor(gemma)) == "bidirectional"
    assert image_attention(causal, load_processor(causal)) == "causal"
    assert image_attention(qwen, load_processor(qwen)) is None
    for family, expected in (("gemma4", None), ("gemma4_large", "bidirectional")):
        section = ModelSection(name_or_path=str(write_model(family, tmp_path / family)))
        assert image_attention(section, load_processor(section)) == expected
    with pytest.raises(
        TrainingError,
        match=r"is for Gemma-3 and the larger Gemma-4; Qwen2_5_VLProcessor of nano:qwen2_5_vl has one way only",
    ):
        load_processor(qwen.model_copy(update={"image_attention": "causal"}))


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_causal_attention_marks_no_token_as_an_image(attention):
    section = ModelSection(name_or_path="nano:gemma3", image_attention=attention)
    content = [{"type": "image", "image": Image.new("RGB", (84, 84))}, {"type": "text", "text": "title?"}]
    inputs = load_processor(section).apply_chat_template(
        [[{"role": "user", "content": content}]], tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert bool(inputs["token_type_ids"].any()) == (attention == "bidirectional")


def test_a_model_that_cannot_be_loaded_is_named_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(
        TrainingError, match=rf"cannot load the processor of model.name_or_path='{tmp_path}'.*Copy the whole folder"
    ):
        load_processor(ModelSection(name_or_path=str(tmp_path)))


def test_a_configuration_with_code_of_its_own_is_refused_without_a_question(tmp_path, monkeypatch):
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "y")
    with pytest.raises(ValueError, match="contains custom code"):
        model_config(ModelSection(name_or_path=str(tmp_path)))
    assert not questions and not (tmp_path / "ran").exists()
