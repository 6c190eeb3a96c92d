"""Checks of a recipe's ``model`` section that need no model."""

import importlib.util
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from grpo_mmpc.config.problems import unknown_option
from grpo_mmpc.errors import GrpoMmpcError
from grpo_mmpc.models.adapter_folder import refuse_adapter_as_model
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import resolve_model

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
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token", "code_revision")


def check_model(raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield problems of the section as (key, message): packages, misspelt options, adapters."""
    section = raw.get("model")
    if not isinstance(section, Mapping) or not isinstance(section.get("name_or_path"), str):
        return
    name, options = section["name_or_path"], section.get("init_kwargs")
    try:
        refuse_adapter_as_model(name)
    except GrpoMmpcError as error:
        yield "model.name_or_path", str(error)
        return
    if not isinstance(options, Mapping):
        return
    needs = [("attn_implementation", _ATTENTION.get(str(options.get("attn_implementation"))))]
    quantisation = options.get("quantization_config")
    if isinstance(quantisation, Mapping):
        method = str(quantisation.get("quant_method", "bitsandbytes"))
        needs.append(("quantization_config", _QUANTISATION.get(method)))
    for key, need in needs:
        if need is not None and importlib.util.find_spec(need[0]) is None:
            yield f"model.init_kwargs.{key}", f"needs the package {need[0]}, which is not installed: {need[1]}"
    known = _model_options(name) if options else frozenset()
    for key in options:
        if known and key not in known:
            yield f"model.init_kwargs.{key}", unknown_option(str(key), known, owner="from_pretrained and the model")


def _model_options(name: str) -> frozenset[str]:
    """Return what ``from_pretrained`` takes for a model on this machine; empty for another one.

    It takes its own options by name out of ``**kwargs``, and those of the configuration.
    """
    ensure_importable()
    # heavy: imported on use
    from transformers import AutoConfig, PreTrainedModel

    try:
        config = AutoConfig.from_pretrained(resolve_model(name), local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError):  # reported when it is loaded
        return frozenset()
    source = inspect.getsource(PreTrainedModel.from_pretrained)
    own = re.findall(r'kwargs\.(?:pop|get)\(\s*"([a-z]\w*)"', source)
    signature = inspect.signature(PreTrainedModel.from_pretrained).parameters
    return frozenset([*own, *signature, *_HUB, *config.to_dict()])
