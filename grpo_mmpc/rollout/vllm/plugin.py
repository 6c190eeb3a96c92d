"""Routes of a vLLM server by which adapters arrive, and which say what the server is.

vLLM loads adapters from folders of its own machine. ``AdapterUpload`` writes uploaded ones into
memory-backed storage there, so that trainer and server share no file system. vLLM loads the plugin
only where ``VLLM_PLUGINS`` names it:

    PUT    /grpo_mmpc/adapters/{name}   takes a body of ``adapter_store.pack``, answers
                                        {"path": folder for /v1/load_lora_adapter}
    DELETE /grpo_mmpc/adapters/{name}
    GET    /grpo_mmpc/engine            answers ``server_facts.engine_facts``
"""

import asyncio
import os
import secrets
from typing import TYPE_CHECKING, Any

from grpo_mmpc.rollout.vllm.adapter_store import AdapterStore, unpack
from grpo_mmpc.rollout.vllm.server_facts import engine_facts

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import JSONResponse

PLUGIN = "grpo_mmpc_adapters"
"""The name that ``VLLM_PLUGINS`` must hold."""
ADAPTERS_ROUTE = "/grpo_mmpc/adapters"
ENGINE_ROUTE = "/grpo_mmpc/engine"

MAX_UPLOAD_BYTES = 4 * 1024**3
MAX_ADAPTERS = 32
"""A run holds two or three; older ones beyond this were left by runs that died: unload them."""


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
            await self._unload(stale)
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

    async def _unload(self, name: str) -> None:
        """Delete an adapter here and in vLLM; who still uses it gets a 404 and sends it again."""
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
    return _json(status, {"error": {"message": message, "code": status}})
