"""Ask servers of an OpenAI-compatible API: one place for addresses, key, retries and limits."""

import base64
import io
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from grpo_mmpc.errors import GrpoMmpcError
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    import httpx
    from PIL.Image import Image

T = TypeVar("T")

_CONNECT_S = 10.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_REFUSED = (400, 413, 422)
_PASSING = (408, 425, 429)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer(Failure):
    """A request that no server answered within its time."""


class ApiServers:
    """Servers that do the same, asked for many answers at once; nothing is opened before the first.

    Requests are dealt over the servers in turn. What a server refuses (400, 413, 422) is a failure
    of that request; a server that does not answer, or answers 429 or a 5xx status, is asked again
    after the next one, for ``timeout_s`` seconds. A redirect is never followed, and proxies of the
    environment are not used. The key is read from ``key_variable`` and written nowhere.

    Args:
        who: Who asks, as errors begin.
        error: Raised where asking again cannot help.
        urls: Base URLs, ``http://host:9000``; one or several.
        route: Path of the requests, from ``/v1`` on.
        kind: What the servers serve, for messages.
        key_variable: Variable of the environment that holds the key, if there is one.
        batch_size: Requests in flight from this process.
        timeout_s: Seconds that one request may take, tries included.
        max_bytes: Largest answer that is read.

    Raises:
        GrpoMmpcError: Of the type ``error``: an argument is not as described.
    """

    def __init__(
        self,
        *,
        who: str,
        error: type[GrpoMmpcError],
        urls: str | Sequence[str],
        route: str,
        kind: str,
        key_variable: str,
        batch_size: int,
        timeout_s: float,
        max_bytes: int,
    ) -> None:
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        for url in self._urls:
            if not isinstance(url, str) or not re.match(r"https?://[^/]", url):
                raise error(f"{who}: {url!r} is not a URL; write http://host:9000")
            if "@" in url or "?" in url:  # recipes and run folders are handed around
                raise error(f"{who}: a URL must hold no user, password or key; set {key_variable}")
        if not self._urls:
            raise error(f"{who}: urls is empty; name at least one server")
        if batch_size < 1 or timeout_s <= 0:
            raise error(
                f"{who}: batch_size must be at least 1 and timeout_s above 0, found {batch_size} and {timeout_s:g}"
            )
        self._who = who
        self._error = error
        self._route = route
        self._kind = kind
        self._key_variable = key_variable
        self._batch_size = batch_size
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._turn = itertools.count()
        self._http: httpx.Client | None = None
        self._opening = threading.Lock()
        self._has_answered = False

    def ask(
        self, bodies: Sequence[Mapping[str, Any]], read: Callable[[bytes, str], T | Failure]
    ) -> "list[T | Failure]":
        """Send N requests and read their answers; once one got none, no further one is begun.

        Args:
            bodies: JSON objects.
            read: Takes an answer's content and the address it is from.

        Returns:
            In order: what was read, a ``Failure`` for what was refused, ``NoAnswer`` for the rest.

        Raises:
            GrpoMmpcError: A server is none of the kind, wants another key, ``read`` raised, or none
                of them has ever answered anything.
        """
        lost: list[NoAnswer] = []

        def one(body: Mapping[str, Any]) -> T | Failure:
            answer = lost[0] if lost else self._one(body, read)
            if isinstance(answer, NoAnswer):
                lost.append(answer)
            return answer

        with ThreadPoolExecutor(max_workers=min(self._batch_size, len(bodies)) or 1) as pool:
            futures = [pool.submit(one, body) for body in bodies]
            try:
                answers = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if lost and not self._has_answered:  # a wrong address: further batches would wait as long
            raise self._error(lost[0].reason)
        return answers

    def _one(self, body: Mapping[str, Any], read: Callable[[bytes, str], T | Failure]) -> T | Failure:
        end = time.monotonic() + self._timeout_s
        for attempt, turn in enumerate(itertools.count(next(self._turn))):
            url = self._urls[turn % len(self._urls)].rstrip("/") + self._route
            status, content, wait_s = self._post(url, body, end)
            if status == 200:
                return read(content, url)
            if status in _REFUSED:
                return Failure(reason=f"{url} refuses it ({status}): {_reason(content)}")
            if status is not None and status < 500 and status not in _PASSING:
                raise self._error(f"{self._who}: {url} {self._advice(status)} ({status}): {_reason(content)}")
            pause = max(wait_s, min(_PAUSE_S * 2 ** (attempt // len(self._urls)), _LONGEST_PAUSE_S))
            if time.monotonic() + pause >= end:
                said = _reason(content) if status is None else f"status {status}, {_reason(content)}"
                return NoAnswer(
                    reason=f"{self._who}: no answer from {', '.join(self._urls)} within {self._timeout_s:g} s "
                    f"(last: {said}); start the server, or raise timeout_s"
                )
            time.sleep(pause)
        raise AssertionError("unreachable: servers are asked in turn without end")

    def _post(self, url: str, body: Mapping[str, Any], end: float) -> tuple[int | None, bytes, float]:
        """Return status, content and the seconds a server asks to wait; None: it gave no answer."""
        import httpx  # heavy: imported on use

        left = max(end - time.monotonic(), 0.001)
        try:
            with self._client().stream(
                "POST", url, json=body, timeout=httpx.Timeout(left, connect=min(left, _CONNECT_S))
            ) as answer:
                self._has_answered = True
                content = bytearray()
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > self._max_bytes:
                        raise self._error(
                            f"{self._who}: {url} answers with more than {self._max_bytes:,} bytes; ask for less"
                        )
                    if time.monotonic() > end:  # read timeouts begin anew with every byte
                        return None, b"its answer is too slow", 0.0
                wait = answer.headers.get("Retry-After", "")
                key = os.environ.get(self._key_variable, "").encode()
                if key and answer.status_code != 200:  # what a server says of an error is logged
                    content = content.replace(key, b"***")
                return answer.status_code, bytes(content), float(wait) if wait.isdecimal() else 0.0
        except httpx.TransportError as error:
            return None, (str(error) or type(error).__name__).encode(), 0.0

    def _client(self) -> "httpx.Client":
        import httpx  # heavy: imported on use

        with self._opening:
            if self._http is None:
                key = os.environ.get(self._key_variable)
                self._http = httpx.Client(
                    trust_env=False,
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                    limits=httpx.Limits(max_connections=self._batch_size, keepalive_expiry=2.0),
                )
            return self._http

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            return f"wants another key: set {self._key_variable}"
        if status < 400:
            return "redirects: give the address itself"
        return f"is no server of {self._kind}, or of another model"


def png_data_url(image: "Image") -> str:
    """Return an image as requests carry it, a data URL of its pixels as PNG."""
    plain = image.convert("RGB")
    plain.info = {}  # an orientation tag would turn the image a second time
    return f"data:image/png;base64,{png_base64(plain)}"


def png_base64(image: "Image", *, compress_level: int = 1) -> str:
    """Return an image as PNG in base64; 1 compresses fastest, 9 most."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=compress_level)
    return base64.b64encode(stream.getvalue()).decode()


def _reason(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return content.decode("utf-8", "replace").strip()[:300] or "no reason given"
