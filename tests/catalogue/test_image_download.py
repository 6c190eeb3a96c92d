"""fetch_url: nothing but HTTP, with limits, and another try only where it can help."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from grpo_mmpc.catalogue.sources.download import FetchError, fetch_url


class Server(ThreadingHTTPServer):
    answers: list[tuple[int, bytes]]
    seen: int = 0
    promise: int | None = None


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        status, body = server.answers[min(server.seen, len(server.answers) - 1)]
        server.seen += 1
        self.send_response(status)
        self.send_header("Content-Length", str(server.promise or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/a.jpg"


def test_the_bytes_arrive(server):
    server.answers = [(200, b"picture")]
    assert fetch_url(address(server)) == b"picture"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(server, status):
    server.answers = [(status, b""), (status, b""), (200, b"picture")]
    assert fetch_url(address(server), wait_s=0.0) == b"picture"
    assert server.seen == 3


def test_a_failure_that_does_not_pass_is_given_up_after_the_attempts(server):
    server.answers = [(503, b"")]
    with pytest.raises(FetchError, match=r"HTTP status 503 \(tried 3 times\)"):
        fetch_url(address(server), wait_s=0.0)
    assert server.seen == 3


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_final_answer_is_not_asked_for_again(server, status):
    server.answers = [(status, b"")]
    with pytest.raises(FetchError, match=f"HTTP status {status}$"):
        fetch_url(address(server), wait_s=0.0)
    assert server.seen == 1


def test_the_size_limit_is_inclusive(server):
    server.answers = [(200, b"x" * 100)]
    assert len(fetch_url(address(server), max_bytes=100)) == 100
    with pytest.raises(FetchError, match="more than 99 bytes"):
        fetch_url(address(server), max_bytes=99)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/a.jpg", "a.jpg", ""])
def test_other_schemes_are_refused(url):
    with pytest.raises(FetchError, match=r"is no http\(s\) address"):
        fetch_url(url)


def test_nobody_listening_is_a_fetch_error(server):
    url = address(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(FetchError, match=r"refused.*\(tried 2 times\)"):
        fetch_url(url, attempts=2, wait_s=0.0)


@pytest.mark.parametrize("url", ["http://[broken", "http://exa mple/a.jpg", "http://"])
def test_a_malformed_address_is_a_fetch_error_at_once(url, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(FetchError):
        fetch_url(url, attempts=1 if url == "http://" else 3)


def test_a_connection_that_breaks_in_the_middle_is_tried_again(server):
    server.answers = [(200, b"half of it"), (200, b"picture")]
    server.promise = 20
    with pytest.raises(FetchError, match=r"received 7 bytes, expected 20\) \(tried 2 times\)"):
        fetch_url(address(server), attempts=2, wait_s=0.0)
