"""Checks of a recipe's ``model`` section that need no model."""

import importlib.util
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from grpo_mmpc.config.problems import Problems, nearest, unknown_options
from grpo_mmpc.errors import GrpoMmpcError, first_line
from grpo_mmpc.models.adapter_folder import refuse_adapter_as_model
from grpo_mmpc.models.policy import cannot_load
from grpo_mmpc.models.weights import weights_problem
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import NO_QUESTION, resolve_model
from grpo_mmpc.utils.sections import section

_ATTENTION = {
    "flash_attention_2": ("flash_attn", "pip install flash-attn --no-build-isolation"),
    "flash_attention_3": ("flash_attn_interface", "install flash-attention's hopper folder from its repository"),
}
_QUANTISATION = {
    "bitsandbytes": ("bitsandbytes", "pip install bitsandbytes"),
    "gptq": ("gptqmodel", "pip install gptqmodel"),
    "awq": ("gptqmodel", "pip install gptqmodel"),
    "hqq": ("hqq", "pip install hqq"),
    "torchao": ("torchao", "pip install torchao"),
}
_LOADING_OPTIONS = (
    *("use_fast", "backend", "revision", "trust_remote_code", "token", "cache_dir", "subfolder", "local_files_only"),
    "chat_template",
)
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token", "code_revision")


def check_model(raw: Mapping[str, Any]) -> Problems:
    """Yield problems of the section as (key, message): packages, misspelt options, adapters."""
    model = section(raw, "model")
    name, options = model.get("name_or_path"), section(model, "init_kwargs")
    if not isinstance(name, str):
        return
    try:
        refuse_adapter_as_model(name)
    except GrpoMmpcError as error:
        yield "model.name_or_path", str(error)
        return
    folder = Path(resolve_model(name), str(options.get("subfolder", "")))
    if "gguf_file" not in options and (problem := weights_problem(folder)):
        yield "model.name_or_path", problem
    template = section(section(raw, "trainer"), "chat_template_kwargs")
    yield from _processor_problems(name, section(model, "processor_kwargs"), template)
    needs = [("attn_implementation", _ATTENTION.get(str(options.get("attn_implementation"))))]
    quantisation = options.get("quantization_config")
    if isinstance(quantisation, Mapping):
        method = str(quantisation.get("quant_method", "bitsandbytes"))
        needs.append(("quantization_config", _QUANTISATION.get(method)))
        yield from _quantisation_problems(quantisation, method)
    is_whole = "adapter" in raw and raw["adapter"] is None
    if is_whole and model.get("init_from") is not None:
        yield (
            "model.init_from",
            "is an adapter, and adapter: null trains every weight; remove one of them (a whole model that a run has "
            "saved is another run's model.name_or_path)",
        )
    if model.get("quantization") is not None:
        if quantisation is not None:
            yield "model.quantization", "is set beside model.init_kwargs.quantization_config; remove one of them"
        if is_whole:
            yield "model.quantization", "4-bit weights cannot be trained; give an adapter, or remove it"
        if lacking := lacking_package("bitsandbytes", "pip install 'grpo-mmpc[quantization]'"):
            yield "model.quantization", lacking
    for key, need in needs:
        if need is not None and (lacking := lacking_package(*need)):
            yield f"model.init_kwargs.{key}", lacking
    yield from _impossible_values(options)
    yield from _model_problems(name, options)


