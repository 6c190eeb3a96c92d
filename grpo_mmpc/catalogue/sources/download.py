"""Fetch product images from the web: many at once, public addresses only, within limits."""

import asyncio
import io
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from grpo_mmpc.catalogue.images import decode_image
from grpo_mmpc.catalogue.sources.addresses import RefusedError, check_url
from grpo_mmpc.errors import ImageError
from grpo_mmpc.utils.files import append_json_lines, read_json_lines, replace_atomically

if TYPE_CHECKING:
    import aiohttp

_T = TypeVar("_T")
_HEADERS = {"User-Agent": "grpo-mmpc (research; product image download)"}
# Worth another try; every other status will be the same next time.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_JOURNAL = "images_not_there.jsonl"
"""The file in a catalogue folder with the addresses that will never have an image."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one download may take."""

    total_s: float = 30.0
    """One try, from the first byte sent to the last received."""
    connect_s: float = 10.0
    least_bytes_per_s: float = 2_000.0
    """After ``grace_s``."""
    grace_s: float = 5.0
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    attempts: int = 3
    """Tries of an address whose failure may pass."""
    wait_s: float = 1.0
    """Pause before the second try; doubles each time, give or take a half."""
    longest_wait_s: float = 120.0
    """A server that asks for a longer pause (Retry-After) is left for the next run."""
    at_once: int = 256
    per_host: int = 16
    hanging_s: float = 2.0
    """After so long without an answer a request no longer counts among those of its host."""
    host_failures: int = 32
    """Timeouts in a row after which a host is left for the next run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One image to fetch, from the first of several addresses that has it."""

    urls: tuple[str, ...]
    file: Path


Fetch = Callable[[Iterable[Download]], Mapping[Path, str]]
"""Fetches images, returns the problems of those that could not be had; see ``download_images``."""


