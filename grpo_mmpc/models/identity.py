"""Hashes that tell base models and policies apart by content, wherever their files lie."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.errors import AdapterError, first_line
from grpo_mmpc.utils.content import content_identity, content_of_file, model_folder
from grpo_mmpc.utils.hashing import digest_of, hex_digest
from grpo_mmpc.utils.model_paths import resolve_model
from grpo_mmpc.utils.secrets import without_secrets

if TYPE_CHECKING:
    from grpo_mmpc.config import RunConfig


def policy_identity(config: "RunConfig", *, adapter: Path | None) -> str:
    """Hash the base model's files and arguments, and an adapter's files: equal if policies are.

    Options of the chat template count too: with others it is asked other prompts. A model whose
    files this machine cannot get is known by its name.
    """
    # An adapter says itself what it began from; a token changes nothing, and is not recorded.
    section = without_secrets(config.model.model_dump(mode="json", exclude={"init_from"}))
    name, revision = section.pop("name_or_path"), config.model.init_kwargs.get("revision")
    if adapter is not None and is_whole_model(adapter):
        content = ""  # of the base: nothing of it is left
    else:
        content = content_identity(resolve_model(name), revision=revision, download=True) or name
    parts = [] if adapter is None else _adapter_parts(adapter)
    template = [config.chat_template_kwargs] if config.chat_template_kwargs else []
    return hex_digest(json.dumps([section, content, *template], sort_keys=True, default=str), *parts, size=8)


def adapter_identity(adapter: Path) -> str:
    """Hash the files of an adapter or of a whole model, whatever base model it is used on."""
    return hex_digest(*_adapter_parts(adapter), size=8)


def _adapter_parts(adapter: Path) -> list[str]:
    if is_whole_model(adapter):
        files = [adapter / "config.json", *weight_files(adapter)]
    else:
        files = sorted([*adapter.glob("adapter_config.json"), *adapter.glob("adapter_model*")])
    return [part for file in files for part in (file.name, content_of_file(file))]


def is_whole_model(checkpoint: Path) -> bool:
    """Return whether a checkpoint is a model of its own (``adapter: null``), and no adapter."""
    return (checkpoint / "config.json").is_file() and not (checkpoint / "adapter_config.json").is_file()


def base_model_identity(model: str, *, revision: str | None = None) -> str | None:
    """Hash config and weights of a local folder or of a name in the hub cache, nothing else.

    Returns 64 hexadecimal digits, or None if this machine has no such files (config.json and
    safetensors).
    """
    folder = model_folder(model, revision=revision)
    files = [] if folder is None else weight_files(folder)
    if folder is None or not files or not (folder / "config.json").is_file():
        return None
    return digest_of((content_of_file(file) for file in (folder / "config.json", *files)), size=32).hex()


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files that loading reads; a folder may hold the weights twice.

    Raises:
        AdapterError: An index does not name them.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            return [folder / name for name in names]
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:  # half a file, or another
            raise AdapterError(
                f"{index} does not name the files of the weights in a JSON object weight_map "
                f"({type(error).__name__}: {first_line(error)[:200]}); copy the whole folder again"
            ) from error
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
