"""Routes of a vLLM server by which adapters arrive, and which say what the server is.

vLLM loads adapters from folders of its own machine. ``AdapterUpload`` writes uploaded ones into
memory-backed storage there and loads them from it, so that trainer and server share no file system,
and vLLM's own routes, which load any folder, stay off. vLLM loads the plugin only where
``VLLM_PLUGINS`` names it:

    PUT    /grpo_mmpc/adapters/{name}   takes a body of ``adapter_store.pack`` and loads it; the
                                        name ends in the hash of the body
    DELETE /grpo_mmpc/adapters/{name}
    GET    /grpo_mmpc/engine            answers ``server_facts.engine_facts``
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import AdapterError
from grpo_mmpc.models.adapter_folder import parse_config
from grpo_mmpc.rollout.vllm.adapter_store import AdapterStore, content_hash, unpack
from grpo_mmpc.rollout.vllm.server_facts import engine_facts

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import JSONResponse

PLUGIN = "grpo_mmpc_adapters"
"""The name that ``VLLM_PLUGINS`` must hold."""
ADAPTERS_ROUTE = "/grpo_mmpc/adapters"
ENGINE_ROUTE = "/grpo_mmpc/engine"
OWNER_HEADER = "X-Grpo-Mmpc-Owner"
"""Names the run that an adapter belongs to: no run pushes out another's."""

MAX_ADAPTERS = 4
"""Of one run, which holds two or three; its older ones are unloaded."""
MAX_BYTES = 16 * 1024**3
"""Of all adapters; those of runs that were silent for ``IDLE_S`` make room."""
IDLE_S = 3600.0


class AdapterUpload:
    """The endpoint plugin; see ``vllm.plugins.endpoint_plugins.interface.EndpointPlugin``."""

    name = PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Add the three routes."""
        app.router.add_route(f"{ADAPTERS_ROUTE}/{{name}}", self._put, methods=["PUT"])
        app.router.add_route(f"{ADAPTERS_ROUTE}/{{name}}", self._delete, methods=["DELETE"])
        app.router.add_route(ENGINE_ROUTE, self._engine_facts, methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Make the store and look at the engine once."""
        self._store = AdapterStore()
        self._engine = engine_client
        self._serving: Any = state.openai_serving_models
        self._facts = await asyncio.to_thread(engine_facts, state.vllm_config, args)
        self._owners: dict[str, str] = {}
        self._heard: dict[str, float] = {}

    async def _put(self, request: "Request") -> "JSONResponse":
        name, owner = request.path_params["name"], request.headers.get(OWNER_HEADER, "")
        body = await request.body()  # bounded by the guard
        try:
            if not name.endswith(f"-{content_hash(body)}"):
                return _error(400, f"the name {name!r} does not end in the hash of the adapter's content")
            config, weights = unpack(body)
            parse_config(config, where="adapter_config.json")
            self._heard[owner] = time.monotonic()
            if not await self._make_room(len(body), owner=owner):
                return _error(507, f"the server cannot store the adapter: its {MAX_BYTES:,} bytes are in use")
            path = await asyncio.to_thread(self._store.put, name, config=config, weights=weights)
        except (ValueError, AdapterError) as error:
            return _error(400, str(error))
        except OSError as error:
            return _error(507, f"the server cannot store the adapter: {error.strerror or error}")
        self._owners[name] = owner
        refusal = await self._load(name, str(path))
        if refusal is not None:
            self._store.remove(name)
            return refusal
        for stale in [name for name in self._store.names() if self._owners.get(name) == owner][:-MAX_ADAPTERS]:
            await self._unload(stale)
        return _json(200, {})

    async def _load(self, name: str, path: str) -> "JSONResponse | None":
        # heavy: the server has it loaded
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        if name in self._serving.lora_requests:
            return None
        answer = await self._serving.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=name, lora_path=path))
        if isinstance(answer, str) or name in self._serving.lora_requests:  # another upload of it came first
            return None
        try:
            await self._engine.check_health()
        except Exception as error:  # whatever ended the engine
            return _error(503, f"the engine has ended: {error}")
        return _error(422, str(answer.error.message))

    async def _make_room(self, num_bytes: int, *, owner: str) -> bool:
        """Unload adapters of silent runs, the oldest first, until so many bytes are free."""
        silent_since = time.monotonic() - IDLE_S
        for name in self._store.names():
            if self._store.num_bytes() + num_bytes <= MAX_BYTES:
                break
            theirs = self._owners.get(name, "")
            if theirs != owner and self._heard.get(theirs, 0.0) < silent_since:
                await self._unload(name)
        return self._store.num_bytes() + num_bytes <= MAX_BYTES

    async def _delete(self, request: "Request") -> "JSONResponse":
        name = request.path_params["name"]
        try:
            there = await self._unload(name)
        except ValueError as error:
            return _error(400, str(error))
        return _json(200, {}) if there else _error(404, f"no adapter {name!r} here")

    async def _engine_facts(self, request: "Request") -> "JSONResponse":
        return _json(200, self._facts)

    async def _unload(self, name: str) -> bool:
        """Delete an adapter here and in vLLM; who still uses it gets a 404 and sends it again."""
        # heavy: the server has it loaded
        from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

        there = self._store.remove(name)
        if there:
            await self._serving.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=name))
            self._owners.pop(name, None)
        return there


def _json(status: int, content: dict[str, Any]) -> "JSONResponse":
    # heavy: the server has it loaded
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status)


def _error(status: int, message: str) -> "JSONResponse":
    return _json(status, {"error": {"message": message, "code": status}})
