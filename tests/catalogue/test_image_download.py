"""Images from the web: public addresses only, within limits, and nobody waits for a slow one."""

import asyncio
import io
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue.sources import addresses, download
from grpo_mmpc.catalogue.sources.addresses import RefusedError, check_url
from grpo_mmpc.catalogue.sources.download import Download, Limits, download_images

HERE = frozenset({"127.0.0.1", "localhost"})
QUICK = Limits(total_s=2.0, connect_s=1.0, wait_s=0.01, grace_s=0.3, longest_wait_s=3.0)


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    pages: dict[str, Callable[[BaseHTTPRequestHandler, int], None]]
    seen: Counter[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen[self.path] += 1
        self.server.pages.get(self.path, gone)(self, self.server.seen[self.path])

    def log_message(self, *args):
        pass


def answer(request, body: bytes, *, status: int = 200, **headers: str) -> None:
    request.send_response(status)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in ({"Content-Length": str(len(body)), "Content-Type": "image/png"} | given).items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def good(request, times: int) -> None:
    answer(request, png())


def gone(request, times: int) -> None:
    answer(request, b"", status=404)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.pages, server.seen = {}, Counter()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(server, tmp_path):
    def run(*urls: str, limits: Limits = QUICK, allowed: frozenset[str] = HERE) -> str | None:
        full = tuple(url if "://" in url else f"{server.url}{url}" for url in urls)
        one = Download(urls=full, file=tmp_path / "a.png")
        problems = download_images([one], journal=tmp_path / "journal.jsonl", limits=limits, allowed_hosts=allowed)
        assert set(problems) <= {one.file} and one.file.exists() == (not problems)
        return problems.get(one.file)

    return run


def test_an_image_arrives_whole(server, fetch, tmp_path):
    server.pages["/a"] = good
    assert fetch("/a") is None
    assert (tmp_path / "a.png").read_bytes() == png()
    assert fetch("/a") is None and server.seen["/a"] == 1  # it is there


def test_the_next_address_is_tried_where_the_first_is_dead(server, fetch):
    server.pages["/large"] = good
    assert fetch("/hi_res", "/large") is None


def test_what_failed_for_good_is_not_asked_again_and_what_may_pass_is(server, fetch, tmp_path):
    server.pages["/busy"] = lambda request, times: answer(request, b"", status=503)
    assert fetch("/gone").endswith("/gone: HTTP status 404")
    assert fetch("/gone").endswith("/gone: HTTP status 404")
    assert server.seen["/gone"] == 1
    assert fetch("/busy").endswith("/busy: HTTP status 503 (tried 3 times)")
    assert server.seen["/busy"] == 3
    server.pages["/busy"] = good
    assert fetch("/busy") is None
    journal = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [row["url"] for row in journal] == [f"{server.url}/gone"]


def test_an_address_that_is_dead_for_several_items_is_in_the_journal_once(server, tmp_path):
    downloads = [Download(urls=(f"{server.url}/gone",), file=tmp_path / f"{i}.png") for i in range(4)]
    assert len(download_images(downloads, journal=tmp_path / "j", limits=QUICK, allowed_hosts=HERE)) == 4
    assert len((tmp_path / "j").read_text().splitlines()) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(server, fetch, status):
    server.pages["/a"] = lambda request, times: (
        answer(request, b"", status=status) if times < 3 else good(request, times)
    )
    assert fetch("/a") is None


def test_a_server_that_asks_for_a_pause_gets_it(server, fetch):
    server.pages["/a"] = lambda request, times: (
        answer(request, b"", status=429, Retry_After="1") if times < 2 else good(request, times)
    )
    started = time.monotonic()
    assert fetch("/a") is None
    assert 1.0 <= time.monotonic() - started < 2.5


def test_a_pause_that_is_too_long_is_left_for_the_next_run(server, fetch):
    server.pages["/a"] = lambda request, times: answer(request, b"", status=429, Retry_After="9999")
    assert fetch("/a").endswith("HTTP status 429") and server.seen["/a"] == 1


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (lambda request, times: answer(request, b"<html>", Content_Type="text/html"), "text/html is no image"),
        (lambda request, times: answer(request, b"<html>login"), "is a web page"),
        (lambda request, times: answer(request, png()[:40]), "is damaged"),
        (lambda request, times: answer(request, png() + b"x" * 10_000), "more than 5,000 bytes"),
    ],
    ids=["web page", "web page that lies", "half an image", "too large"],
)
def test_what_is_no_image_is_not_kept(server, fetch, page, message):
    server.pages["/a"] = page
    assert message in fetch("/a", limits=Limits(max_bytes=5_000))
    assert server.seen["/a"] == 1


