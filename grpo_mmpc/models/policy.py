"""Load a policy: the base model, or the base model with an adapter on top."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import AdapterError, TrainingError, first_line
from grpo_mmpc.models.adapter_folder import check_base, check_fits, open_adapter, refuse_adapter_as_model
from grpo_mmpc.models.families import LANGUAGE, OF_CONFIG, model_config
from grpo_mmpc.utils.content import refuse_unreachable
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import NO_QUESTION, resolve_model

if TYPE_CHECKING:
    from grpo_mmpc.config import ModelSection

logger = logging.getLogger(__name__)


def load_policy(section: "ModelSection", *, adapter: Path | None = None) -> Any:
    """Load the base model, or with ``adapter`` a ``PeftModel`` that has it loaded (not trainable).

    Raises:
        TrainingError: The model cannot be loaded; says from where and what to do.
        AdapterError: The adapter cannot be used, or is another model's.
    """
    refuse_adapter_as_model(section.name_or_path)
    opened = None if adapter is None else open_adapter(adapter)
    ensure_importable()
    # heavy: imported on use
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    source = resolve_model(section.name_or_path)
    try:
        refuse_unreachable(source)
        model = AutoModelForImageTextToText.from_pretrained(
            source, **NO_QUESTION | section.init_kwargs, **_quantisation(section)
        )
    except (OSError, ValueError, ImportError, TypeError, KeyError, SafetensorError) as error:
        raise TrainingError(cannot_load("model", section.name_or_path, source, error)) from error
    for module in model.modules() if section.quantization else ():
        # Weights that bitsandbytes repacks for inference on a CPU cannot be trained on again.
        module.support_avx512bf16_for_cpu = False
    if opened is None:
        return model
    warning = check_base(opened, section)
    if warning is not None:
        logger.warning(warning)
    check_fits(opened, model)
    from peft import LoraConfig, PeftModel

    known = {name: value for name, value in opened.config.items() if name in LoraConfig.__dataclass_fields__}
    try:
        return PeftModel.from_pretrained(model, str(adapter), config=LoraConfig(**known))
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError) as error:
        raise AdapterError(f"PEFT refuses the adapter {adapter}: {first_line(error)}") from error


def whole_model(section: "ModelSection", checkpoint: Path) -> "ModelSection":
    """Return the section of a checkpoint that is a model of its own; no code of it runs."""
    kept = {name: value for name, value in section.init_kwargs.items() if name not in OF_CONFIG}
    options = {"name_or_path": str(checkpoint), "init_kwargs": kept | {"use_safetensors": True}}
    return section.model_copy(update=options)


def _quantisation(section: "ModelSection") -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that quantise the language model's layers."""
    if section.quantization is None:
        return {}
    # heavy: imported on use
    import torch
    from transformers import BitsAndBytesConfig

    skeleton = model_skeleton(section)
    parts = [name for name, _ in skeleton.base_model.named_children() if name not in LANGUAGE]
    dtype = str(section.init_kwargs.get("dtype", "auto")).removeprefix("torch.")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, "bfloat16" if dtype == "auto" else dtype),
        # Matched from the start of a module's name.
        llm_int8_skip_modules=[*(f"{skeleton.base_model_prefix}.{name}" for name in parts), "lm_head"],
    )
    return {"quantization_config": config}


def model_skeleton(section: "ModelSection", **loading: Any) -> Any:
    """Build the base model without weights, on no device, to see what modules it has.

    ``loading`` goes to ``AutoConfig.from_pretrained``, such as ``local_files_only``.
    """
    ensure_importable()
    # heavy: imported on use
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(model_config(section, **loading))


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
    """Repeat the text model's special tokens on the composite configuration and that of generation.

    Transformers looks for them there, finds none, and would warn on every run that it "aligned"
    equal tokens.
    """
    text_config = model.config.get_text_config()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(text_config, name, None) == getattr(tokenizer, name):
            setattr(model.config, name, getattr(tokenizer, name))
            if getattr(model.generation_config, name) is None:
                setattr(model.generation_config, name, getattr(tokenizer, name))


def cannot_load(part: str, name: str, source: str, error: Exception) -> str:
    """Return the message for a model or processor that cannot be loaded."""
    if isinstance(error, ImportError):  # a package is missing: how to install it may stand in any line
        return f"cannot load the {part} of model.name_or_path={name!r}: {' '.join(str(error).split())}"
    advice = "Without network, give a local folder or an embedded model (nano:qwen2_5_vl, nano:gemma3)"
    if "trust_remote_code" in str(error):
        advice = "Where you trust it, set trust_remote_code: true in model.init_kwargs and model.processor_kwargs"
    elif Path(source).is_dir():
        advice = "Copy the whole folder of the model again"
    return (
        f"cannot load the {part} of model.name_or_path={name!r} (looked in {source!r}): {first_line(error)}. {advice}"
    )
