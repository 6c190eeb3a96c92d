"""The network's edge of an OpenAI-compatible server, which fails when asked to."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


def png(red: int, size: tuple[int, int] = (8, 8)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(content, "PNG")
    return content.getvalue()


class FakeImages:
    """A server on the loopback interface whose images have their seed as red value."""

    route = "/v1/images/generations"

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.in_flight = self.most_in_flight = 0
        self.delay_s = 0.0
        self.fault: Callable[[dict[str, Any], int], tuple[int, Any] | str | None] = lambda body, number: None
        """For a body and its number from 0: a status and content, ``reset``, ``drip``, ``hang``, or
        None."""
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def take(self, body: dict[str, Any]) -> tuple[int, Any] | str | None:
        with self._lock:
            self.bodies.append(body)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            number = len(self.bodies) - 1
        time.sleep(self.delay_s)
        return self.fault(body, number)

    def reply(self, body: dict[str, Any]) -> Any:
        return answer(png(body["seed"]))

    def leave(self) -> None:
        with self._lock:
            self.in_flight -= 1


def answer(data: bytes) -> dict[str, Any]:
    return {"created": 0, "data": [{"b64_json": base64.b64encode(data).decode()}]}


def _handler(fake: FakeImages) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            fake.keys.add(self.headers.get("Authorization"))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == fake.route
            fault = fake.take(body)
            try:
                if fault == "reset":
                    self.connection.close()
                elif fault == "hang":
                    time.sleep(5)
                elif fault == "drip":
                    self.send_response(200)
                    self.end_headers()
                    for _ in range(50):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                        time.sleep(0.1)
                else:
                    status, content = fault or (200, fake.reply(body))
                    self.send_response(status)
                    if status in (302, 429):
                        self.send_header(
                            "Location" if status == 302 else "Retry-After", fake.url if status == 302 else "1"
                        )
                    self.end_headers()
                    self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())
            except OSError:  # the client has left
                pass
            finally:
                fake.leave()

    return Handler
