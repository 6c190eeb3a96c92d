"""A server of one page and what it asks for, to one browser: behind a random path, loopback first.

Whoever runs on this machine may reach a port of it, a web page in the reader's browser among them.
A server therefore answers only under a random path, to requests of its own page and, on the
loopback interface, only to its own name; errors go back as JSON.
"""

import json
import logging
import secrets
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, ClassVar
from urllib.parse import urlsplit

from grpo_mmpc.errors import GrpoMmpcError
from grpo_mmpc.utils.faults import explain_os_error
from grpo_mmpc.utils.files import to_json

_log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
_NAMES = (LOOPBACK, "localhost", "::1")
MAX_BODY_BYTES = 64 * 1024
_PATIENCE_S = 30.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Content = str | dict[str, Any]
"""A page or a part of one as HTML, or an object to send as JSON."""


class RefusedError(Exception):
    """A request that is not answered, with its status; the message goes back."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class PageServer(ThreadingHTTPServer):
    """A server that gives one answer at a time; ``address`` is where its page is."""

    daemon_threads = True

    def __init__(self, *, host: str = LOOPBACK, port: int = 0) -> None:
        """Take a port, a free one where it is 0.

        Raises:
            GrpoMmpcError: The port is in use, or the host is none of this machine's.
        """
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise GrpoMmpcError(f"cannot listen on {host}:{port}: {reason}; choose another one") from error
        self.host = host
        self.token = secrets.token_urlsafe(24)
        self.one_at_a_time = Lock()

    @property
    def address(self) -> str:
        """The page's address, which holds the key."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_port}/{self.token}/"

    def get(self, route: str) -> Content | None:
        """Return what is at a path below the key; None where nothing is. The page is at ``""``."""
        raise NotImplementedError

    def post(self, route: str, body: dict[str, Any]) -> Content | None:
        """Answer what the page sends; None where nothing takes it."""
        return None


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout: ClassVar[float] = _PATIENCE_S
    server_version, sys_version = "grpo-mmpc", ""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: Any) -> None:
        _log.debug(format, *arguments)

    def _answer(self) -> None:
        try:
            content = self._content(self._route())
        except RefusedError as refused:
            self._send(refused.status, {"error": str(refused)})
        except OSError as error:  # a full disk: the page says that nothing was saved
            self._send(HTTPStatus.INSUFFICIENT_STORAGE, {"error": explain_os_error(error)})
        else:
            self._send(HTTPStatus.OK, content)

    def _route(self) -> str:
        """Return the path below the key, of a request that may be answered.

        Raises:
            RefusedError: It comes from elsewhere, or has not the key.
        """
        host = self.headers.get("Host", "")
        if self.server.host in _NAMES and urlsplit(f"//{host}").hostname not in _NAMES:
            raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, "this server is reached as 127.0.0.1 or localhost only")
        origin = self.headers.get("Origin")
        is_foreign = origin != f"http://{host}" and (origin is not None or self.command != "GET")
        if is_foreign or self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise RefusedError(HTTPStatus.FORBIDDEN, "requests come from this server's page only, not from other sites")
        _, _, rest = self.path.partition("/")
        token, slash, route = rest.partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise RefusedError(
                HTTPStatus.FORBIDDEN, "the address has no valid key; open the one that the command printed"
            )
        return route

    def _content(self, route: str) -> Content:
        body = self._body() if self.command == "POST" else None
        with self.server.one_at_a_time:
            content = self.server.get(route) if body is None else self.server.post(route, body)
        if content is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"there is no {route[:100]!r}")
        return content

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "what is sent needs a body and its length")
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {MAX_BODY_BYTES:,} bytes")
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a body is sent as application/json")
        try:
            content = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
        return content

    def _send(self, status: HTTPStatus, content: Content) -> None:
        is_page = isinstance(content, str)
        body = (content if isinstance(content, str) else to_json(content)).encode()
        self.send_response(status)
        kind = "text/html" if is_page else "application/json"
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
