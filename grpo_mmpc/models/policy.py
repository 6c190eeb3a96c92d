"""Load a policy: the base model, or the base model with an adapter on top."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import TrainingError, first_line
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import resolve_model

if TYPE_CHECKING:
    from grpo_mmpc.config import ModelSection


def load_policy(section: "ModelSection", *, adapter: Path | None = None) -> Any:
    """Load the base model, or with ``adapter`` a ``PeftModel`` that has it loaded (not trainable).

    Raises:
        TrainingError: Model or adapter cannot be loaded; says from where and what to do.
    """
    ensure_importable()
    # heavy: imported on use
    from transformers import AutoModelForImageTextToText

    source = resolve_model(section.name_or_path)
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, **section.init_kwargs)
    except (OSError, ValueError) as error:
        raise TrainingError(cannot_load("model", section.name_or_path, source, error)) from error
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


def show_special_tokens(model: Any, tokenizer: Any) -> None:
    """Repeat the text model's special tokens on the composite configuration.

    Transformers looks for them there, finds none, and would warn on every run that it "aligned"
    equal tokens.
    """
    text_config = model.config.get_text_config()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(text_config, name, None) == getattr(tokenizer, name):
            setattr(model.config, name, getattr(tokenizer, name))


def cannot_load(part: str, name: str, source: str, error: Exception) -> str:
    """Return the message for a model or processor that cannot be loaded."""
    return (
        f"cannot load the {part} of model.name_or_path={name!r} (looked in {source!r}): {first_line(error)}. "
        "Without network, give a local folder or an embedded model (nano:qwen2_5_vl, nano:gemma3)"
    )