def test_a_host_gets_so_many_requests_at_once_and_no_more(server, tmp_path):
    now, most, lock = 0, 0, threading.Lock()

    def slow(request, times: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        good(request, times)

    server.pages["/slow"] = slow
    downloads = [Download(urls=(f"{server.url}/slow",), file=tmp_path / f"{i}.png") for i in range(40)]
    limits = Limits(per_host=5)
    assert not download_images(downloads, journal=tmp_path / "j", limits=limits, allowed_hosts=HERE)
    assert 2 <= most <= 5


def test_what_hangs_gives_its_place_at_the_host_to_the_others(server, tmp_path):
    end = threading.Event()
    server.pages["/hangs"], server.pages["/good"] = lambda request, times: end.wait(20), good
    names = ["hangs"] * 4 + ["good"] * 40
    downloads = [Download(urls=(f"{server.url}/{n}",), file=tmp_path / f"{i}.png") for i, n in enumerate(names)]
    done: list[float] = []
    started = time.monotonic()
    problems = download_images(
        downloads,
        journal=tmp_path / "j",
        limits=Limits(per_host=4, hanging_s=0.3, total_s=4.0, attempts=1),
        allowed_hosts=HERE,
        progress=lambda count: done.append(time.monotonic() - started),
    )
    end.set()
    assert len(problems) == 4
    assert 0.3 <= done[0] and done[39] < 3.0 < done[40]  # the forty wait .3 s, not the four seconds of the four


def test_pauses_between_tries_differ_so_that_not_all_come_back_at_once(server, tmp_path, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(download.asyncio, "sleep", pause(pauses, asyncio.sleep))
    server.pages["/busy"] = lambda request, times: answer(request, b"", status=503)
    downloads = [Download(urls=(f"{server.url}/busy?{i}",), file=tmp_path / f"{i}.png") for i in range(20)]
    server.pages |= {f"/busy?{i}": server.pages["/busy"] for i in range(20)}
    limits = Limits(wait_s=1.0, attempts=2)
    assert len(download_images(downloads, journal=tmp_path / "j", limits=limits, allowed_hosts=HERE)) == 20
    assert len(pauses) == 20 and all(0.5 <= seconds <= 1.5 for seconds in pauses)
    assert max(pauses) - min(pauses) > 0.3


def pause(pauses: list[float], sleep: Callable[[float], Awaitable[None]]) -> Callable[[float], Awaitable[None]]:
    async def record(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    return record


def drip(request, times: int) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "image/png")
    request.send_header("Content-Length", "10000")
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(0.1)


def test_a_byte_now_and_then_is_too_slow(server, fetch):
    server.pages["/a"] = drip
    started = time.monotonic()
    assert "slower than 2000 bytes a second (tried 3 times)" in fetch("/a")
    assert time.monotonic() - started < 6


def test_slow_ones_delay_nobody(server, tmp_path):
    """Forty hang; one worker a request would let two hundred good ones wait for them."""
    end = threading.Event()
    server.pages["/hangs"] = lambda request, times: end.wait(20)
    server.pages["/good"] = good
    urls = [f"http://localhost:{server.server_port}/hangs", *[f"{server.url}/good"] * 5] * 40
    downloads = [Download(urls=(url,), file=tmp_path / f"{i}.png") for i, url in enumerate(urls)]
    done: list[float] = []
    started = time.monotonic()
    limits = Limits(total_s=6.0, attempts=1)
    problems = download_images(
        downloads,
        journal=tmp_path / "j",
        limits=limits,
        allowed_hosts=HERE,
        progress=lambda count: done.append(time.monotonic() - started),
    )
    end.set()
    assert len(problems) == 40 and all("no answer within 6 s" in problem for problem in problems.values())
    assert done[199] < 6.0 < done[-1] < 20


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a",
        "http://127.1/a",
        "http://2130706433/a",
        "http://0x7f000001/a",
        "http://localhost/a",
        "http://[::1]/a",
        "http://[::ffff:127.0.0.1]/a",
        "http://[64:ff9b::7f00:1]/a",
        "http://[2002:7f00:1::]/a",
        "http://10.0.0.1/a",
        "http://192.168.1.1/a",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/a",
        "http://0.0.0.0/a",
    ],
)
def test_this_machine_and_its_network_are_not_read(fetch, url):
    problem = fetch(url, allowed=frozenset())
    assert "no public address" in problem or "is not a canonical IPv4 address" in problem
    assert "tried" not in problem


