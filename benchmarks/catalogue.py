"""Building a catalogue beside the obvious way to do it.

    python benchmarks/catalogue.py            # about a minute
    python benchmarks/catalogue.py --quick    # fewer images; within half a minute

``download``: images a second of ``data amazon --download-images`` from a server of this machine
that answers after ``--latency-ms`` (50), under eight host names, against one request after the
other on one kept connection. ``download_one_host`` is the same from a single name, which gets 16
requests at once and no more. Both sides decode every image and write it; they alternate, and
figures are medians.

``download_hanging_slowdown`` is how many times longer the others take where one address in 256
never answers. Those that hang are given up at the end (``download_hanging_seconds``, the time of
the whole download, is then that of their time limit).

Check: every image that the server answers with arrives byte for byte, and no other.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from grpo_mmpc.catalogue.images import decode_image
from grpo_mmpc.catalogue.sources.download import Download, Limits, download_images
from grpo_mmpc.utils.manifest import environment

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 9))
HANGS = 256
GIVE_UP_S = 6.0


def photo() -> bytes:
    """Return a JPEG of 120 pixels a side: a thumbnail, so that the network is what is measured."""
    values = np.random.default_rng(0).integers(0, 255, (15, 15, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).resize((120, 120), Image.Resampling.BICUBIC).save(out, "JPEG", quality=85)
    return out.getvalue()


def serve(port: Connection, body: bytes, latency_s: float) -> None:
    """Answer every request after a while, those for ``/hang`` never; send the port first."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(3600 if request.startswith(b"GET /hang") else latency_s)
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):  # the other side has gone
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "0.0.0.0", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


class Run:
    """Downloads from one server, each into a folder of its own."""

    def __init__(self, port: int, body: bytes, folder: Path) -> None:
        self.port, self.body, self.folder = port, body, folder
        self.count = 0

    def ours(self, number: int, *, hosts: Sequence[str] = HOSTS, hangs: bool = False) -> tuple[float, float, bool]:
        """Return the seconds until all that answer are there, those of the whole, and a check.

        The check is true if exactly those have arrived, byte for byte.
        """
        folder = self._next()
        paths = ["hang" if hangs and i % HANGS == HANGS // 2 else "good" for i in range(number)]
        downloads = [
            Download(urls=(f"http://{hosts[i % len(hosts)]}:{self.port}/{path}/{i}.jpg",), file=folder / f"{i}.jpg")
            for i, path in enumerate(paths)
        ]
        good, ends = paths.count("good"), []
        limits = Limits(total_s=GIVE_UP_S, attempts=1) if hangs else Limits()
        started = time.monotonic()
        problems = download_images(
            downloads,
            journal=folder / "journal.jsonl",
            limits=limits,
            allowed_hosts=frozenset(hosts),
            progress=lambda count: ends.append(time.monotonic() - started) if count == good else None,
        )
        whole = time.monotonic() - started
        right = len(problems) == number - good and all(
            download.file.read_bytes() == self.body if path == "good" else download.file in problems
            for download, path in zip(downloads, paths, strict=True)
        )
        return ends[0], whole, right

    def one_by_one(self, number: int) -> float:
        """Return the seconds of one request after the other."""
        folder, started = self._next(), time.monotonic()
        connection = HTTPConnection(HOSTS[0], self.port)
        for i in range(number):
            connection.request("GET", f"/good/{i}.jpg")
            data = connection.getresponse().read()
            decode_image(io.BytesIO(data), name=str(i))
            (folder / f"{i}.jpg").write_bytes(data)
        connection.close()
        return time.monotonic() - started

    def _next(self) -> Path:
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        return folder


def measure(run: Run, *, images: int, baseline_images: int, repeats: int) -> dict[str, dict]:
    """Return results, figures and checks of the downloader."""
    rates, one_host, baseline, alone, beside, whole = [], [], [], [], [], []
    holds = []
    run.ours(64)  # imports and first connections
    for _ in range(repeats):
        seconds, _, right = run.ours(images)
        rates.append(images / seconds)
        alone.append(seconds)
        holds.append(right)
        baseline.append(baseline_images / run.one_by_one(baseline_images))
        seconds, _, right = run.ours(images // 4, hosts=HOSTS[:1])
        one_host.append(images // 4 / seconds)
        holds.append(right)
        seconds, total, right = run.ours(images, hangs=True)
        beside.append(seconds)
        whole.append(total)
        holds.append(right)
    ours, plain, one = (statistics.median(values) for values in (rates, baseline, one_host))
    slowdown = statistics.median(beside) / statistics.median(alone)
    return {
        "results": {
            "download": {
                "ours": round(ours, 1),
                "baseline": round(plain, 1),
                "unit": "images/s",
                "ratio": round(ours / plain, 2),
            },
            "download_one_host": {
                "ours": round(one, 1),
                "baseline": round(plain, 1),
                "unit": "images/s",
                "ratio": round(one / plain, 2),
            },
        },
        "figures": {
            "images": images,
            "baseline_images": baseline_images,
            "download_hanging_slowdown": round(slowdown, 2),
            "download_hanging_seconds": round(statistics.median(whole), 2),
        },
        "checks": {"download_same_bytes": all(holds)},
    }


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency-ms", type=float, default=50.0, help="of the server (%(default)s)")
    parser.add_argument("--images", type=int, default=4096, help="of one download (%(default)s)")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    body = photo()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, body, arguments.latency_ms / 1000), daemon=True
    )
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(
            Run(ours.recv(), body, Path(folder)),
            images=1024 if arguments.quick else arguments.images,
            baseline_images=40 if arguments.quick else 100,
            repeats=1 if arguments.quick else 3,
        )
    server.terminate()
    where = environment()
    print(
        json.dumps({"benchmark": "catalogue", "hardware": where["hardware"], "versions": where["versions"], **measured})
    )


if __name__ == "__main__":
    main()
