"""Building a catalogue beside the obvious way to do it.

    python benchmarks/catalogue.py            # about a quarter of an hour
    python benchmarks/catalogue.py --quick    # fewer images and records; within half a minute

``download``: images a second of ``data amazon --download-images`` from a server of this machine
that answers after ``--latency-ms`` (50), under eight host names, against one request after the
other on one kept connection. ``download_one_host`` is the same from a single name, which gets 16
requests at once and no more. Both sides decode every image and write it; they alternate, and
figures are medians.

``download_hanging_slowdown`` is how many times longer the others take where one address in 256
never answers. ``download_cpu_ms`` is the processor time of ours for an image, ``one_by_one_cpu_ms``
that of the other side, both without the server: on a busy machine it is what limits the rate. Those
that hang are given up at the end (``download_hanging_seconds``, the time of the whole download, is
then that of their time limit).

Check: every image that the server answers with arrives byte for byte, and no other.

``build``: CPU seconds of ``data amazon`` from 200,000 metadata records and 2 million reviews of
``data synthetic --clean``, all nine forms of files, against the loop over rows that it replaces;
each in a process of its own, imports included. ``build_peak_rss_gb`` is the most memory of ours,
``build_rss_growth`` how many times more five times the input takes.

Check: both write the same items and the same interactions.

``validate_cpu_s`` and ``validate_peak_rss_gb``: ``data validate`` of that larger catalogue (1
million items, 9.5 million interactions) in a process of its own, imports included;
``validate_again_cpu_s`` a second time.

``near_duplicate_images``: CPU seconds to link the copies among 300,000 thumbnails, half of them of
things on white and one in 100 a smaller JPEG of another, against the exact search in a tree, timed
on 40,000: it grows with the square. ``recall`` is the share of the copies that are linked.

``near_duplicate_titles``: CPU seconds to link a million titles of 4 to 29 words, against comparing
all pairs, timed on 2,000.
"""

import argparse
import asyncio
import io
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A measured child imports this module: what one part needs alone is imported there.
from grpo_mmpc.catalogue.rows import RowError
from grpo_mmpc.catalogue.sources.amazon_build import build_amazon
from grpo_mmpc.catalogue.sources.amazon_items import read_item
from grpo_mmpc.catalogue.sources.amazon_records import AmazonSource, open_reviews, open_sources
from grpo_mmpc.catalogue.sources.amazon_reviews import read_review
from grpo_mmpc.utils.files import write_json_lines

if TYPE_CHECKING:
    import numpy as np

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 9))
HANGS = 256
GIVE_UP_S = 6.0


def photo() -> bytes:
    """Return a JPEG of 120 pixels a side: a thumbnail, so that the network is what is measured."""
    import numpy as np
    from PIL import Image

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
        from grpo_mmpc.catalogue.sources.download import Download, Limits, download_images

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
        from grpo_mmpc.catalogue.images import decode_image

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


def measure_download(run: Run, *, images: int, baseline_images: int, repeats: int) -> dict[str, dict]:
    """Return results, figures and checks of the downloader."""
    rates, one_host, baseline, alone, beside, whole = [], [], [], [], [], []
    cpu, plain_cpu = [], []
    holds = []
    run.ours(64)  # imports and first connections
    for _ in range(repeats):
        started = time.process_time()
        seconds, _, right = run.ours(images)
        cpu.append(1000 * (time.process_time() - started) / images)
        rates.append(images / seconds)
        alone.append(seconds)
        holds.append(right)
        started = time.process_time()
        baseline.append(baseline_images / run.one_by_one(baseline_images))
        plain_cpu.append(1000 * (time.process_time() - started) / baseline_images)
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
            "download_cpu_ms": round(statistics.median(cpu), 2),
            "one_by_one_cpu_ms": round(statistics.median(plain_cpu), 2),
            "download_hanging_slowdown": round(slowdown, 2),
            "download_hanging_seconds": round(statistics.median(whole), 2),
        },
        "checks": {"download_same_bytes": all(holds)},
    }


def open_all(folder: Path) -> tuple[list[AmazonSource], list[AmazonSource]]:
    """Return the metadata and the reviews that ``data synthetic`` wrote."""
    reviews = [str(path) for path in sorted(folder.iterdir()) if "meta_" not in path.name]
    return open_sources(str(folder)), open_reviews(reviews)


def by_engine(folder: Path, out: Path) -> None:
    """Build as ``data amazon`` does."""
    sources, reviews = open_all(folder)
    build_amazon(sources, out=out, reviews=reviews)


