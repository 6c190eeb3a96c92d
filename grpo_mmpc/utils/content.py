"""The identity of model files: a hash of what they hold, computed once for each size and time."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from grpo_mmpc.utils.cache import cache_folder, remembered
from grpo_mmpc.utils.files import write_json
from grpo_mmpc.utils.hashing import file_digest, hex_digest

_SUFFIXES = {".json", ".safetensors", ".bin", ".pt", ".pth", ".txt", ".model", ".jinja", ".py"}
_OTHER_FORMATS = {"original", "onnx", "openvino", "flax", "checkpoints"}
"""Sub-folders of hub repositories that loading does not read."""
_UNSTABLE_CONFIG_KEYS = ("_name_or_path", "transformers_version")
_SETTLED_S = 2.0
"""A file that changed later than this ago may change again at the same size and time."""


def content_identity(model: str | Path, *, revision: str | None = None, download: bool = False) -> str | None:
    """Return a hash of the files that loading a model reads, wherever they lie.

    Args:
        model: Local folder or file, or a hub name.
        revision: Of a hub name.
        download: Download a hub name that is not in the local cache, where the hub may be asked;
            for models that are about to be loaded, which does the same.

    Returns:
        32 hexadecimal digits; None where this machine cannot get such files.
    """
    place = model_folder(str(model), revision=revision, download=download)
    if place is None:
        return None
    files = sorted(_files(place)) if place.is_dir() else [place]
    if not files:
        return None
    names = [file.name if file == place else file.relative_to(place).as_posix() for file in files]
    with ThreadPoolExecutor(max_workers=8) as pool:
        digests = list(pool.map(content_of_file, files))
    return hex_digest(*(f"{name} {digest}\n" for name, digest in zip(names, digests, strict=True)))


def content_of_file(path: Path) -> str:
    """Return the hash of a file, from the cache where size and time are those of before."""
    path = path.resolve()
    if path.name == "config.json":
        try:
            config = json.loads(path.read_bytes())
        except (ValueError, RecursionError):  # loading says so
            config = None
        if not isinstance(config, dict):
            return file_digest(path)
        stable = {key: value for key, value in config.items() if key not in _UNSTABLE_CONFIG_KEYS}
        return hex_digest(json.dumps(stable, sort_keys=True))
    status = path.stat()
    if time.time() - status.st_mtime <= _SETTLED_S:
        return file_digest(path)
    entry = cache_folder("content") / f"{hex_digest(f'{path} {status.st_size} {status.st_mtime_ns}')}.json"
    return str(remembered(entry, lambda: file_digest(path), read=_read, write=write_json))


def model_folder(model: str, *, revision: str | None = None, download: bool = False) -> Path | None:
    """Return where the files of a model lie; None where they are not on this machine."""
    if Path(model).exists():
        return Path(model)
    # heavy: imported on use
    from huggingface_hub import constants, snapshot_download

    patterns = [f"*{suffix}" for suffix in sorted(_SUFFIXES - {".bin", ".pt", ".pth", ".py"})]
    for local_only in (True, False) if download and not constants.HF_HUB_OFFLINE else (True,):
        if not local_only and _unreachable():
            continue
        try:
            return Path(
                snapshot_download(model, revision=revision, local_files_only=local_only, allow_patterns=patterns)
            )
        except Exception:  # no such name, no network, no right to it: loading says so better
            continue
    return None


def refuse_unreachable(model: str) -> None:
    """Refuse a hub name that can neither be had here nor from the hub.

    Loading would find that out by tries of its own, which take minutes.

    Raises:
        OSError: Says why the hub cannot be reached.
    """
    # heavy: imported on use
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and model_folder(model) is None and (reason := _unreachable()):
        raise OSError(f"it is not in the local cache, and {constants.ENDPOINT} cannot be reached ({reason})")


@cache
def _unreachable() -> str:
    """Return why there is no connection to the hub; empty where there is one."""
    # heavy: imported on use
    import httpx
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        return str(error) or type(error).__name__
    except httpx.HTTPError:
        pass  # slow or odd: loading says so
    return ""


def _files(folder: Path) -> Iterator[Path]:
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix in _SUFFIXES and path.is_file() and not _OTHER_FORMATS & {*path.relative_to(folder).parts[:-1]}
    ]
    has_safetensors = {path.parent for path in found if path.suffix == ".safetensors"}
    return (path for path in found if path.suffix not in (".bin", ".pt", ".pth") or path.parent not in has_safetensors)


def _read(entry: Path) -> str:
    digest: str = json.loads(entry.read_bytes())
    return digest