@pytest.mark.parametrize(
    "target",
    [
        *("http://127.0.0.1:1/secret", "http://localhost:1/secret", "file:///etc/passwd", "ftp://x/a"),
        *("http://x:99999999/a", "http://[broken/a", "//[x/a", f"http://{'a' * 70}.com/a"),
    ],
)
def test_a_redirect_leads_nowhere_else(server, fetch, monkeypatch, target):
    server.pages["/a"] = lambda request, times: answer(request, b"", status=302, Location=target)
    allowed = addresses.check_address

    def check(host: str, address: str) -> None:  # the server of this test counts as public
        if (host, server.seen["/a"]) != ("127.0.0.1", 0):
            allowed(host, address)

    monkeypatch.setattr(addresses, "check_address", check)
    problem = fetch("/a", allowed=frozenset())
    assert "no public address" in problem or "is no http(s) address" in problem
    assert server.seen == {"/a": 1}


def test_a_redirect_to_an_image_is_followed(server, fetch):
    server.pages["/a"] = lambda request, times: answer(request, b"", status=302, Location="/b")
    server.pages["/b"] = good
    assert fetch("/a") is None


def test_a_circle_of_redirects_is_left(server, fetch):
    server.pages["/a"] = lambda request, times: answer(request, b"", status=302, Location="/a")
    assert "more than 5 redirects" in fetch("/a")


NO_ADDRESSES = (
    "file:///etc/passwd",
    "ftp://example.com/a.jpg",
    "a.jpg",
    "",
    "http://",
    "http://[broken",
    "http://a b/c",
    "http://img.example..com/a.jpg",
    "http://.example.com/a.jpg",
    f"http://{'a' * 70}.com/a.jpg",
    "http://half\ud83d.com/a.jpg",
)


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_what_is_no_web_address_is_refused(url):
    with pytest.raises(RefusedError, match=r"is no http\(s\) address"):
        check_url(url, allowed_hosts=frozenset())


def test_nobody_listening_may_pass(server, fetch):
    server.shutdown()
    server.server_close()
    assert "(tried 3 times)" in fetch("/a")


def test_an_interrupted_download_leaves_whole_images_only(server, tmp_path):
    server.pages["/good"] = good

    def stop(count: int) -> None:
        if count == 5:
            raise KeyboardInterrupt

    downloads = [Download(urls=(f"{server.url}/good",), file=tmp_path / "images" / f"{i}.png") for i in range(50)]
    with pytest.raises(KeyboardInterrupt):
        download_images(downloads, journal=tmp_path / "j", limits=QUICK, allowed_hosts=HERE, progress=stop)
    kept = list((tmp_path / "images").iterdir())
    assert 5 <= len(kept) < 50 and all(file.read_bytes() == png() for file in kept)
    assert all(isinstance(file, Path) and file.suffix == ".png" for file in kept)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("callback", [40, 60, 80, 100])
def test_a_signal_ends_a_download_whenever_it_comes(server, tmp_path, monkeypatch, callback):
    """Raised between two steps of an event loop it would cost one for which a task then waits."""
    server.pages["/0"] = good
    run, number = asyncio.Handle._run, iter(range(10_000))

    def send_signal_before(handle: asyncio.Handle) -> None:
        if next(number) == callback:
            os.kill(os.getpid(), signal.SIGUSR1)
        run(handle)

    def stop(received: int, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio.Handle, "_run", send_signal_before)
    before = signal.signal(signal.SIGUSR1, stop)
    downloads = [Download(urls=(f"{server.url}/{i % 2}",), file=tmp_path / f"{i}.png") for i in range(300)]
    try:
        with pytest.raises(KeyboardInterrupt):
            download_images(downloads, journal=tmp_path / "j", limits=QUICK, allowed_hosts=HERE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert all(file.read_bytes() == png() for file in tmp_path.glob("*.png"))
