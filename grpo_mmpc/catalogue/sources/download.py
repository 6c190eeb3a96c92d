"""Fetches product images from the web, politely: time limit, size limit, a few retries, nothing but HTTP."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from grpo_mmpc.catalogue.images import image_from_bytes
from grpo_mmpc.errors import ImageError
from grpo_mmpc.utils.files import replace_atomically

Fetch = Callable[[str], bytes]
"""Returns the bytes behind an address, or raises FetchError."""

_THREADS = 8
_CHUNK = 256
_HEADERS = {"User-Agent": "grpo-mmpc (research; product image download)"}
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
    """The bytes behind an http(s) address.

    Args:
        url: The address. Other schemes are refused: ``file:`` would read this machine's disk.
        timeout_s: Limit for connecting and for each read.
        attempts: Tries in all; only failures that may pass (time-outs, 429, 5xx) are tried again.
        max_bytes: Larger answers are refused.
        wait_s: Pause before the second try; doubles each time.

    Raises:
        FetchError: The address cannot be fetched.
    """
    if url.partition(":")[0].lower() not in ("http", "https"):
        raise FetchError(f"{url[:80]} is no http(s) address")
    for attempt in range(1, attempts + 1):
        try:
            request = urllib.request.Request(url, headers=_HEADERS)
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                data: bytes = answer.read(max_bytes + 1)
                promised = int(answer.headers.get("Content-Length") or 0)
                if len(data) < min(promised, max_bytes):
                    raise ConnectionError(f"the connection broke after {len(data):,} of {promised:,} bytes")
        except urllib.error.HTTPError as e:
            problem, passing = f"HTTP status {e.code}", e.code in _TRANSIENT
        except (OSError, http.client.HTTPException) as e:  # no route, time-out, broken connection
            problem, passing = str(e) or type(e).__name__, not isinstance(e, http.client.InvalidURL)
        except ValueError as e:  # a malformed address
            problem, passing = str(e), False
        else:
            if len(data) > max_bytes:
                raise FetchError(f"{url}: more than {max_bytes:,} bytes")
            return data
        if attempt == attempts or not passing:
            break
        time.sleep(wait_s * 2 ** (attempt - 1))
    raise FetchError(f"{url}: {problem} (tried {attempt} times)" if attempt > 1 else f"{url}: {problem}")


def download_images(downloads: Iterable[Download], *, fetch: Fetch) -> Iterator[tuple[Download, str | None]]:
    """Fetch images into files, several at once; yields each with None, or with what went wrong, in order.

    A file that already exists is not fetched again, so an interrupted download goes on where it
    stopped. What arrives is decoded before it is kept: a web page saved as .jpg never enters a
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
        image_from_bytes(data, name=download.url)
    except (FetchError, ImageError) as e:
        return str(e)
    with replace_atomically(download.file) as temporary:
        temporary.write_bytes(data)
    return None
