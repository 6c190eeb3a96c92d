"""Loading a policy and its processor: base model, or base model with an adapter on top."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_mmpc.config import ModelSection
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.utils.model_paths import resolve_model


def load_processor(section: ModelSection) -> Any:
    """The processor of the base model, padding on the left as generation needs.

    Raises:
        TrainingError: It cannot be loaded; says from where.
    """
    from grpo_mmpc.utils.cpu_compat import ensure_importable

    ensure_importable()
    # heavy: imported on use
    from transformers import AutoProcessor

    source = resolve_model(section.name_or_path)
    try:
        processor = AutoProcessor.from_pretrained(source, **section.processor_kwargs)
    except (OSError, ValueError) as error:
        raise TrainingError(_cannot_load("processor", section.name_or_path, source, error)) from error
    if not hasattr(processor, "tokenizer"):
        raise TrainingError(
            f"model.name_or_path={section.name_or_path!r} has no image processor; expected a multimodal model such as "
            "Qwen2.5-VL or Gemma-3"
        )
    processor.tokenizer.padding_side = "left"
    if section.image_attention is not None:
        _set_image_attention(processor, section.image_attention)
    return processor


def load_policy(section: ModelSection, *, adapter: Path | None = None) -> Any:
    """The base model, or with ``adapter`` a ``PeftModel`` that has it loaded (not trainable).

    Args:
        section: Which base model and how to load it.
        adapter: Checkpoint folder that holds ``adapter_config.json``.

    Raises:
        TrainingError: Model or adapter cannot be loaded; says from where and what to do.
    """
    from grpo_mmpc.utils.cpu_compat import ensure_importable

    ensure_importable()
    # heavy: imported on use
    from transformers import AutoModelForImageTextToText

    source = resolve_model(section.name_or_path)
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, **section.init_kwargs)
    except (OSError, ValueError) as error:
        raise TrainingError(_cannot_load("model", section.name_or_path, source, error)) from error
    if adapter is None:
        return model
    if not (adapter / "adapter_config.json").is_file():
        raise TrainingError(
            f"{adapter} holds no adapter_config.json; give a checkpoint folder such as RUN/checkpoints/checkpoint-80"
        )
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter))


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Run a block on the base model of a ``PeftModel``.

    PEFT's own context also tells adapters that they are not trained. FSDP2 reads at the first
    forward pass what is trained, and if that is an evaluation of the base model, the first backward
    pass fails.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with model.disable_adapter():
        for parameter in trained:
            parameter.requires_grad_(True)
        yield


def _set_image_attention(processor: Any, attention: str) -> None:
    """Choose what image tokens see, where a model lets us.

    Gemma-3 builds its mask from the token types that its processor returns: tokens of type image
    see each other in both directions. A processor that marks none of them makes the mask causal, in
    training and in generation alike.
    """
    if type(processor).__name__ != "Gemma3Processor":
        raise TrainingError(
            f"model.image_attention={attention!r} is for Gemma-3; {type(processor).__name__} has one way only, remove it"
        )
    if attention == "causal":
        processor.create_mm_token_type_ids = lambda input_ids: [[0] * len(row) for row in input_ids]


def _cannot_load(what: str, name: str, source: str, error: Exception) -> str:
    detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"cannot load the {what} of model.name_or_path={name!r} (looked in {source!r}): {detail}. "
        "Without network, give a local folder or an embedded model (nano:qwen2_5_vl, nano:gemma3)"
    )
