"""Routes of a vLLM server through which adapters arrive over HTTP, and which say what the server is.

vLLM loads adapters from folders of its own machine. ``AdapterUpload`` writes uploaded ones into
memory-backed storage there, so that trainer and server share no file system. vLLM loads the plugin
only where ``VLLM_PLUGINS`` names it:

    PUT    /grpo_mmpc/adapters/{name}   body: see ``pack``; answers {"path": folder for
    /v1/load_lora_adapter} DELETE /grpo_mmpc/adapters/{name}
    GET    /grpo_mmpc/engine            see ``engine_facts``
"""

import asyncio
import atexit
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import JSONResponse

PLUGIN = "grpo_mmpc_adapters"
"""What ``VLLM_PLUGINS`` must name."""
ADAPTERS_ROUTE = "/grpo_mmpc/adapters"
ENGINE_ROUTE = "/grpo_mmpc/engine"

MAX_UPLOAD_BYTES = 4 * 1024**3
MAX_ADAPTERS = 32
"""A run holds two or three; the oldest beyond this were left by runs that died, and are
forgotten."""

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
_FOLDER_PREFIX = "grpo_mmpc-adapters-"
_LENGTH_BYTES = 8
_SAMPLES = 16
_SAMPLE_BYTES = 4096
_UNSTABLE_CONFIG_KEYS = ("_name_or_path", "transformers_version")


def pack(*, config: bytes, weights: bytes) -> bytes:
    """Body of an upload: length of the config (8 bytes, little endian), the config, the weights."""
    return len(config).to_bytes(_LENGTH_BYTES, "little") + config + weights


def unpack(body: bytes) -> tuple[bytes, bytes]:
    """Config and weights of an upload.

    Raises:
        ValueError: The body is not what ``pack`` makes of a JSON object and a safetensors file.
    """
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    config, weights = body[_LENGTH_BYTES:end], body[end:]
    if not weights:
        raise ValueError(f"the body ends after {len(body)} bytes, before any weights")
    if not isinstance(json.loads(config), dict):
        raise ValueError("adapter_config.json is not an object")
    return config, weights


def model_identity(model: str, *, revision: str | None = None) -> str | None:
    """Tells base models apart wherever they lie: a hash of the config and of the headers and samples of the weights.

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
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_bytes())
    stable = {key: value for key, value in config.items() if key not in _UNSTABLE_CONFIG_KEYS}
    digest = hashlib.sha256(json.dumps(stable, sort_keys=True).encode())
    files = _weight_files(folder)
    if not files:
        return None
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(header, size)))
            for sample in range(_SAMPLES):
                stream.seek(8 + header + (size - 8 - header) * sample // _SAMPLES)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def engine_facts(vllm_config: Any, args: Any) -> dict[str, Any]:
    """What a trainer must know before it trusts this server; every value is JSON.

    Args:
        vllm_config: vLLM's ``VllmConfig``.
        args: The server's parsed command line.
    """
    # heavy: the server has them loaded
    import vllm
    from vllm import envs
    from vllm.platforms import current_platform

    model, lora = vllm_config.model_config, vllm_config.lora_config
    # GPU back ends can let image tokens see each other where the model asks for it; the CPU's only
    # one cannot.
    is_bidirectional = model.is_mm_prefix_lm and not current_platform.is_cpu()
    return {
        "vllm_version": vllm.__version__,
        "model": model.model,
        "served_model_name": (args.served_model_name or [model.model])[0],
        "model_identity": model_identity(model.model, revision=model.revision),
        "dtype": str(model.dtype).removeprefix("torch."),
        "max_model_len": model.max_model_len,
        "logprobs_mode": str(model.logprobs_mode),
        "mm_processor_kwargs": (model.multimodal_config.mm_processor_kwargs or {}) if model.multimodal_config else {},
        "image_token_id": getattr(model.hf_config, "image_token_id", None),
        "image_attention": "bidirectional" if is_bidirectional else "causal",
        "enable_lora": lora is not None,
        "max_lora_rank": lora.max_lora_rank if lora is not None else 0,
        "max_loras": lora.max_loras if lora is not None else 0,
        "lora_dtype": str(lora.lora_dtype).removeprefix("torch.") if lora is not None else None,
        "runtime_lora_updating": bool(envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING),
    }


def adapter_places() -> list[Path]:
    """Where adapters may be written, the best first: memory, if there is any to write to, and the temporary folder."""
    memory = Path("/dev/shm")
    return [*([memory] if os.access(memory, os.W_OK) else []), Path(tempfile.gettempdir())]


def write_adapter(places: Sequence[Path], name: str, *, config: bytes, weights: bytes) -> Path:
    """Write an adapter into a new folder of the first place that has room for it: containers have 64 MB of /dev/shm.

    Raises:
        OSError: No place has; says how much each has, how much was needed, and what to do.
    """
    num_bytes = len(config) + len(weights)
    problems = []
    for place in places:
        free = shutil.disk_usage(place).free
        if free < num_bytes:
            problems.append(f"{place} has {free / 1e6:.1f} MB free")
            continue
        folder = place / name
        folder.mkdir(mode=0o700)
        try:
            (folder / "adapter_config.json").write_bytes(config)
            (folder / "adapter_model.safetensors").write_bytes(weights)
        except OSError as error:  # others write there too
            shutil.rmtree(folder, ignore_errors=True)
            problems.append(f"{place}: {error.strerror or error}")
        else:
            return folder
    raise OSError(
        errno.ENOSPC,
        f"no room for an adapter of {num_bytes / 1e6:.1f} MB ({'; '.join(problems)}); free some, enlarge /dev/shm "
        "(docker run --shm-size=8g), or let TMPDIR name a folder with more room",
    )


class AdapterStore:
    """Uploaded adapters as folders that only this user can read, gone with the process."""

    def __init__(self, places: Sequence[Path] | None = None) -> None:
        """Make a folder in every place, after removing those that killed servers left behind.

        Args:
            places: Where, the best first; None is ``adapter_places()``.
        """
        self.folders: list[Path] = []
        self._locks: list[int] = []
        self._naming = threading.Lock()
        for place in places or adapter_places():
            for left in place.glob(f"{_FOLDER_PREFIX}*"):
                _remove_unless_held(left)
            folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=place))  # mode 0700
            # Held as long as the process lives, also across process namespaces that share /dev/shm,
            # unlike a process id.
            lock = _lock_of(folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.folders.append(folder)
            self._locks.append(lock)
        atexit.register(self.close)

    def names(self) -> list[str]:
        """Stored adapters, the oldest upload first."""
        paths = [path for folder in self.folders for path in folder.iterdir()]
        folders = [path for path in paths if path.is_dir() and _NAME.fullmatch(path.name)]
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns)]

    def put(self, name: str, *, config: bytes, weights: bytes) -> Path:
        """Write an adapter unless it is there; the name stands for the content. Nobody sees it half written.

        Raises:
            ValueError: The name is not a plain file name.
            OSError: There is no room for it.
        """
        _check_name(name)
        there = self._find(name)
        if there is not None:
            return there
        draft = write_adapter(self.folders, f".draft-{secrets.token_hex(8)}", config=config, weights=weights)
        with self._naming:
            there = self._find(name)  # another upload of the same name came first
            if there is None:
                return draft.rename(draft.parent / name)
        shutil.rmtree(draft)
        return there

    def remove(self, name: str) -> bool:
        """Delete an adapter; whether there was one.

        Raises:
            ValueError: The name is not a plain file name.
        """
        _check_name(name)
        there = self._find(name)
        if there is not None:
            shutil.rmtree(there, ignore_errors=True)
        return there is not None

    def close(self) -> None:
        """Delete everything."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _find(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).is_dir()), None)


