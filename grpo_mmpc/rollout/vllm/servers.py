"""vLLM servers reached over HTTP (``rollout.mode: server``), and outlived when they fail.

Nothing of vLLM is imported: the trainer's machine need not have it.
"""

import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import httpx

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter import Adapter
from grpo_mmpc.rollout.vllm.client import CONNECT_S, HOW_TO_START, Connections, Server, UnavailableError, Upload
from grpo_mmpc.rollout.vllm.guard import KEY_VARIABLE
from grpo_mmpc.rollout.vllm.plugin import OWNER_HEADER
from grpo_mmpc.rollout.vllm.protocol import GroupOutput, Prompt
from grpo_mmpc.rollout.vllm.requests import DataUrls, chat_request, unfit
from grpo_mmpc.rollout.vllm.server_facts import ExpectedEngine
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.single_out import Failure

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_PAUSE_S = 0.5
"""Before a server that failed is tried again."""


class ServerVLLM:
    """Implements ``GroupEngine`` with one or more vLLM servers.

    A request that fails for the server's sake (no connection, a timeout, a 5xx status) is sent
    again, to another server if there is one; a request counts as answered only when all its
    completions are there. One request at a time finds out whether a server is back: it is checked
    again and gets its adapters before it gets prompts. Proxies of the environment are not used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        expected: ExpectedEngine,
        timeout: float,
        ranks: Ranks = ONE,
        max_concurrent: int = 64,
        suppressed_token_ids: Sequence[int] = (),
        chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
        api_key: str | None = None,
        owner: str = "",
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Wait for every server and check it.

        Args:
            urls: Base URLs, ``http://host:8000``.
            expected: What each must be.
            timeout: Seconds that servers may take to start, that one request may take, and that all
                of them may be gone.
            ranks: Those that use the servers together: each sends adapters to its share of them and
                begins with other servers.
            max_concurrent: Requests in flight.
            suppressed_token_ids: Never sampled.
            chat_template_kwargs: See ``arguments.template_options``.
            api_key: Of the servers; None takes ``VLLM_API_KEY``.
            owner: Tells this run's adapters from those of others.
            on_close: Called last by ``close``; stops a server that was started for this run.

        Raises:
            RolloutError: A server does not answer or is not what the run needs; names it and the
                remedy.
        """
        for url in urls:
            if not re.match(r"https?://[^/]", url):
                raise RolloutError(f"rollout.servers: {url!r} is not a URL; write http://host:8000")
        if not urls:
            raise RolloutError("rollout.servers is empty; name at least one server")
        self._expected = expected
        self._timeout = timeout
        self._ranks = ranks
        self._max_concurrent = max_concurrent
        self._suppressed = list(suppressed_token_ids)
        self._template = chat_template_kwargs
        self._adapters: dict[str, Upload] = {}
        self._turn = itertools.count()
        self._noting = threading.Lock()
        self._closes = threading.Event()
        self._answered_at = 0.0
        self._on_close = on_close
        key = api_key or os.environ.get(KEY_VARIABLE)
        self._http = httpx.Client(
            trust_env=False,
            headers={OWNER_HEADER: owner} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(timeout, connect=CONNECT_S),
            # vLLM closes idle connections after five seconds; ours must be the first to let go.
            limits=httpx.Limits(max_connections=max_concurrent + len(urls), keepalive_expiry=2.0),
        )
        self._background = ThreadPoolExecutor(max_workers=1)
        self._connections = Connections()
        self._servers = [Server(url.rstrip("/"), self._http, self._connections) for url in dict.fromkeys(urls)]
        try:
            for server in self._servers:
                self._await_start(server)
        except BaseException:
            self._http.close()
            raise

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together, on the server that takes the fewest."""
        return min(int(server.facts["max_model_len"]) for server in self._servers)

    @property
    def image_attention(self) -> str:
        """``bidirectional`` or ``causal``: what image tokens of these engines see.

        Raises:
            RolloutError: The servers are not alike.
        """
        attention = {server.url: str(server.facts["image_attention"]) for server in self._servers}
        if len(set(attention.values())) > 1:
            raise RolloutError(
                f"image tokens attend differently on the rollout servers: {attention}; use like machines"
            )
        return next(iter(attention.values()))

    @property
    def lora_dtype(self) -> str:
        """See ``GroupEngine.lora_dtype``; float32 where servers differ: each casts by itself."""
        dtypes = {str(server.facts["lora_dtype"]) for server in self._servers}
        return dtypes.pop() if len(dtypes) == 1 else "float32"

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Refuse: only adapters travel to servers.

        Raises:
            RolloutError: Always.
        """
        raise RolloutError("only adapters travel to servers; set rollout.mode=colocate")

    def load(self, adapter: Adapter) -> None:
        """See ``GroupEngine.load``.

        Each rank sends the adapter to its share of the servers. A server that is away
        gets it when it comes back, from the rank that finds it there.

        Raises:
            RolloutError: A server refuses the adapter, or none answers in time; on every rank.
        """
        upload = Upload.of(adapter)
        self._adapters[adapter.name] = upload
        try:
            self._ranks.on_all(lambda: self._send(upload), error=RolloutError)
        except Exception:
            del self._adapters[adapter.name]
            raise

    def unload(self, name: str) -> None:
        """See ``GroupEngine.unload``; the main rank does it, and nobody waits for a slow server."""
        upload = self._adapters.pop(name)
        if self._ranks.is_main:
            self._background.submit(self._unload, upload)

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, adapter: str | None
    ) -> list[GroupOutput | Failure]:
        """See ``GroupEngine.generate``.

        Raises:
            RolloutError: A server used another prompt than the trainer, or none answers in time.
        """
        if not prompts:
            return []
        upload = None if adapter is None else self._adapters[adapter]
        images = DataUrls()
        # As if one process dealt the prompts of all ranks: the ranks together give every server its
        # share.
        self._turn = itertools.count(self._ranks.rank * len(prompts))
        stop = threading.Event()

        def complete(prompt: Prompt) -> GroupOutput | Failure:
            refused = unfit(prompt, sampling, context=self.max_model_len)
            if refused is not None:
                return refused
            body = chat_request(
                prompt,
                sampling,
                images=images,
                suppressed_token_ids=self._suppressed,
                chat_template_kwargs=self._template,
            )
            return self._persist(lambda server: server.complete(prompt, body, upload), stop)

        with ThreadPoolExecutor(max_workers=min(self._max_concurrent, len(prompts))) as pool:
            futures = [pool.submit(complete, prompt) for prompt in prompts]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future.done():
                        future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]

    def close(self) -> None:
        """Unload this run's adapters; servers that others started keep running.

        What another thread waits for ends with an error.
        """
        self._closes.set()
        for name in list(self._adapters) if self._on_close is None else ():
            self.unload(name)
        self._background.shutdown()
        self._connections.end()
        self._http.close()
        if self._on_close is not None:
            self._on_close()

    def _unload(self, upload: Upload) -> None:
        for server in [server for server in self._servers if server.down_since is None]:
            try:
                server.unload(upload)
            except (UnavailableError, RolloutError) as error:
                logger.info("rollout server %s keeps adapter %s: %s", server.url, upload.name, error)

    def _send(self, upload: Upload) -> None:
        mine = self._servers[self._ranks.rank :: self._ranks.count]
        if not mine:
            return
        with ThreadPoolExecutor(max_workers=len(mine)) as pool:
            reached = list(pool.map(partial(self._try, task=partial(Server.load, upload=upload)), mine))
        if not any(reached):
            self._persist(partial(Server.load, upload=upload), threading.Event())

    def _await_start(self, server: Server) -> None:
        started = time.monotonic()
        with Progress() as show:
            while True:
                try:
                    server.check(self._expected)
                    return
                except UnavailableError as error:
                    seconds = time.monotonic() - started
                    if seconds > self._timeout:
                        raise RolloutError(
                            f"rollout server {server.url} is not there after rollout.server_timeout="
                            f"{self._timeout:g} s ({error}); {HOW_TO_START}, or correct rollout.servers"
                        ) from None
                    show(f"waiting for rollout server {server.url}", seconds, detail=str(error))
                    time.sleep(min(_PAUSE_S, self._timeout))

    def _try(self, server: Server, task: Callable[[Server], object]) -> bool:
        """Try once on a server that is not known to be down, and return whether it answered."""
        if server.down_since is not None:
            return False
        started = time.monotonic()
        try:
            task(server)
        except UnavailableError as error:
            self._went_down(server, error, started)
            return False
        return True

    def _persist(self, task: Callable[[Server], Result], stop: threading.Event) -> Result:
        """Run a task on whichever server answers; give up if none has answered for ``timeout``."""
        failing_since = 0.0
        while not (stop.is_set() or self._closes.is_set()):
            started = time.monotonic()
            server, is_down = self._take(started)
            if server is not None:
                try:
                    if is_down:
                        self._restore(server)
                    result = task(server)
                except UnavailableError as error:
                    self._went_down(server, error, started)
                except RuntimeError:  # of a client that was closed in this moment
                    if not self._closes.is_set():
                        raise
                else:
                    self._answered(server, started)
                    return result
                finally:
                    with self._noting:
                        server.in_flight -= 1
                        if is_down:
                            server.is_tried = False
            now = time.monotonic()
            failing_since = failing_since or now
            is_tried = any(server.is_tried for server in self._servers)  # one may be about to answer
            if not is_tried and now - max(failing_since, self._answered_at) > self._timeout:
                raise RolloutError(self._outage())
            if not self._usable(now):
                stop.wait(_PAUSE_S / 5)
        raise RolloutError(
            "stopped: the run ended" if self._closes.is_set() else "stopped: another request of the same rollout failed"
        )

    def _usable(self, now: float) -> list[Server]:
        """Return the servers that are up, or due for another attempt that no request makes yet."""
        return [
            server
            for server in self._servers
            if server.down_since is None or (server.failed_at + _PAUSE_S <= now and not server.is_tried)
        ]

    def _take(self, now: float) -> tuple[Server | None, bool]:
        """Return the usable server with the fewest requests in flight, and whether it was down.

        Of several the next; None where no server is usable.
        """
        with self._noting:
            usable = self._usable(now)
            if not usable:
                return None, False
            turn = next(self._turn)
            server = min(
                (usable[(turn + place) % len(usable)] for place in range(len(usable))), key=lambda one: one.in_flight
            )
            server.in_flight += 1
            server.is_tried = server.down_since is not None
            return server, server.is_tried

    def _restore(self, server: Server) -> None:
        """Check a server that may have restarted, and give it this run's adapters back."""
        server.check(self._expected)
        for upload in list(self._adapters.values()):
            server.load(upload)

    def _went_down(self, server: Server, error: Exception, attempted: float) -> None:
        with self._noting:
            if attempted < server.failed_at:  # in flight together with a request that was counted: one outage
                return
            server.failed_at = time.monotonic()
            server.last_error = str(error)
            if server.down_since is None:
                server.down_since = server.failed_at
                logger.warning("rollout server %s: %s; trying again for up to %g s", server.url, error, self._timeout)

    def _answered(self, server: Server, attempted: float) -> None:
        with self._noting:
            if attempted < server.failed_at:  # sent before the failure: says nothing about now
                return
            self._answered_at = time.monotonic()
            if server.down_since is not None:
                logger.warning(
                    "rollout server %s is back after %.0f s", server.url, self._answered_at - server.down_since
                )
            server.down_since = None

    def _outage(self) -> str:
        errors = "; ".join(f"{server.url}: {server.last_error}" for server in self._servers if server.last_error)
        return (
            f"no rollout server answered for rollout.server_timeout={self._timeout:g} s ({errors}); restart it "
            "(grpo-mmpc serve RECIPE) and continue the run with --resume"
        )
