"""Fetch product images from the web: HTTP only, with time and size limits and a few retries."""

import io
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from grpo_mmpc.catalogue.images import decode_image
from grpo_mmpc.errors import ImageError
from grpo_mmpc.utils.files import replace_atomically

if TYPE_CHECKING:
    import httpx

Fetch = Callable[[str], bytes]
"""Returns the bytes behind an address, or raises FetchError."""

_THREADS = 8
_CHUNK = 256
_HEADERS = {"User-Agent": "grpo-mmpc (research; product image download)"}
_HOST = re.compile(r"[\w.:-]+")
# Worth another try; every other status will be the same next time.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(Exception):
    """An address could not be fetched; the message says why."""


class Download(NamedTuple):
    """One image to fetch."""

    url: str
    file: Path


def fetch_url(
    url: str, *, timeout_s: float = 20.0, attempts: int = 3, max_bytes: int = 20_000_000, wait_s: float = 1.0
) -> bytes:
    """Return the bytes behind an http(s) address.

    Args:
        url: The address. Other schemes are refused: ``file:`` would read this machine's disk.
        timeout_s: Limit for connecting and for each read.
        attempts: Tries in all; only failures that may pass (time-outs, 429, 5xx) are tried again.
        max_bytes: Larger answers are refused.
        wait_s: Pause before the second try; doubles each time.

    Raises:
        FetchError: The address cannot be fetched.
    """
    import httpx  # heavy: imported on use

    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as e:
        raise FetchError(f"{url[:80]} is no http(s) address: {e}") from e
    if address.scheme not in ("http", "https") or not _HOST.fullmatch(address.raw_host.decode("ascii")):
        raise FetchError(f"{url[:80]} is no http(s) address")
    for attempt in range(1, attempts + 1):
        try:
            with _client().stream("GET", address, timeout=timeout_s) as answer:
                answer.raise_for_status()
                return _body(answer, max_bytes=max_bytes)
        except httpx.HTTPStatusError as e:
            problem, may_pass = f"HTTP status {e.response.status_code}", e.response.status_code in _TRANSIENT
        except httpx.TransportError as e:  # no route, time-out, broken connection
            problem, may_pass = str(e) or type(e).__name__, not isinstance(e, httpx.UnsupportedProtocol)
        except (httpx.InvalidURL, httpx.HTTPError) as e:  # redirects to nowhere or in a circle, a damaged answer
            problem, may_pass = str(e), False
        if attempt == attempts or not may_pass:
            break
        time.sleep(wait_s * 2 ** (attempt - 1))
    raise FetchError(f"{url}: {problem} (tried {attempt} times)" if attempt > 1 else f"{url}: {problem}")


@cache
def _client() -> "httpx.Client":
    """Share one client: its connections are kept open between images, and any thread may use it."""
    import httpx

    return httpx.Client(headers=_HEADERS, follow_redirects=True)


def _body(answer: "httpx.Response", *, max_bytes: int) -> bytes:
    data = bytearray()
    for piece in answer.iter_bytes():
        data += piece
        if len(data) > max_bytes:
            raise FetchError(f"{answer.request.url}: more than {max_bytes:,} bytes")
    return bytes(data)


def download_images(downloads: Iterable[Download], *, fetch: Fetch) -> Iterator[tuple[Download, str | None]]:
    """Fetch images into files, several at once; yield each with None or with its problem, in order.

    A file that already exists is not fetched again, so an interrupted download goes on where it
    stopped. Each answer is decoded before it is kept: a web page saved as .jpg never enters a
    catalogue.
    """
    queue = iter(downloads)
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        while chunk := list(islice(queue, _CHUNK)):
            problems = list(pool.map(lambda d: _download(d, fetch=fetch), chunk))
            yield from zip(chunk, problems, strict=True)


def _download(download: Download, *, fetch: Fetch) -> str | None:
    if download.file.exists():
        return None
    try:
        data = fetch(download.url)
        decode_image(io.BytesIO(data), name=download.url)
    except (FetchError, ImageError) as e:
        return str(e)
    with replace_atomically(download.file) as temporary:
        temporary.write_bytes(data)
    return None
