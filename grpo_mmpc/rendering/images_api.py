"""Render on servers of images: any that answers OpenAI's ``POST /v1/images/generations``."""

import base64
import io
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue.images import decode_image
from grpo_mmpc.errors import EvaluationError, ImageError
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    import httpx
    from PIL.Image import Image

KEY_VARIABLE = "IMAGES_API_KEY"
ROUTE = "/v1/images/generations"
_CONNECT_S = 10.0
_MAX_BYTES = 128 * 2**20  # base64 of a PNG with 50 million pixels that compresses by a third
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_REFUSED = (400, 413, 422)
_PASSING = (408, 425, 429)
_RESERVED = ("prompt", "n", "seed", "model", "response_format")


class ImagesApiRenderer:
    """Diffusion servers that many processes share; nothing is loaded here.

    Every prompt is one request with its own ``seed``, up to ``batch_size`` of them in flight, dealt
    over the servers in turn. What a server refuses (400, 413, 422) is a failed render; a server
    that does not answer, or answers 429 or a 5xx status, is asked again after the next one, for
    ``timeout_s`` seconds. Images come inside of answers: an address in one is never fetched, a
    redirect never followed, and proxies of the environment are not used. The key is read from
    ``IMAGES_API_KEY`` and written nowhere.

    Args:
        urls: Base URLs, ``http://host:9000``; one, or several that serve the same model.
        model: What the servers call it. Images are known by this name, not by the address.
        size: ``WIDTHxHEIGHT``; None leaves it to the server.
        options: Further fields of a request, verbatim, such as ``{"num_inference_steps": 4}``.
        batch_size: Requests in flight from this process.
        timeout_s: Seconds that one image may take, tries included.

    Raises:
        EvaluationError: An argument is not as described.
    """

    def __init__(
        self,
        *,
        urls: str | Sequence[str],
        model: str,
        size: str | None = None,
        options: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        timeout_s: float = 300.0,
    ) -> None:
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        for url in self._urls:
            if not re.match(r"https?://[^/]", url):
                raise EvaluationError(f"renderer images_api: {url!r} is not a URL; write http://host:9000")
        if not self._urls:
            raise EvaluationError("renderer images_api: urls is empty; name at least one server")
        if size is not None and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
            raise EvaluationError(f"renderer images_api: size must be WIDTHxHEIGHT such as 1024x1024, found {size!r}")
        if set_here := sorted(set(options or {}) & {*_RESERVED, "size"}):
            raise EvaluationError(f"renderer images_api: options must not set {', '.join(set_here)}")
        if batch_size < 1 or timeout_s <= 0:
            raise EvaluationError(
                "renderer images_api: batch_size must be at least 1 and timeout_s above 0, found "
                f"{batch_size} and {timeout_s:g}"
            )
        self.batch_size = batch_size
        self._timeout_s = timeout_s
        self._body = {"model": model, "n": 1, "response_format": "b64_json", **(options or {})}
        self._body |= {} if size is None else {"size": size}
        self._turn = itertools.count()
        self._http: httpx.Client | None = None
        self._opening = threading.Lock()

    def render(self, prompts: list[str], *, seeds: list[int]) -> "list[Image | Failure]":
        """Render N prompts; see ``Renderer``.

        Raises:
            EvaluationError: A server is not one of images, wants another key, or none answers.
        """
        with ThreadPoolExecutor(max_workers=min(self.batch_size, len(prompts)) or 1) as pool:
            futures = [pool.submit(self._one, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, prompt: str, seed: int) -> "Image | Failure":
        body = {**self._body, "prompt": prompt, "seed": seed}
        end = time.monotonic() + self._timeout_s
        for attempt, turn in enumerate(itertools.count(next(self._turn))):
            url = self._urls[turn % len(self._urls)].rstrip("/") + ROUTE
            status, content, wait_s = self._post(url, body, end)
            if status == 200:
                return _image_of(content, url)
            if status in _REFUSED:
                return Failure(reason=f"{url} refuses it ({status}): {_reason(content)}")
            if status is not None and status < 500 and status not in _PASSING:
                raise EvaluationError(f"renderer images_api: {url} {_advice(status)} ({status}): {_reason(content)}")
            pause = max(wait_s, min(_PAUSE_S * 2 ** (attempt // len(self._urls)), _LONGEST_PAUSE_S))
            if time.monotonic() + pause >= end:
                said = _reason(content) if status is None else f"status {status}, {_reason(content)}"
                raise EvaluationError(
                    f"renderer images_api: no image from {', '.join(self._urls)} within {self._timeout_s:g} s "
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
                content = bytearray()
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > _MAX_BYTES:
                        raise EvaluationError(
                            f"renderer images_api: {url} answers with more than {_MAX_BYTES:,} bytes; ask for a "
                            "smaller size"
                        )
                    if time.monotonic() > end:  # read timeouts begin anew with every byte
                        return None, b"its answer is too slow", 0.0
                wait = answer.headers.get("Retry-After", "")
                return answer.status_code, bytes(content), float(wait) if wait.isdecimal() else 0.0
        except httpx.TransportError as error:
            return None, (str(error) or type(error).__name__).encode(), 0.0

    def _client(self) -> "httpx.Client":
        import httpx  # heavy: imported on use

        with self._opening:
            if self._http is None:
                key = os.environ.get(KEY_VARIABLE)
                self._http = httpx.Client(
                    trust_env=False,
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                    limits=httpx.Limits(max_connections=self.batch_size, keepalive_expiry=2.0),
                )
            return self._http


def _image_of(content: bytes, url: str) -> "Image | Failure":
    try:
        [entry] = json.loads(content)["data"]
        encoded = entry["b64_json"]
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvaluationError(
            f"renderer images_api: {url} answers without one image as b64_json ({type(error).__name__}: {error}); "
            "addresses of images are not followed"
        ) from error
    try:
        return decode_image(io.BytesIO(data), name=f"of {url}")
    except ImageError as error:
        return Failure(reason=str(error))


def _advice(status: int) -> str:
    if status in (401, 403):
        return f"wants another key: set {KEY_VARIABLE}"
    if status < 400:
        return "redirects: give the address itself"
    return "is no server of images, or of another model"


def _reason(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return content.decode("utf-8", "replace").strip()[:300] or "no reason given"
