"""The server of a review: one page, its items and decisions, for one browser of this machine.

Whoever runs on this machine may reach its port, a web page in the reviewer's browser among them. It
therefore answers only under a random path, to the name of the loopback interface, and to requests
of its own page; it opens no file but images of the catalogue's items.
"""

import json
import logging
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, ClassVar
from urllib.parse import urlsplit

from grpo_mmpc.completion.decisions import decide
from grpo_mmpc.reports.catalogue.review_entries import Review
from grpo_mmpc.reports.catalogue.review_page import served_entry, served_page
from grpo_mmpc.utils.faults import explain_os_error
from grpo_mmpc.utils.files import to_json

_log = logging.getLogger(__name__)
_HOST = "127.0.0.1"
_NAMES = (_HOST, "localhost")
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


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReviewServer(ThreadingHTTPServer):
    """A server on the loopback interface; ``address`` is where its page is."""

    daemon_threads = True

    def __init__(self, review: Review, *, by: str, port: int = 0) -> None:
        """Take a port, a free one where it is 0.

        Raises:
            OSError: The port is in use.
        """
        super().__init__((_HOST, port), _Handler)
        self.review, self.by = review, by
        self.token = secrets.token_urlsafe(24)
        self.one_at_a_time = Lock()

    @property
    def address(self) -> str:
        """The page's address, which holds the key."""
        return f"http://{_HOST}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
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
        except _RefusedError as refused:
            self._send(refused.status, {"error": str(refused)})
        except OSError as error:  # a full disk: the page says that nothing was saved
            self._send(HTTPStatus.INSUFFICIENT_STORAGE, {"error": explain_os_error(error)})
        else:
            self._send(HTTPStatus.OK, content)

    def _route(self) -> str:
        """Return the path below the key, of a request that may be answered.

        Raises:
            _RefusedError: It comes from elsewhere, or has not the key.
        """
        host = self.headers.get("Host", "")
        if urlsplit(f"//{host}").hostname not in _NAMES:
            raise _RefusedError(HTTPStatus.MISDIRECTED_REQUEST, "this server is reached as 127.0.0.1 or localhost only")
        origin = self.headers.get("Origin")
        if origin != f"http://{host}" and (origin is not None or self.command != "GET"):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "requests come from the review page only, not from other sites")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "requests come from the review page only, not from other sites")
        _, _, rest = self.path.partition("/")
        token, slash, route = rest.partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise _RefusedError(
                HTTPStatus.FORBIDDEN, "the address has no valid key; open the one that the command printed"
            )
        return route

    def _content(self, route: str) -> str | dict[str, Any]:
        kind, _, number = route.partition("/")
        with self.server.one_at_a_time:
            if self.command == "GET" and route == "":
                return served_page(self.server.review, by=self.server.by)
            if self.command == "GET" and kind == "entry" and number.isascii() and number.isdecimal():
                if len(number) < 10 and int(number) < len(self.server.review.proposals):
                    return served_entry(self.server.review, int(number))
            elif self.command == "POST" and route == "decisions":
                return self._decide(self._body())
        raise _RefusedError(HTTPStatus.NOT_FOUND, f"there is no {route[:100]!r}")

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "a decision needs a body and its length")
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a decision has at most {MAX_BODY_BYTES:,} bytes")
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a decision is sent as application/json")
        try:
            content = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
        return content

    def _decide(self, content: dict[str, Any]) -> dict[str, Any]:
        review = self.server.review
        try:
            proposal = review.proposals[review.number_of(content.get("item_id"), content.get("field"))]
        except KeyError:
            item, field = str(content.get("item_id"))[:100], str(content.get("field"))[:100]
            raise _RefusedError(HTTPStatus.NOT_FOUND, f"there is no proposal for the {field} of {item}") from None
        try:
            review.record(decide(proposal, str(content.get("decision")), content.get("title"), by=self.server.by))
        except ValueError as error:
            raise _RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        return {"decided": review.decided(proposal)}

    def _send(self, status: HTTPStatus, content: str | dict[str, Any]) -> None:
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
