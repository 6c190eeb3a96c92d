"""The processor of a policy."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.adapter_folder import refuse_adapter_as_model
from grpo_mmpc.models.families import set_image_attention
from grpo_mmpc.models.option_checks import processor_problem, unknown_processor_options
from grpo_mmpc.models.policy import cannot_load
from grpo_mmpc.utils.content import refuse_unreachable
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import NO_QUESTION, resolve_model

if TYPE_CHECKING:
    from grpo_mmpc.config import ModelSection


def load_processor(section: "ModelSection", *, chat_template_kwargs: Mapping[str, Any] | None = None) -> Any:
    """Load the processor of the base model, padding on the left as generation needs.

    Args:
        section: The base model.
        chat_template_kwargs: TRL passes them to ``apply_chat_template`` in training; here they hold
            for every caller, so that evaluation asks what training asks.

    Raises:
        TrainingError: It cannot be loaded; says from where.
        AdapterError: ``model.name_or_path`` is an adapter.
    """
    refuse_adapter_as_model(section.name_or_path)
    ensure_importable()
    # heavy: imported on use
    from transformers import AutoProcessor

    source = resolve_model(section.name_or_path)
    try:
        refuse_unreachable(source)
        processor = AutoProcessor.from_pretrained(source, **NO_QUESTION | section.processor_kwargs)
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        raise TrainingError(cannot_load("processor", section.name_or_path, source, error)) from error
    if problem := processor_problem(processor):
        raise TrainingError(f"model.name_or_path={section.name_or_path!r}: {problem}")
    for key, problem in unknown_processor_options(processor, section.processor_kwargs):
        raise TrainingError(f"{key}: {problem}")
    processor.tokenizer.padding_side = "left"
    if chat_template_kwargs:
        processor.apply_chat_template = partial(_render, processor.apply_chat_template, chat_template_kwargs)
    set_image_attention(section, processor)
    return processor


def _render(render: Callable[..., Any], given: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Render by a processor's own method, with options that hold unless a caller says otherwise."""
    processing = {**(given.get("processor_kwargs") or {}), **(kwargs.get("processor_kwargs") or {})}
    return render(*args, **{**given, **kwargs, **({"processor_kwargs": processing} if processing else {})})
