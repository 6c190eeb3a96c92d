"""vLLM servers reached over HTTP (``rollout.mode: server``): checked before use, fed adapters, and outlived when they fail.

Nothing of vLLM is imported: the trainer's machine need not have it.
"""

import base64
import hashlib
import io
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from grpo_mmpc.assets import resolve_model
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.groups import Adapter, Completion, GroupOutput, Prompt
from grpo_mmpc.rollout.vllm_arguments import engine_arguments
from grpo_mmpc.rollout.vllm_plugin import ADAPTERS_ROUTE, ENGINE_ROUTE, PLUGIN, model_identity, pack
from grpo_mmpc.rollout.vllm_rollouts import check_prompt_ids
from grpo_mmpc.types import SamplingConfig

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_PROBE_S = 10.0  # health, models, engine: answered at once or not at all
_PROGRESS_EVERY_S = 10.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_SERVE = f"start it with `grpo-mmpc serve RECIPE`, which sets VLLM_PLUGINS={PLUGIN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedEngine:
    """What a server must be for a run."""

    model: str
    """Name of the base model, for messages."""
    model_identity: str | None
    """See ``vllm_plugin.model_identity``; None if the trainer cannot tell, then any base model passes."""
    lora_rank: int
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """``model.processor_kwargs``: min_pixels, max_pixels."""
    context_tokens: int
    """Longest prompt and completion together."""

    def problems(self, facts: Mapping[str, Any]) -> list[str]:
        """What a server's own account of itself lacks, each with its remedy."""
        found = []
        theirs = facts["model_identity"]
        if self.model_identity is not None and theirs != self.model_identity:
            found.append(
                f"serves another base model: {facts['model']} (identity {_short(theirs)}) instead of {self.model} "
                f"(identity {_short(self.model_identity)}); with equal names, the weights or the revision differ"
            )
        if not facts["enable_lora"]:
            found.append("serves no adapters; start it with --enable-lora")
        elif facts["max_lora_rank"] < self.lora_rank:
            found.append(
                f"takes adapters up to rank {facts['max_lora_rank']}, adapter.r is {self.lora_rank}; raise "
                "--max-lora-rank or lower adapter.r"
            )
        if not facts["runtime_lora_updating"]:
            found.append("does not load adapters at run time; set VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
        if facts["logprobs_mode"] != "processed_logprobs":
            found.append(
                f"returns {facts['logprobs_mode']}, which importance-sampling correction cannot use; start it with "
                "--logprobs-mode processed_logprobs"
            )
        ours = json.loads(json.dumps(dict(self.processor_kwargs)))
        if facts["mm_processor_kwargs"] != ours:
            found.append(
                f"prepares images with {facts['mm_processor_kwargs']}, the trainer with {ours}: prompts would differ in "
                f"their number of image tokens; start it with --mm-processor-kwargs '{json.dumps(ours)}'"
            )
        if facts["max_model_len"] < self.context_tokens:
            found.append(
                f"has a context of {facts['max_model_len']} tokens, prompt and completion need up to "
                f"{self.context_tokens}; raise --max-model-len (rollout.engine.max_model_len)"
            )
        return found


def expected_engine(config: RunConfig, *, context_tokens: int) -> ExpectedEngine:
    """What a recipe asks of its servers.

    Args:
        config: The recipe.
        context_tokens: Longest prompt and completion together.
    """
    revision = config.model.init_kwargs.get("revision")
    return ExpectedEngine(
        model=config.model.name_or_path,
        model_identity=model_identity(resolve_model(config.model.name_or_path), revision=revision),
        lora_rank=int(config.adapter.get("r", 8)),
        processor_kwargs=engine_arguments(config).get("mm_processor_kwargs", {}),
        context_tokens=context_tokens,
    )


class ServerVLLM:
    """Implements ``GroupEngine`` with one or more vLLM servers.

    A request that fails for the server's sake (no connection, a timeout, a 5xx status) is sent again, to another server
    if there is one; a request counts as answered only when all its completions are there. A server that comes back is
    checked again and gets its adapters back before it gets prompts. Proxies of the environment are not used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        expected: ExpectedEngine,
        timeout: float,
        max_concurrent: int = 64,
        suppressed_token_ids: Sequence[int] = (),
        say: Callable[[str], None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """Wait for every server and check it.

        Args:
            urls: Base URLs, ``http://host:8000``.
            expected: What each must be.
            timeout: Seconds that servers may take to start, that one request may take, and that all of them may be gone.
            max_concurrent: Requests in flight.
            suppressed_token_ids: Never sampled.
            say: Takes a line of progress every few seconds of waiting; None prints to standard error.
            on_close: Called last by ``close``; stops a server that was started for this run.

        Raises:
            RolloutError: A server does not answer or is not what the run needs; names it and the remedy.
        """
        for url in urls:
            if not re.match(r"https?://[^/]", url):
                raise RolloutError(f"rollout.servers: {url!r} is not a URL; write http://host:8000")
        if not urls:
            raise RolloutError("rollout.servers is empty; name at least one server")
        self._expected = expected
        self._timeout = timeout
        self._max_concurrent = max_concurrent
        self._bias = {str(token): -100.0 for token in suppressed_token_ids}
        self._adapters: dict[str, _Upload] = {}
        self._turn = itertools.count()
        self._answered_at = 0.0
        self._on_close = on_close
        key = os.environ.get("VLLM_API_KEY")
        self._http = httpx.Client(
            trust_env=False,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=_PROBE_S),
            # vLLM closes idle connections after five seconds; ours must be the first to let go.
            limits=httpx.Limits(max_connections=max_concurrent + len(urls), keepalive_expiry=2.0),
        )
        self._servers = [_Server(url.rstrip("/"), self._http) for url in dict.fromkeys(urls)]
        try:
            for server in self._servers:
                self._await_start(server, say or _print)
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
        found = {server.url: str(server.facts["image_attention"]) for server in self._servers}
        if len(set(found.values())) > 1:
            raise RolloutError(f"image tokens attend differently on the rollout servers: {found}; use like machines")
        return next(iter(found.values()))

    def load(self, adapter: Adapter) -> None:
        """See ``GroupEngine.load``. A server that is away gets the adapter when it comes back.

        Raises:
            RolloutError: A server refuses the adapter, or none answers in time.
        """
        upload = _Upload.of(adapter)
        self._adapters[adapter.name] = upload
        try:
            with ThreadPoolExecutor(max_workers=len(self._servers)) as pool:
                reached = list(pool.map(lambda server: self._try(server, lambda s: s.load(upload)), self._servers))
            if not any(reached):
                self._persist(lambda server: server.load(upload), threading.Event())
        except RolloutError:
            del self._adapters[adapter.name]
            raise

    def unload(self, name: str) -> None:
        """See ``GroupEngine.unload``."""
        upload = self._adapters.pop(name)
        for server in self._servers:
            self._try(server, lambda server: server.unload(upload))

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, adapter: str | None
    ) -> list[GroupOutput]:
        """See ``GroupEngine.generate``.

        Raises:
            RolloutError: A server refuses a request, used another prompt than the trainer, or none answers in time.
        """
        if not prompts:
            return []
        self._check_lengths(prompts, sampling)
        upload = None if adapter is None else self._adapters[adapter]
        images = _DataUrls()
        stop = threading.Event()

        def complete(prompt: Prompt) -> GroupOutput:
            body = self._body(prompt, sampling, images)
            return self._persist(lambda server: server.complete(prompt, body, upload, sampling), stop)

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
        """Take this run's adapters off the servers that answer; servers that others started keep running."""
        for upload in self._adapters.values():
            for server in self._servers:
                if server.down_since is None:
                    with suppress(_UnavailableError, RolloutError):
                        server.unload(upload)
        self._adapters.clear()
        self._http.close()
        if self._on_close is not None:
            self._on_close()

    def _await_start(self, server: "_Server", say: Callable[[str], None]) -> None:
        started = told = time.monotonic()
        while True:
            try:
                server.check(self._expected)
                return
            except _UnavailableError as error:
                now = time.monotonic()
                if now - started > self._timeout:
                    raise RolloutError(
                        f"rollout server {server.url} is not there after rollout.server_timeout={self._timeout:g} s "
                        f"({error}); {_SERVE}, or correct rollout.servers"
                    ) from None
                if now - told > _PROGRESS_EVERY_S:
                    told = now
                    say(f"waiting for rollout server {server.url}, {now - started:.0f} s: {error}")
                time.sleep(min(_FIRST_PAUSE_S, self._timeout))

    def _check_lengths(self, prompts: Sequence[Prompt], sampling: SamplingConfig) -> None:
        # vLLM would shorten the completion without a word.
        longest = max(len(prompt.token_ids) for prompt in prompts)
        if longest + sampling.max_tokens > self.max_model_len:
            raise RolloutError(
                f"a prompt of {longest} tokens and a completion of up to {sampling.max_tokens} exceed the servers' "
                f"context of {self.max_model_len}; raise rollout.engine.max_model_len there, or lower "
                "model.processor_kwargs.max_pixels or the completion length"
            )

    def _body(self, prompt: Prompt, sampling: SamplingConfig, images: "_DataUrls") -> dict[str, Any]:
        greedy = sampling.temperature == 0
        return {
            "messages": [_message(message, images) for message in prompt.conversation],
            "n": 1 if greedy else prompt.count,  # vLLM refuses several equal greedy completions
            "seed": None if greedy else prompt.seed,
            "max_completion_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0 if greedy else sampling.top_p,
            "top_k": 0 if greedy else sampling.top_k,
            "logit_bias": self._bias or None,
            "logprobs": True,
            "return_token_ids": True,
            # Named so that no default of a server or model can stand in.
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }

    def _try(self, server: "_Server", task: Callable[["_Server"], object]) -> bool:
        """One attempt on one server that is not known to be down; whether it answered."""
        if server.down_since is not None:
            return False
        started = time.monotonic()
        try:
            task(server)
        except _UnavailableError as error:
            self._went_down(server, error, started)
            return False
        return True

    def _persist(self, task: Callable[["_Server"], Result], stop: threading.Event) -> Result:
        """Run a task on whichever server answers, until none has answered anything for ``timeout`` seconds."""
        failing_since: float | None = None
        num_forgotten = 0
        while not stop.is_set():
            started = time.monotonic()
            server = self._next_server(started)
            if server is not None:
                try:
                    if server.down_since is not None:
                        self._restore(server, started)
                    result = task(server)
                except _UnavailableError as error:
                    self._went_down(server, error, started)
                except _ForgottenError as error:
                    num_forgotten += 1
                    if num_forgotten > 3:
                        raise RolloutError(f"rollout server {server.url}: {error}") from None
                    try:
                        self._restore(server, started)
                    except _UnavailableError as unavailable:
                        self._went_down(server, unavailable, started)
                    continue
                else:
                    self._answered(server, started)
                    return result
            now = time.monotonic()
            failing_since = failing_since or now
            if now - max(failing_since, self._answered_at) > self._timeout:
                raise RolloutError(self._outage())
            if self._next_server(now) is None:
                stop.wait(max(0.05, min(server.retry_at for server in self._servers) - now))
        raise RolloutError("stopped: another request of the same rollout failed")

    def _next_server(self, now: float) -> "_Server | None":
        """Round robin over servers that are up or due for another attempt."""
        first = next(self._turn)
        for offset in range(len(self._servers)):
            server = self._servers[(first + offset) % len(self._servers)]
            if server.down_since is None or server.retry_at <= now:
                return server
        return None

    def _restore(self, server: "_Server", attempted: float) -> None:
        """Bring a server that may have restarted back into use: the same engine, with this run's adapters."""
        with server.restoring:
            if server.checked_at > attempted:  # another request has just done it
                return
            server.check(self._expected)
            for upload in list(self._adapters.values()):
                server.load(upload)
            server.checked_at = time.monotonic()

    def _went_down(self, server: "_Server", error: Exception, attempted: float) -> None:
        with server.state:
            if attempted < server.failed_at:  # in flight together with a request that was counted: one outage
                return
            server.failed_at = time.monotonic()
            server.retry_at = server.failed_at + min(_FIRST_PAUSE_S * 2**server.num_failures, _LONGEST_PAUSE_S)
            server.num_failures += 1
            server.last_error = str(error)
            if server.down_since is None:
                server.down_since = server.failed_at
                logger.warning("rollout server %s: %s; trying again for up to %g s", server.url, error, self._timeout)

    def _answered(self, server: "_Server", attempted: float) -> None:
        with server.state:
            if attempted < server.failed_at:  # sent before the failure: says nothing about now
                return
            self._answered_at = time.monotonic()
            if server.down_since is not None:
                logger.warning(
                    "rollout server %s is back after %.0f s", server.url, time.monotonic() - server.down_since
                )
            server.down_since = None
            server.num_failures = 0

    def _outage(self) -> str:
        errors = "; ".join(f"{server.url}: {server.last_error}" for server in self._servers if server.last_error)
        return (
            f"no rollout server answered for rollout.server_timeout={self._timeout:g} s ({errors}); restart it "
            "(grpo-mmpc serve RECIPE) and continue the run with --resume"
        )


class _UnavailableError(Exception):
    """The server's fault, and perhaps over soon."""


class _ForgottenError(Exception):
    """The server does not know the adapter: it has restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Upload:
    """An adapter as servers get it."""

    name: str
    """The adapter's name and a hash of its content: what another run left under the same name is never taken for it."""
    body: bytes

    @classmethod
    def of(cls, adapter: Adapter) -> "_Upload":
        body = pack(config=adapter.config, weights=adapter.weights)
        digest = hashlib.blake2b(body, digest_size=8).hexdigest()
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", adapter.name).lstrip(".")[:100]
        return cls(name=f"{plain}-{digest}", body=body)


class _Server:
    """One server: its requests, and what is known of its state."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url = url
        self._http = http
        self.facts: Mapping[str, Any] = {}
        self.state = threading.Lock()
        self.restoring = threading.Lock()
        self.down_since: float | None = None
        self.failed_at = 0.0
        self.checked_at = 0.0
        self.retry_at = 0.0
        self.num_failures = 0
        self.last_error = ""

    def check(self, expected: ExpectedEngine) -> None:
        """Refuse a server that is not what the run needs.

        Raises:
            RolloutError: It is another engine, with every difference.
            _UnavailableError: It does not answer.
        """
        self._call("GET", "/health", timeout=_PROBE_S)
        names = self._model_names()
        response = self._call("GET", ENGINE_ROUTE, timeout=_PROBE_S, accept=(404,))
        if response.status_code == 404:
            raise RolloutError(f"rollout server {self.url} cannot receive adapters; {_SERVE}")
        facts = response.json()
        problems = expected.problems(facts)
        if facts["served_model_name"] not in names:
            problems.append(f"does not list its base model {facts['served_model_name']!r} under /v1/models")
        if problems:
            raise RolloutError(
                f"rollout server {self.url} does not fit this run:\n"
                + "\n".join(f"  - it {line}" for line in problems)
                + "\n`grpo-mmpc serve RECIPE` derives all of this from the recipe"
            )
        self.facts = facts

    def load(self, upload: _Upload) -> None:
        """Upload an adapter unless it is there, and load it."""
        if upload.name in self._model_names():
            return
        path = self._call("PUT", f"{ADAPTERS_ROUTE}/{upload.name}", content=upload.body).json()["path"]
        try:
            response = self._call(
                "POST",
                "/v1/load_lora_adapter",
                json={"lora_name": upload.name, "lora_path": path},
                accept=(400,),
            )
        except _UnavailableError as error:
            # vLLM answers 500 to an adapter that it cannot use: for ever, unless the engine has died.
            self._call("GET", "/health", timeout=_PROBE_S)
            raise RolloutError(f"rollout server {self.url} cannot load the adapter: {error}") from error
        if response.status_code == 400 and "already been loaded" not in response.text:
            raise RolloutError(f"rollout server {self.url} refuses the adapter: {_reason(response)}")

    def unload(self, upload: _Upload) -> None:
        """Forget an adapter, also one that is not there."""
        self._call(
            "POST", "/v1/unload_lora_adapter", json={"lora_name": upload.name}, timeout=_PROBE_S, accept=(400, 404)
        )
        self._call("DELETE", f"{ADAPTERS_ROUTE}/{upload.name}", timeout=_PROBE_S, accept=(404,))

    def complete(
        self, prompt: Prompt, body: Mapping[str, Any], upload: _Upload | None, sampling: SamplingConfig
    ) -> GroupOutput:
        """All completions of a prompt."""
        model = self.facts["served_model_name"] if upload is None else upload.name
        response = self._call("POST", "/v1/chat/completions", json={**body, "model": model}, accept=(404,))
        if response.status_code == 404:
            raise _ForgottenError(_reason(response))
        answer = response.json()
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            reasons = {choice["finish_reason"] for choice in choices}
            prompt_ids = [int(token) for token in answer["prompt_token_ids"]]
            completions = [
                Completion(
                    token_ids=[int(token) for token in choice["token_ids"]],
                    logprobs=[float(token["logprob"]) for token in choice["logprobs"]["content"]],
                )
                for choice in choices
            ]
        except (KeyError, TypeError) as error:
            raise RolloutError(
                f"rollout server {self.url} answers without token ids or log-probabilities ({error!r}); vLLM 0.31 is needed"
            ) from error
        if not reasons <= {"stop", "length"}:  # a server that is shutting down hands out what it has so far
            raise _UnavailableError(f"it ended a completion with {sorted(reasons - {'stop', 'length'})}")
        if len(completions) != body["n"] or any(len(c.token_ids) != len(c.logprobs) for c in completions):
            raise RolloutError(
                f"rollout server {self.url} returned {len(completions)} completions of {body['n']}, with "
                f"{[len(c.logprobs) for c in completions]} log-probabilities for {[len(c.token_ids) for c in completions]} "
                "tokens"
            )
        self._compare(prompt.token_ids, prompt_ids)
        repeated = prompt.count if sampling.temperature == 0 else 1
        return GroupOutput(prompt_ids=prompt_ids, completions=completions * repeated)

    def _model_names(self) -> list[str]:
        response = self._call("GET", "/v1/models", timeout=_PROBE_S)
        try:
            return [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise RolloutError(
                f"{self.url} is not a vLLM server: /v1/models answered {response.text[:200]!r}"
            ) from error

    def _compare(self, trainer: Sequence[int], engine: Sequence[int]) -> None:
        try:
            check_prompt_ids(trainer, engine)
        except RolloutError as error:
            image_token = self.facts["image_token_id"]
            counts = f"{list(trainer).count(image_token)} in the trainer's prompt, {list(engine).count(image_token)} in"
            raise RolloutError(f"rollout server {self.url}: {error}. Image tokens: {counts} the server's") from None

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        timeout: float | None = None,
        accept: tuple[int, ...] = (),
    ) -> httpx.Response:
        """One request. Statuses from 400 on are errors except those in ``accept``."""
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            response = self._http.request(method, self.url + path, json=json, content=content, **options)
        except httpx.TransportError as error:
            raise _UnavailableError(f"{method} {path}: {str(error) or type(error).__name__}") from error
        if response.status_code >= 500:
            raise _UnavailableError(f"{method} {path} answered {response.status_code}: {_reason(response)}")
        if response.status_code == 401:
            raise RolloutError(f"rollout server {self.url} wants an API key; set VLLM_API_KEY as on the server")
        if response.status_code >= 400 and response.status_code not in accept:
            raise RolloutError(
                f"rollout server {self.url} refuses {method} {path} ({response.status_code}): {_reason(response)}"
            )
        return response


class _DataUrls:
    """Images as PNG data URLs, each object encoded once; valid as long as the images live."""

    def __init__(self) -> None:
        self._urls: dict[int, str] = {}

    def of(self, image: Any) -> str:
        url = self._urls.get(id(image))
        if url is None:
            plain = image.convert("RGB")
            plain.info = {}  # an orientation tag would turn the image a second time
            stream = io.BytesIO()
            plain.save(stream, format="PNG", compress_level=1)
            url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
            self._urls[id(image)] = url
        return url


def _message(message: Mapping[str, Any], images: _DataUrls) -> dict[str, Any]:
    """A chat message in the form that vLLM's API takes."""
    if isinstance(message["content"], str):
        return {"role": message["role"], "content": message["content"]}
    parts = [
        {"type": "image_url", "image_url": {"url": images.of(part["image"])}}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in message["content"]
    ]
    return {"role": message["role"], "content": parts}


def _reason(response: httpx.Response) -> str:
    """What a server says about its refusal."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text.strip()[:300] or "no reason given"


def _short(identity: str | None) -> str:
    return identity[:12] if identity else "unknown"


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