def by_rows(folder: Path, out: Path) -> None:
    """Build by a loop over records, each read, checked and written by itself."""
    sources, reviews = open_all(folder)
    known: set[str] = set()

    def items() -> Iterator[dict[str, Any]]:
        for source in sources:
            for record in source.records:
                try:
                    item = read_item(record.cells(), category=source.category)
                except RowError:
                    continue
                if item["item_id"] not in known:
                    known.add(item["item_id"])
                    urls = item.pop("image_urls")
                    yield item | {"image": None, "image_url": urls[0] if urls else None}

    def interactions() -> Iterator[dict[str, Any]]:
        for source in reviews:
            for record in source.records:
                try:
                    interaction = read_review(record.cells())
                except RowError:
                    continue
                if interaction.item_id in known:
                    yield interaction._asdict()

    write_json_lines(out / "items.jsonl", items())
    write_json_lines(out / "interactions.jsonl", interactions())


def in_a_process(build: Callable[[Path, Path], None], folder: Path, out: Path) -> tuple[float, float]:
    """Return the CPU seconds and the most GB of memory of a build in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_report, args=(theirs, build, folder, out))
    process.start()
    seconds, gigabytes = ours.recv()
    process.join()
    return seconds, gigabytes


def _report(answer: Connection, build: Callable[[Path, Path], None], folder: Path, out: Path) -> None:
    build(folder, out)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    answer.send((time.process_time(), int(status["VmHWM"].split()[0]) / 1e6))


def same_catalogue(engine: Path, rows: Path) -> dict[str, bool]:
    """Compare what both wrote, row by row."""
    import pyarrow.json
    import pyarrow.parquet

    with (engine / "items.jsonl").open() as ours, (rows / "items.jsonl").open() as theirs:
        items = all(json.loads(a) == json.loads(b) for a, b in zip(ours, theirs, strict=True))
    written = pyarrow.parquet.read_table(engine / "interactions.parquet")
    loop = pyarrow.json.read_json(rows / "interactions.jsonl").select(written.column_names).cast(written.schema)
    return {"build_same_items": items, "build_same_interactions": written.equals(loop)}


def measure_build(folder: Path, *, items: int, repeats: int) -> dict[str, dict]:
    """Return results, figures and checks of building from files, ten reviews an item."""
    from grpo_mmpc.catalogue.sources.amazon_synthetic import write_synthetic

    small, large = folder / "small", folder / "large"
    write_synthetic(small, num_items=items, num_reviews=10 * items, seed=0, clean=True)
    write_synthetic(large, num_items=5 * items, num_reviews=50 * items, seed=0, clean=True)
    measured = [
        (in_a_process(by_engine, small, folder / "engine"), in_a_process(by_rows, small, folder / "rows"))
        for _ in range(repeats)
    ]
    ours, baseline = (statistics.median(pair[side][0] for pair in measured) for side in (0, 1))
    memory = max(engine[1] for engine, _ in measured)
    more = in_a_process(by_engine, large, folder / "engine_large")[1]
    return {
        "results": {
            "build": {
                "ours": round(ours, 1),
                "baseline": round(baseline, 1),
                "unit": "CPU s",
                "ratio": round(baseline / ours, 2),
            }
        },
        "figures": {
            "build_items": items,
            "build_reviews": 10 * items,
            "build_peak_rss_gb": round(max(memory, more), 2),
            "build_rss_growth": round(more / memory, 2),
        },
        "checks": same_catalogue(folder / "engine", folder / "rows"),
    }


def validate(folder: Path, cache: Path) -> None:
    """Check a catalogue as ``data validate`` does."""
    from grpo_mmpc.catalogue.validation import validate_catalogue

    os.environ["GRPO_MMPC_CACHE"] = str(cache)
    validate_catalogue(folder)


def measure_validate(folder: Path, *, cache: Path) -> dict[str, dict]:
    """Return figures of checking a catalogue, and of checking it again."""
    seconds, memory = in_a_process(validate, folder, cache)
    again, _ = in_a_process(validate, folder, cache)
    return {
        "figures": {
            "validate_cpu_s": round(seconds, 1),
            "validate_peak_rss_gb": round(memory, 2),
            "validate_again_cpu_s": round(again, 1),
        }
    }


def linked(count: int, **items: Any) -> "tuple[float, np.ndarray]":
    """Return the CPU seconds of linking near-duplicates, and the group of each item."""
    from grpo_mmpc.catalogue import duplicates

    started = time.process_time()
    groups = duplicates.near_duplicate_groups(
        titles=items.get("titles") or [None] * count, signatures=items.get("signatures")
    )
    return time.process_time() - started, groups


def random_thumbnails(number: int, chance: "np.random.Generator") -> "np.ndarray":
    """Return thumbnails, half of things on white; the last in 100 are JPEGs of the first."""
    import numpy as np
    from PIL import Image

    from grpo_mmpc.catalogue.signatures import thumbnail

    block = np.ones((4, 4), np.int16)
    luma = np.kron(chance.integers(0, 256, (number, 4, 4), np.int16), block)
    luma += chance.integers(-20, 21, luma.shape, np.int16)
    luma[::2, :4], luma[::2, -4:], luma[::2, :, :4], luma[::2, :, -4:] = 255, 255, 255, 255
    chroma = np.kron(chance.integers(90, 166, (number, 2, 2, 2), np.int16), block)
    cells = np.concatenate([luma.clip(0, 255).reshape(number, -1), chroma.reshape(number, -1)], axis=1).astype(np.uint8)
    for copy, original in enumerate(range(number // 100), start=number - number // 100):
        image = Image.fromarray(cells[original, :256].reshape(16, 16)).resize((160, 160), Image.Resampling.BICUBIC)
        cells[original] = np.frombuffer(thumbnail(image.convert("RGB")), np.uint8)
        saved = io.BytesIO()
        image.convert("RGB").resize((100, 100)).save(saved, "JPEG", quality=int(chance.integers(30, 91)))
        cells[copy] = np.frombuffer(thumbnail(Image.open(saved)), np.uint8)
    return cells


def measure_near_duplicates(*, thumbnails: int, titles: int) -> dict[str, dict]:
    """Return results and figures of the search for near-duplicates."""
    import numpy as np

    from grpo_mmpc.catalogue import duplicates
    from grpo_mmpc.catalogue.signatures import ImageSignature, Signatures, signature_table

    chance = np.random.default_rng(0)
    cells = random_thumbnails(thumbnails, chance)
    files = signature_table([ImageSignature(None, aspect=1.0, thumbnail=row.tobytes()) for row in cells])
    signatures = Signatures(files, row=np.arange(thumbnails), problems={})
    ours, groups = linked(thumbnails, signatures=signatures)
    copies, few = thumbnails // 100, min(40_000, thumbnails)
    exactly, duplicates.SEARCHED_EXACTLY = duplicates.SEARCHED_EXACTLY, few
    tree, _ = linked(few, signatures=signatures._replace(row=np.arange(few)))
    duplicates.SEARCHED_EXACTLY = exactly
    lengths = chance.integers(4, 30, titles)
    numbers = (50_000 ** chance.random(int(lengths.sum()))).astype(int)  # few words are in many titles
    ends = np.cumsum(lengths)
    texts = [" ".join(map(str, numbers[end - n : end])) for end, n in zip(ends, lengths, strict=True)]
    similar, _ = linked(titles, titles=texts)
    sets = [frozenset(text.split()) for text in texts[:2000]]
    started = time.process_time()
    sum(len(a & b) >= 0.9 * len(a | b) for a, b in itertools.combinations(sets, 2))
    pairs = time.process_time() - started
    sides = {
        "near_duplicate_images": (ours, tree * (thumbnails / few) ** 2),
        "near_duplicate_titles": (similar, pairs * (titles / len(sets)) ** 2),
    }
    return {
        "results": {
            key: {"ours": round(ours, 2), "baseline": round(plain, 1), "unit": "CPU s", "ratio": round(plain / ours, 1)}
            for key, (ours, plain) in sides.items()
        },
        "figures": {
            "thumbnails": thumbnails,
            "titles": titles,
            "recall": round(float((groups[:copies] == groups[-copies:]).mean()), 4),
        },
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
        downloads = measure_download(
            Run(ours.recv(), body, Path(folder)),
            images=1024 if arguments.quick else arguments.images,
            baseline_images=40 if arguments.quick else 100,
            repeats=1 if arguments.quick else 3,
        )
        server.terminate()
        builds = measure_build(
            Path(folder), items=2_000 if arguments.quick else 200_000, repeats=1 if arguments.quick else 3
        )
        checked = measure_validate(Path(folder) / "engine_large", cache=Path(folder) / "cache")
    near = measure_near_duplicates(
        thumbnails=20_000 if arguments.quick else 300_000, titles=50_000 if arguments.quick else 1_000_000
    )
    parts = (downloads, builds, checked, near)
    measured = {
        name: {key: value for part in parts for key, value in part.get(name, {}).items()}
        for name in ("results", "figures", "checks")
    }
    from grpo_mmpc.utils.manifest import environment

    where = environment()
    print(
        json.dumps({"benchmark": "catalogue", "hardware": where["hardware"], "versions": where["versions"], **measured})
    )


if __name__ == "__main__":
    main()
