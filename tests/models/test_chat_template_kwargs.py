"""What TRL passes to the chat template in training holds for every other caller too."""

from types import SimpleNamespace
from unittest.mock import Mock

from grpo_mmpc.config import ModelSection
from grpo_mmpc.models.processor import load_processor


def test_every_caller_renders_with_the_same_keywords_unless_it_says_otherwise(monkeypatch):
    seen = []
    tokenizer = Mock(return_value=SimpleNamespace(input_ids=[1]))
    processor = SimpleNamespace(
        tokenizer=tokenizer, apply_chat_template=lambda messages, **keywords: seen.append(keywords)
    )
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda *_, **__: processor)
    loaded = load_processor(
        ModelSection(name_or_path="nano:qwen2_5_vl"), chat_template_kwargs={"enable_thinking": False, "tokenize": False}
    )
    seen.clear()  # of the check of the template
    loaded.apply_chat_template([], tokenize=True)
    assert seen == [{"enable_thinking": False, "tokenize": True}]


def test_options_of_the_processor_hold_one_by_one(monkeypatch):
    """An evaluation asks for padding, and images stay as large as in training."""
    seen = []
    processor = SimpleNamespace(
        tokenizer=Mock(return_value=SimpleNamespace(input_ids=[1])),
        apply_chat_template=lambda messages, **keywords: seen.append(keywords),
    )
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda *_, **__: processor)
    given = {"processor_kwargs": {"do_resize": False, "padding": False}}
    loaded = load_processor(ModelSection(name_or_path="nano:qwen2_5_vl"), chat_template_kwargs=given)
    seen.clear()
    loaded.apply_chat_template([], processor_kwargs={"padding": True})
    assert seen == [{"processor_kwargs": {"do_resize": False, "padding": True}}]
    assert given == {"processor_kwargs": {"do_resize": False, "padding": False}}