class _FetchError(Exception):
    def __init__(self, reason: str, *, may_pass: bool, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.may_pass = may_pass
        self.wait_s = wait_s


def download_images(
    downloads: Iterable[Download],
    *,
    journal: Path,
    limits: Limits | None = None,
    allowed_hosts: frozenset[str] = frozenset(),
    progress: Callable[[int], None] | None = None,
) -> Mapping[Path, str]:
    """Fetch images into files; return the problems of those that could not be fetched.

    A file that is there is not fetched again, and an address that failed for good (not found, no
    image) is written into the journal and not asked again, so that an interrupted download goes on
    where it stopped. Each answer is decoded before it is kept: a web page saved as .jpg never
    enters a catalogue.

    Args:
        downloads: What to fetch; read as places become free.
        journal: File of JSON lines with the addresses that failed for good.
        limits: Of time, size and load.
        allowed_hosts: Hosts that may lie in a private network; all others must be public.
        progress: Called with the number of images done.
    """
    return _beside(_Run(journal, limits or Limits(), allowed_hosts, progress).all(downloads))


def _beside(work: Coroutine[Any, Any, _T]) -> _T:
    """Run it in a thread: what a signal raises amid a loop loses it a step that is waited for."""
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()
    task = loop.create_task(work)

    def run() -> _T:
        with runner:
            return loop.run_until_complete(task)

    with ThreadPoolExecutor(1, thread_name_prefix="download") as pool:
        future = pool.submit(run)
        try:
            return future.result()
        except BaseException:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(task.cancel)
            raise


def downloads_into(
    folder: Path, *, allowed_hosts: Iterable[str], progress: Callable[[int], None]
) -> Callable[[Iterable[Download]], Mapping[Path, str]]:
    """Return ``download_images`` for a catalogue folder, which keeps the journal."""
    return partial(
        download_images, journal=folder / _JOURNAL, allowed_hosts=frozenset(allowed_hosts), progress=progress
    )


class _Run:
    def __init__(
        self, journal: Path, limits: Limits, allowed_hosts: frozenset[str], progress: Callable[[int], None] | None
    ) -> None:
        self._journal, self._limits, self._progress = journal, limits, progress
        self._allowed = allowed_hosts
        rows = read_json_lines(journal, skip_broken=True) if journal.is_file() else []
        self._known = {str(row["url"]): str(row["problem"]) for row in rows if {"url", "problem"} <= row.keys()}
        self._not_before: dict[str, float] = defaultdict(float)
        self._timeouts: Counter[str] = Counter()
        self._hosts: dict[str, asyncio.Semaphore] = {}
        self._problems: dict[Path, str] = {}
        self._done = 0

    async def all(self, downloads: Iterable[Download]) -> Mapping[Path, str]:
        # heavy: imported on use
        import aiohttp

        from grpo_mmpc.catalogue.sources.resolver import PublicResolver

        # A proxy of the environment is the user's own, and looks up the names itself.
        proxies = {urlsplit(address).hostname or "" for address in getproxies().values()}
        connector = aiohttp.TCPConnector(
            limit=self._limits.at_once, resolver=PublicResolver(self._allowed | proxies), ttl_dns_cache=300
        )
        timeout = aiohttp.ClientTimeout(total=self._limits.total_s, sock_connect=self._limits.connect_s)
        waiting: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=_HEADERS, trust_env=bool(proxies)
        ) as self._session:
            try:
                for download in downloads:
                    if len(waiting) >= self._limits.at_once:
                        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    waiting.add(asyncio.create_task(self._one(download)))
                await asyncio.gather(*waiting)
            finally:
                for task in waiting:
                    task.cancel()
        return self._problems

    async def _one(self, download: Download) -> None:
        problems: list[str] = []
        if not (download.file.is_file() and download.file.stat().st_size):
            for url in download.urls:
                problem = self._known.get(url) or await self._address(url, download.file)
                if problem is None:
                    problems = []
                    break
                problems.append(problem)
        if problems:
            self._problems[download.file] = "; ".join(problems)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done)

    async def _address(self, url: str, file: Path) -> str | None:
        """Fetch one address into a file; return its problem."""
        for attempt in range(1, self._limits.attempts + 1):
            try:
                data = await self._fetch(url)
                await asyncio.to_thread(_keep, data, url=url, file=file)
                return None
            except ImageError as error:
                failure = _FetchError(str(error), may_pass=False)
            except _FetchError as error:
                failure = error
            problem = f"{url}: {failure}" if url not in str(failure) else str(failure)
            if not failure.may_pass:
                if url not in self._known:  # of several items with one address the first that hears it
                    self._known[url] = problem
                    append_json_lines(self._journal, [{"url": url, "problem": problem}])
                return problem
            if failure.wait_s > self._limits.longest_wait_s or attempt == self._limits.attempts:
                break
            pause = self._limits.wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            await asyncio.sleep(max(pause, failure.wait_s))
        return f"{problem} (tried {attempt} times)" if attempt > 1 else problem

    async def _fetch(self, url: str) -> bytes:
        import aiohttp

        for _ in range(self._limits.max_redirects + 1):
            try:
                host = check_url(url, allowed_hosts=self._allowed)
                with ExitStack() as place:
                    places = self._hosts.setdefault(host, asyncio.Semaphore(self._limits.per_host))
                    await places.acquire()
                    place.callback(places.release)
                    answer = await self._get(url, host, place)
            except (RefusedError, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
                raise _FetchError(str(error) or f"{url[:80]} is no http(s) address", may_pass=False) from error
            except TimeoutError as error:
                self._timeouts[host] += 1
                raise _FetchError(f"no answer within {self._limits.total_s:g} s", may_pass=True) from error
            except (aiohttp.ClientError, OSError) as error:
                refused = next((e for e in (error, error.__cause__) if isinstance(e, RefusedError)), None)
                reason = str(refused or error) or type(error).__name__
                raise _FetchError(reason, may_pass=refused is None) from error
            except ValueError as error:
                raise _FetchError(f"redirects to what is no http(s) address: {error}", may_pass=False) from error
            if isinstance(answer, bytes):
                self._timeouts[host] = 0
                return answer
            url = answer
        raise _FetchError(f"more than {self._limits.max_redirects} redirects", may_pass=False)

    async def _get(self, url: str, host: str, place: ExitStack) -> bytes | str:
        """Return the body of an address, or the address that it redirects to.

        The ``place`` among those of the host is given back where the answer keeps others waiting.
        """
        if self._timeouts[host] >= self._limits.host_failures:
            raise _FetchError(f"{host} does not answer; left for the next run", may_pass=True, wait_s=float("inf"))
        pause = self._not_before[host] - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        hanging = asyncio.get_running_loop().call_later(self._limits.hanging_s, place.close)
        place.callback(hanging.cancel)
        async with self._session.get(url, allow_redirects=False) as answer:
            hanging.cancel()
            if answer.status in _REDIRECTS and "Location" in answer.headers:
                return str(answer.url.join(type(answer.url)(answer.headers["Location"])))
            if answer.status != 200:
                wait_s = _retry_after(answer.headers.get("Retry-After"))
                if answer.status in _TRANSIENT and wait_s <= self._limits.longest_wait_s:
                    self._not_before[host] = max(self._not_before[host], time.monotonic() + wait_s)
                raise _FetchError(f"HTTP status {answer.status}", may_pass=answer.status in _TRANSIENT, wait_s=wait_s)
            if not (answer.content_type or "image/").startswith(_IMAGE_TYPES):
                raise _FetchError(f"{answer.content_type} is no image", may_pass=False)
            return await self._body(answer)

    async def _body(self, answer: "aiohttp.ClientResponse") -> bytes:
        limits, data, started = self._limits, bytearray(), time.monotonic()
        async for piece in answer.content.iter_chunked(1 << 16):
            data += piece
            if len(data) > limits.max_bytes:
                raise _FetchError(f"more than {limits.max_bytes:,} bytes", may_pass=False)
            seconds = time.monotonic() - started
            if seconds > limits.grace_s and len(data) < limits.least_bytes_per_s * seconds:
                raise _FetchError(f"slower than {limits.least_bytes_per_s:g} bytes a second", may_pass=True)
        return bytes(data)


def _keep(data: bytes, *, url: str, file: Path) -> None:
    decode_image(io.BytesIO(data), name=url)
    with replace_atomically(file) as temporary:
        temporary.write_bytes(data)


def _retry_after(value: str | None) -> float:
    """Return the seconds that a server asks for, given as a number or as a date."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
