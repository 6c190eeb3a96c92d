"""The network's edge of a vLLM server, which fails when told to.

Prompts are numbers written as text: their token ids.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from grpo_mmpc.rollout.vllm.adapter_store import unpack

FACTS = {
    "vllm_version": "0.31.0",
    "model": "/models/base",
    "served_model_name": "base",
    "model_identity": "aaaa",
    "dtype": "float32",
    "quantization": None,
    "max_model_len": 100,
    "logprobs_mode": "processed_logprobs",
    "mm_processor_kwargs": {"max_pixels": 7056},
    "image_token_id": 6,
    "image_attention": "causal",
    "enable_lora": True,
    "max_lora_rank": 8,
    "max_loras": 1,
    "lora_dtype": "float32",
    "structured_outputs": {"backend": "xgrammar", "disable_any_whitespace": True},
}


class FakeVLLM:
    """A server on the loopback interface.

    A completion of a request with seed s is the tokens [s, its index]: whatever goes astray is
    visible in the result.
    """

    def __init__(self, port: int = 0, **facts: Any) -> None:
        self.facts: dict[str, Any] = {**FACTS, **facts}
        self.files: dict[str, tuple[bytes, bytes]] = {}
        """Uploaded adapters: config and weights."""
        self.loaded: list[str] = []
        self.uploads: list[str] = []
        """Every upload ever, in order."""
        self.unloads = 0
        """Requests to remove an adapter that came in."""
        self.before_unload: Callable[[], object] = lambda: None
        """Called before an adapter is removed."""
        self.chats: list[dict[str, Any]] = []
        """Bodies of the completion requests that came in."""
        self.api_keys: set[str | None] = set()
        self.fault: Callable[[int], str | None] = lambda number: None
        """For the n-th completion request, from 0: reset, hang, abort, cut, a status code as text,
        or None."""
        self.has_plugin = True
        self.refuses_adapters = ""
        self.room = 100
        """Adapters that fit; the next upload is answered 507."""
        self.prompt_ids: Callable[[list[int]], list[int]] = lambda ids: ids
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def restart(self) -> None:
        """What a new process on the same port knows: nothing."""
        self.files.clear()
        self.loaded.clear()

    def next_chat(self, body: dict[str, Any]) -> str | None:
        with self._lock:
            self.chats.append(body)
            number = len(self.chats) - 1
        return self.fault(number)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["model"] not in (self.facts["served_model_name"], *self.loaded):
            return 404, _error(f"The model `{body['model']}` does not exist.")
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")
        return 200, {
            "prompt_token_ids": self.prompt_ids([int(word) for word in text.split()]),
            "choices": [
                {
                    "index": index,
                    "finish_reason": "stop",
                    "token_ids": [body["seed"] or 0, index],
                    "logprobs": {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.25}]},
                }
                for index in reversed(range(body["n"]))  # a server may answer in any order
            ],
        }


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}


def _handler(fake: FakeVLLM) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0, the default: every request has a connection of its own, so that stop() leaves
        # none open.
        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_GET(self) -> None:
            fake.api_keys.add(self.headers.get("Authorization"))
            if self.path == "/health":
                self.reply(200, {})
            elif self.path == "/v1/models":
                self.reply(200, {"data": [{"id": name} for name in (fake.facts["served_model_name"], *fake.loaded)]})
            elif self.path == "/grpo_mmpc/engine" and fake.has_plugin:
                self.reply(200, fake.facts)
            else:
                self.reply(404, {"detail": "Not Found"})

        def do_PUT(self) -> None:
            name = self.path.rpartition("/")[2]
            content = unpack(self.body())
            fake.uploads.append(name)
            if len(fake.files) >= fake.room:
                self.reply(507, _error("the server cannot store the adapter: no room"))
                return
            if fake.refuses_adapters:
                self.reply(422, _error(fake.refuses_adapters))
                return
            fake.files[name] = content
            fake.loaded.append(name)
            self.reply(200, {})

        def do_DELETE(self) -> None:
            fake.unloads += 1
            fake.before_unload()
            name = self.path.rpartition("/")[2]
            there = fake.files.pop(name, None)
            if there:
                fake.loaded.remove(name)
            self.reply(200 if there else 404, {})

        def do_POST(self) -> None:
            body = json.loads(self.body())
            self.chat(body)

        def chat(self, body: dict[str, Any]) -> None:
            fault = fake.next_chat(body)
            status, content = fake.answer(body)
            if fault == "reset":
                self.close_connection = True
                self.connection.close()
            elif fault == "hang":
                time.sleep(3)
                self.close_connection = True
            elif fault == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "10000")
                self.end_headers()
                self.wfile.write(json.dumps(content).encode()[:40])
                self.close_connection = True
            elif fault == "abort":
                content["choices"][0]["finish_reason"] = "abort"
                self.reply(200, content)
            elif fault is not None:
                self.reply(int(fault), _error(f"told to answer {fault}"))
            else:
                self.reply(status, content)

    return Handler
