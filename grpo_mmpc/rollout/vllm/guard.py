"""The door of a server: a key on every route, known hosts, bounded bodies."""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

GUARD = "grpo_mmpc.rollout.vllm.guard.Guard"
"""For ``--middleware``."""
KEY_VARIABLE = "VLLM_API_KEY"
HOST_VARIABLE = "GRPO_MMPC_SERVE_HOST"
"""The interface that the server listens on."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")

MAX_UPLOAD_BYTES = 4 * 1024**3
_MAX_REQUEST_BYTES = 512 * 1024**2  # an image of 50 megapixels as PNG and base64 has 200 MB at most
_PATIENCE_S = 30.0
_LEAST_BYTES_PER_S = 64 * 1024

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """ASGI middleware around the whole server.

    vLLM itself asks for its key on some routes only, and answers any Host and any origin.
    """

    def __init__(
        self, app: Any, *, key: str | None = None, host: str | None = None, variable: str = KEY_VARIABLE
    ) -> None:
        """Guard an application.

        Args:
            app: The application.
            key: Asked of every request but ``/health``; None is that of the environment, likewise:
            host: The interface that is listened on.
            variable: The environment variable that holds the key.
        """
        self._app = app
        self._variable = variable
        self._key = key or os.environ.get(variable, "")
        self._hosts = LOOPBACK if (host or os.environ.get(HOST_VARIABLE, LOOPBACK[0])) in LOOPBACK else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check(scope, headers)
        except _RefusedError as refused:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": str(refused)})
            else:
                await _answer(send, refused)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, _bounded(receive, limit=_limit(scope)), sending)
        except _RefusedError as refused:
            if not has_begun:
                await _answer(send, refused)

    def _check(self, scope: Scope, headers: dict[bytes, str]) -> None:
        host = headers.get(b"host", "")
        name = host.rpartition("]")[0].lstrip("[") or host.partition(":")[0]
        if self._hosts is not None and name not in self._hosts:
            raise _RefusedError(400, f"this server listens on the loopback interface; it is not {name!r}")
        if scope["type"] == "http" and scope["path"] == "/health":
            return
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        is_known = scheme.lower() == "bearer" and secrets.compare_digest(token.encode(), self._key.encode())
        if not self._key or not is_known:
            raise _RefusedError(401, f"wrong or missing API key; set {self._variable} as the server has it")
        length = headers.get(b"content-length", "0")
        if scope["type"] == "http" and not (length.isdecimal() and int(length) <= _limit(scope)):
            raise _RefusedError(413, f"a body may have {_limit(scope):,} bytes; this one has {length}")


def _limit(scope: Scope) -> int:
    return MAX_UPLOAD_BYTES if scope["method"] == "PUT" else _MAX_REQUEST_BYTES


def _bounded(receive: Receive, *, limit: int) -> Receive:
    """Cut a body that is too large, or that arrives so slowly that it only holds the server."""
    num_bytes, began, is_whole = 0, time.monotonic(), False

    async def bounded() -> Message:
        nonlocal num_bytes, is_whole
        if is_whole:  # from here on it waits for the client to leave
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), _PATIENCE_S)
        except TimeoutError:
            raise _RefusedError(408, f"no byte of the body came for {_PATIENCE_S:g} s") from None
        num_bytes += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        seconds = time.monotonic() - began
        if num_bytes > limit:
            raise _RefusedError(413, f"a body may have {limit:,} bytes; this one is larger")
        if not is_whole and seconds > _PATIENCE_S and num_bytes < seconds * _LEAST_BYTES_PER_S:
            raise _RefusedError(408, f"the body came too slowly: {num_bytes:,} bytes in {seconds:.0f} s")
        return message

    return bounded


async def _answer(send: Send, refused: _RefusedError) -> None:
    # heavy: the server has it loaded
    from starlette.responses import JSONResponse

    response = JSONResponse({"error": {"message": str(refused), "code": refused.status}}, status_code=refused.status)
    await response({"type": "http", "headers": []}, _nothing, send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