class AdapterUpload:
    """The endpoint plugin; see ``vllm.plugins.endpoint_plugins.interface.EndpointPlugin``."""

    name = PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Add the three routes."""
        app.router.add_route(f"{ADAPTERS_ROUTE}/{{name}}", self._put, methods=["PUT"])
        app.router.add_route(f"{ADAPTERS_ROUTE}/{{name}}", self._delete, methods=["DELETE"])
        app.router.add_route(ENGINE_ROUTE, self._engine, methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Make the store and look at the engine once."""
        self._store = AdapterStore()
        self._serving: Any = state.openai_serving_models
        self._facts = await asyncio.to_thread(engine_facts, state.vllm_config, args)
        # vLLM itself asks for the key on its own routes only.
        self._keys = [*(args.api_key or []), *filter(None, [os.environ.get("VLLM_API_KEY")])]

    async def _put(self, request: "Request") -> "JSONResponse":
        if (refusal := self._refuse_stranger(request)) is not None:
            return refusal
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_UPLOAD_BYTES:
                return _error(413, f"an adapter may have {MAX_UPLOAD_BYTES} bytes; this upload is larger")
        name = request.path_params["name"]
        try:
            config, weights = unpack(bytes(body))
            path = await asyncio.to_thread(self._store.put, name, config=config, weights=weights)
        except ValueError as error:
            return _error(400, str(error))
        except OSError as error:
            return _error(507, f"the server cannot store the adapter: {error.strerror or error}")
        for stale in self._store.names()[:-MAX_ADAPTERS]:
            await self._forget(stale)
        return _json(200, {"path": str(path)})

    async def _delete(self, request: "Request") -> "JSONResponse":
        if (refusal := self._refuse_stranger(request)) is not None:
            return refusal
        name = request.path_params["name"]
        try:
            there = self._store.remove(name)
        except ValueError as error:
            return _error(400, str(error))
        return _json(200, {}) if there else _error(404, f"no adapter {name!r} here")

    async def _engine(self, request: "Request") -> "JSONResponse":
        return self._refuse_stranger(request) or _json(200, self._facts)

    async def _forget(self, name: str) -> None:
        """Drop an adapter here and in vLLM; whoever still uses it gets a 404 and sends it again."""
        from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

        await self._serving.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))
        self._store.remove(name)

    def _refuse_stranger(self, request: "Request") -> "JSONResponse | None":
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not self._keys or (
            scheme.lower() == "bearer"
            and any(secrets.compare_digest(token.encode(), key.encode()) for key in self._keys)
        ):
            return None
        return _error(401, "wrong or missing API key")


def _json(status: int, content: dict[str, Any]) -> "JSONResponse":
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status)


def _error(status: int, message: str) -> "JSONResponse":
    """An error in the shape of vLLM's own."""
    return _json(status, {"error": {"message": message, "code": status}})


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
    """The safetensors files that loading reads; a repository may hold the same weights a second time."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return [folder / name for name in names]
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not an adapter name: up to 128 letters, digits, '.', '_', '-', the first not '.'"
        )


def _lock_of(folder: Path) -> int:
    return os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _remove_unless_held(folder: Path) -> None:
    try:
        lock = _lock_of(folder)
    except OSError:  # another user's, or just removed by another server
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
