"""Hashes that tell base models and policies apart by content, wherever their files lie."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.utils.hashing import digest_of, hex_digest
from grpo_mmpc.utils.model_paths import resolve_model

if TYPE_CHECKING:
    from grpo_mmpc.config import RunConfig

_SAMPLES = 16
_SAMPLE_BYTES = 4096
_UNSTABLE_CONFIG_KEYS = ("_name_or_path", "transformers_version")


def policy_identity(config: "RunConfig", *, adapter: Path | None) -> str:
    """Hash the base model's content and arguments, and an adapter's files: equal if policies are.

    A base model that is not on this machine counts by its name.
    """
    files = [] if adapter is None else sorted([*adapter.glob("adapter_config.json"), *adapter.glob("adapter_model*")])
    section = config.model.model_dump(mode="json")
    base = base_model_identity(
        resolve_model(config.model.name_or_path), revision=section["init_kwargs"].get("revision")
    )
    if base is not None:
        section["name_or_path"] = base
    content = json.dumps(section, sort_keys=True)
    return hex_digest(content, *(part for file in files for part in (file.name, file.read_bytes())), size=8)


def base_model_identity(model: str, *, revision: str | None = None) -> str | None:
    """Hash a base model's config, and the headers and samples of its weights.

    Reading whole checkpoints would take minutes; sixteen samples of each file differ between any
    two trainings.

    Args:
        model: Local folder, or a name in the local hub cache.
        revision: Of a hub name.

    Returns:
        64 hexadecimal digits, or None if this machine has no such files (config.json and
        safetensors).
    """
    folder = _folder_of(model, revision)
    files = [] if folder is None else _weight_files(folder)
    if folder is None or not files or not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_bytes())
    stable = {key: value for key, value in config.items() if key not in _UNSTABLE_CONFIG_KEYS}
    pieces = (piece for file in files for piece in _pieces(file))
    return digest_of(itertools.chain([json.dumps(stable, sort_keys=True)], pieces), size=32).hex()


def _pieces(weights: Path) -> Iterator[str | bytes]:
    """Yield a file's name and size, its header, and samples of its tensors."""
    size = weights.stat().st_size
    yield f"{weights.name} {size}"
    with weights.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
        yield stream.read(min(header, size))
        for sample in range(_SAMPLES):
            stream.seek(8 + header + (size - 8 - header) * sample // _SAMPLES)
            yield stream.read(_SAMPLE_BYTES)


def _folder_of(model: str, revision: str | None) -> Path | None:
    if Path(model).is_dir():
        return Path(model)
    # heavy: imported on use
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        return None


def _weight_files(folder: Path) -> list[Path]:
    """List the safetensors files that loading reads; a folder may hold the weights twice."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return [folder / name for name in names]
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
