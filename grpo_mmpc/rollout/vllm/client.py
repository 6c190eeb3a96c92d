"""The client of one vLLM server: its requests, and whose fault a failure is."""

import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import httpx

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter import Adapter
from grpo_mmpc.rollout.vllm.adapter_store import content_hash, pack
from grpo_mmpc.rollout.vllm.arguments import SUPPORTED
from grpo_mmpc.rollout.vllm.plugin import ADAPTERS_ROUTE, ENGINE_ROUTE, PLUGIN
from grpo_mmpc.rollout.vllm.protocol import Completion, GroupOutput, Prompt
from grpo_mmpc.rollout.vllm.requests import check_prompt_ids
from grpo_mmpc.rollout.vllm.server_facts import ExpectedEngine
from grpo_mmpc.utils.single_out import Failure, Raised

CONNECT_S = 10.0
_REFUSED = (400, 413, 422)
_PIECE_BYTES = 2**20
HOW_TO_START = f"start it with `grpo-mmpc serve RECIPE`, which sets VLLM_PLUGINS={PLUGIN}"


class UnavailableError(Exception):
    """The server's fault, and perhaps over soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An adapter as servers get it."""

    name: str
    """The adapter's name and a hash of its content: what another run left under the same name is
    never taken for it."""
    body: bytes

    @classmethod
    def of(cls, adapter: Adapter) -> "Upload":
        """Pack an adapter under a name that only it can have."""
        body = pack(config=adapter.config, weights=adapter.weights)
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", adapter.name).lstrip(".")[:90]
        return cls(name=f"{plain}-{content_hash(body)}", body=body)


class Connections:
    """The open connections of a client; to close them does not wake who waits, to end them does."""

    def __init__(self) -> None:
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def note(self, event: str, info: Mapping[str, Any]) -> None:
        """Hear what httpx traces of a request."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._sockets.add(info["return_value"].get_extra_info("socket"))

    def end(self) -> None:
        """Let every request that is under way fail."""
        for each in list(self._sockets):
            with suppress(OSError):  # closed meanwhile
                each.shutdown(socket.SHUT_RDWR)


class Server:
    """One server: its requests, and the last known state."""

    def __init__(self, url: str, http: httpx.Client, connections: Connections) -> None:
        self.url = url
        self._http = http
        self._trace = {"trace": connections.note}
        self.facts: Mapping[str, Any] = {}
        self.down_since: float | None = None
        self.failed_at = 0.0
        self.is_tried = False
        """A request is finding out whether it is back."""
        self.in_flight = 0
        """Requests of this process that it has not answered yet."""
        self.last_error = ""

    def check(self, expected: ExpectedEngine) -> None:
        """Refuse a server that is not what the run needs.

        Raises:
            RolloutError: It is another engine, with every difference.
            UnavailableError: It does not answer.
        """
        self._call("GET", "/health")
        names = self._model_names()
        response = self._call("GET", ENGINE_ROUTE, accept=(404,))
        if response.status_code == 404:
            raise RolloutError(f"rollout server {self.url} cannot receive adapters; {HOW_TO_START}")
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

    def load(self, upload: Upload) -> None:
        """Upload and load an adapter unless it is there."""
        if upload.name in self._model_names():
            return
        answer = self._call("PUT", f"{ADAPTERS_ROUTE}/{upload.name}", content=upload.body, accept=(422, 507))
        if answer.status_code == 422:
            raise RolloutError(f"rollout server {self.url} cannot load the adapter: {_reason(answer)}")
        if answer.status_code == 507:  # waiting makes no room
            raise RolloutError(f"rollout server {self.url}: {_reason(answer)}")

    def unload(self, upload: Upload) -> None:
        """Unload and delete an adapter, also one that is not there."""
        self._call("DELETE", f"{ADAPTERS_ROUTE}/{upload.name}", accept=(404,))

    def complete(self, prompt: Prompt, body: Mapping[str, Any], upload: Upload | None) -> GroupOutput | Failure:
        """Return all completions of a prompt, or the server's refusal of it."""
        model = self.facts["served_model_name"] if upload is None else upload.name
        response = self._call("POST", "/v1/chat/completions", json={**body, "model": model}, accept=(*_REFUSED, 404))
        if response.status_code in _REFUSED:
            return Raised(reason=f"rollout server {self.url} refuses it ({response.status_code}): {_reason(response)}")
        if response.status_code == 404:
            raise UnavailableError(f"it has restarted: {_reason(response)}")
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
                f"rollout server {self.url} answers without token ids or log-probabilities ({error!r}); "
                f"vLLM {SUPPORTED} is needed"
            ) from error
        if not reasons <= {"stop", "length"}:  # a server that is shutting down hands out what it has so far
            raise UnavailableError(f"it ended a completion with {sorted(reasons - {'stop', 'length'})}")
        if len(completions) != body["n"] or any(len(c.token_ids) != len(c.logprobs) for c in completions):
            raise RolloutError(
                f"rollout server {self.url} returned {len(completions)} completions of {body['n']}, with "
                f"{[len(c.logprobs) for c in completions]} log-probabilities for "
                f"{[len(c.token_ids) for c in completions]} tokens"
            )
        self._compare(prompt.token_ids, prompt_ids)
        repeats = prompt.count // len(completions)  # greedy completions are asked for once
        return GroupOutput(prompt_ids=prompt_ids, completions=completions * repeats, server=self.url)

    def _model_names(self) -> list[str]:
        response = self._call("GET", "/v1/models")
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
        accept: tuple[int, ...] = (),
    ) -> httpx.Response:
        """Send one request. Statuses from 400 on are errors except those in ``accept``."""
        # httpcore copies what is left of a piece whenever the socket takes a part of it.
        pieces = (
            None if content is None else (content[i : i + _PIECE_BYTES] for i in range(0, len(content), _PIECE_BYTES))
        )
        headers = {} if content is None else {"Content-Length": str(len(content))}
        try:
            response = self._http.request(
                method, self.url + path, json=json, content=pieces, headers=headers, extensions=self._trace
            )
        except httpx.TransportError as error:
            raise UnavailableError(f"{method} {path}: {str(error) or type(error).__name__}") from error
        if response.status_code >= 500 and response.status_code not in accept:
            raise UnavailableError(f"{method} {path} answered {response.status_code}: {_reason(response)}")
        if response.status_code == 401:
            raise RolloutError(f"rollout server {self.url} wants another API key; set VLLM_API_KEY as on the server")
        if response.status_code >= 400 and response.status_code not in accept:
            raise RolloutError(
                f"rollout server {self.url} refuses {method} {path} ({response.status_code}): {_reason(response)}"
            )
        return response


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text.strip()[:300] or "no reason given"