def _impossible_values(options: Mapping[str, Any]) -> Problems:
    ensure_importable()
    # heavy: imported on use
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name in ("dtype", "torch_dtype"):
        given = str(options.get(name) or "auto").removeprefix("torch.")
        kind = getattr(torch, given, None)
        if given != "auto" and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
            yield f"model.init_kwargs.{name}", f"expected auto, float32, bfloat16 or float16, found {options[name]!r}"
    attention, known = options.get("attn_implementation"), {"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()}
    if isinstance(attention, str) and "/" not in attention and attention.removeprefix("paged|") not in known:
        yield "model.init_kwargs.attn_implementation", f"{attention!r} is unknown; {nearest(attention, known)}"
    for name in (name for name in ("tp_plan", "tp_size", "device_mesh") if options.get(name)):
        yield f"model.init_kwargs.{name}", "is not set here: set the launch file: launch/accelerate"

    if options.get("output_loading_info"):
        yield "model.init_kwargs.output_loading_info", "returns more than the model; remove it"
    places = options.get("device_map")
    if "meta" in (places.values() if isinstance(places, Mapping) else [places]):
        yield "model.init_kwargs.device_map", "meta holds no weights; remove it"


def _quantisation_problems(options: Mapping[str, Any], method: str) -> Problems:
    """Yield keys that Transformers' class of the method would leave out without a word."""
    # heavy: imported on use
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(f"{method}_4bit" if method == "bitsandbytes" else method)
    if kind is None or method == "torchao":  # which hands the rest on to its own kinds
        return
    known = [*inspect.signature(kind).parameters, "quant_method", "_load_in_4bit", "_load_in_8bit"]
    yield from unknown_options("model.init_kwargs.quantization_config", options, known, owner=kind.__name__)


def lacking_package(name: str, install: str) -> str | None:
    """Return that an option needs a package, and how to install it; None where it is installed."""
    installed = importlib.util.find_spec(name) is not None
    return None if installed else f"needs the package {name}, which is not installed: {install}"


def _processor_problems(name: str, options: Mapping[str, Any], template: Mapping[str, Any]) -> Problems:
    """Yield why a processor on this machine cannot be loaded, and keys that nobody reads.

    It may need packages of its own, and says so when it is loaded.
    """
    ensure_importable()
    # heavy: imported on use
    from transformers import AutoProcessor

    source = resolve_model(name)
    try:
        processor = AutoProcessor.from_pretrained(source, **_loading(options))
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        if isinstance(error, ImportError) or Path(source).is_dir():  # of the hub's it is reported when it is loaded
            yield "model.name_or_path", cannot_load("processor", name, source, error)
        return
    if problem := processor_problem(processor):
        yield "model.name_or_path", f"{name}: {problem}"
        return
    yield from unknown_processor_options(processor, options)
    yield from unknown_options(
        "trainer.chat_template_kwargs", template, _template_options(processor), owner="the chat template"
    )


def processor_problem(processor: Any) -> str | None:
    """Return why a processor cannot make prompts of an image and words; None where it can.

    Transformers makes one of any folder: without its files a tokenizer knows no word.
    """
    if not hasattr(processor, "tokenizer"):
        return (
            f"it has no image processor, or no tokenizer ({type(processor).__name__} is loaded); expected the whole "
            "folder of a multimodal model such as Qwen2.5-VL or Gemma-3"
        )
    if not processor.tokenizer("a blue mug", add_special_tokens=False).input_ids:
        return "its tokenizer knows no word, so its files (tokenizer.json) are missing; copy the model's whole folder"
    content = [{"type": "image"}, {"type": "text", "text": "a blue mug"}]
    try:
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except Exception as error:  # whatever a template raises
        return f"its chat template cannot be used ({first_line(error)}); copy chat_template.jinja of the model"
    return None


def unknown_processor_options(processor: Any, options: Mapping[str, Any]) -> Problems:
    """Yield keys that a processor's ``from_pretrained`` takes without a word and nobody reads."""
    kind = type(getattr(processor, "image_processor", None))
    valid = getattr(kind, "valid_kwargs", None)
    if valid is None:
        return
    known = {*get_type_hints(valid), *_LOADING_OPTIONS}
    mine = {name: value for name, value in options.items() if not hasattr(processor.tokenizer, name)}
    yield from unknown_options("model.processor_kwargs", mine, known, owner=kind.__name__)


def _template_options(processor: Any) -> frozenset[str] | None:
    """Return what a chat template reads, and what ``apply_chat_template`` itself takes."""
    # heavy: imported on use
    from jinja2 import Environment, TemplateSyntaxError, meta

    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if not isinstance(template, str):
        return None
    try:
        read = meta.find_undeclared_variables(Environment().parse(template))
    except TemplateSyntaxError:  # tags of Transformers' own
        return None
    taken = inspect.signature(type(processor).apply_chat_template).parameters
    return frozenset([*read, *taken]) - {"self", "messages", "kwargs", "conversation"}


def _model_problems(name: str, options: Mapping[str, Any]) -> Problems:
    """Yield why a model on this machine cannot be loaded, and options that nobody reads.

    ``from_pretrained`` takes its own by name out of ``**kwargs``, and those of the configuration.
    """
    ensure_importable()
    # heavy: imported on use
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, PreTrainedModel

    source = resolve_model(name)
    try:
        config = AutoConfig.from_pretrained(source, **_loading(options))
    except Exception as error:  # whatever a damaged configuration raises
        if Path(source).is_dir():  # of the hub's it is reported when it is loaded
            yield "model.name_or_path", cannot_load("configuration", name, source, error)
        return
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not getattr(config, "auto_map", None):
        yield (
            "model.name_or_path",
            f"{name} is a model of type {config.model_type!r}, which does not read images and write text; expected a "
            "multimodal model such as Qwen2.5-VL or Gemma-3",
        )
    own = re.findall(r'kwargs\.(?:pop|get)\(\s*"([a-z]\w*)"', inspect.getsource(PreTrainedModel.from_pretrained))
    signature = inspect.signature(PreTrainedModel.from_pretrained).parameters
    known = frozenset([*own, *signature, *_HUB, *config.to_dict()])
    yield from unknown_options("model.init_kwargs", options, known, owner="from_pretrained and the model")


def _loading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options that say where files lie, for files of this machine alone."""
    kept = {key: value for key, value in options.items() if key in (*_HUB, *NO_QUESTION)}
    return NO_QUESTION | kept | {"local_files_only": True}
