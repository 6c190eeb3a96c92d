"""Read records of Amazon Reviews 2023, items or reviews, from files or streamed from the hub."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from grpo_mmpc.catalogue.rows import RawRow, json_rows
from grpo_mmpc.catalogue.tables import parquet_rows
from grpo_mmpc.errors import CatalogueError, first_line
from grpo_mmpc.utils.files import GZIP, PARQUET, ZSTD, json_lines

HUB_DATASET = "McAuley-Lab/Amazon-Reviews-2023"

BENCHMARK_CATEGORIES = (
    "All_Beauty",
    "Toys_and_Games",
    "Video_Games",
    "Home_and_Kitchen",
    "Electronics",
    "Industrial_and_Scientific",
    "Office_Products",
    "Musical_Instruments",
    "Arts_Crafts_and_Sewing",
)
"""The nine categories of MMPCBench (arXiv 2601.19750)."""

_META_FILE = re.compile(r"(?:raw_)?meta_(?P<category>.+?)(?:\.jsonl(?:\.gz|\.zst)?|\.parquet|)$")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_MAX_LINE_MIB = 32
"""Of a line: as far as the engine reads one; a small packed file could hold one of gigabytes."""
_MAX_LINE = _MAX_LINE_MIB << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AmazonSource:
    """Records of one file or hub configuration: item metadata, or reviews."""

    name: str
    """For messages."""
    category: str | None
    """Category of its items; None takes each metadata record's ``main_category``."""
    records: Iterable[RawRow]
    """Read once, and only as far as needed."""
    files: tuple[Path, ...] = ()
    """The records' files, where they lie on this machine."""
    hub_path: str | None = None
    """Inside the hub's data set; None for local files."""
    revision: str | None = None
    """Of the hub's data set, where it is known."""


def open_sources(source: str, *, categories: Sequence[str] = ()) -> list[AmazonSource]:
    """Open the item metadata that a name on the command line means; nothing is read yet.

    Args:
        source: ``meta_<Category>.jsonl``, ``.jsonl.gz`` or ``.parquet``; a folder of such files; a
            folder ``raw_meta_<Category>`` of the hub's Parquet files; a hub configuration
            (``raw_meta_All_Beauty``); or the hub data set's name,
            ``McAuley-Lab/Amazon-Reviews-2023``.
        categories: Which categories to read, of a folder or the hub data set (default: every file
            of the folder, the nine MMPCBench categories of the hub). For a single file, at most
            one: the name for its items.

    Raises:
        CatalogueError: No such file or no such category.
    """
    path = Path(source)
    if path.is_dir() and any(path.glob("*.parquet")) and _category_of(path) is not None:
        return [_file_source(path, category=categories[0] if categories else _category_of(path))]
    if path.is_dir():
        return [_file_source(file, category=c) for c, file in _folder_files(path, categories).items()]
    if path.is_file():
        if len(categories) > 1:
            raise CatalogueError(
                f"{source} is one file, but {len(categories)} categories were given; give one name for it"
            )
        return [_file_source(path, category=categories[0] if categories else _category_of(path))]
    if source == HUB_DATASET:
        return [_hub_source("meta", category) for category in categories or BENCHMARK_CATEGORIES]
    if source.startswith("raw_meta_"):
        return [_hub_source("meta", source.removeprefix("raw_meta_"))]
    raise CatalogueError(
        f"{source} is neither a file nor a folder; expected meta_<Category>.jsonl[.gz], a folder of such files, "
        f"raw_meta_<Category> or {HUB_DATASET}"
    )


def open_reviews(names: Sequence[str]) -> list[AmazonSource]:
    """Open the reviews that names on the command line mean; nothing is read yet.

    Each is ``<Category>.jsonl``, ``.jsonl.gz`` or ``.jsonl.zst``, a rating-only ``<Category>.csv``
    packed or not, a Parquet file or a folder of them, or ``raw_review_<Category>`` of the hub.

    Raises:
        CatalogueError: No such file.
    """
    sources = []
    for name in names:
        path = Path(name)
        if path.is_file() or any(path.glob("*.parquet")):
            sources.append(_file_source(path, category=None))
        elif re.fullmatch(r"raw_review_\w+", name):
            sources.append(_hub_source("review", name.removeprefix("raw_review_")))
        else:
            raise CatalogueError(
                f"{name} is no file of reviews; expected <Category>.jsonl[.gz], or raw_review_<Category> to stream it "
                "from the hub"
            )
    return sources


def _category_of(path: Path) -> str | None:
    match = _META_FILE.match(path.name)
    return match["category"] if match else None


def _folder_files(folder: Path, categories: Sequence[str]) -> dict[str, Path]:
    files = {
        c: f
        for f in sorted(folder.iterdir())
        if (c := _category_of(f)) is not None and (f.is_dir() or f.name.endswith(_SUFFIXES))
    }
    if not files:
        raise CatalogueError(
            f"{folder} holds no file named meta_<Category>.jsonl, .jsonl.gz or .parquet; give the folder they are in"
        )
    unknown = [c for c in categories if c not in files]
    if unknown:
        raise CatalogueError(f"{folder} has no file for {', '.join(unknown)}; found: {', '.join(files)}")
    return {c: files[c] for c in categories} if categories else files


def _file_source(path: Path, *, category: str | None) -> AmazonSource:
    files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
    return AmazonSource(name=path.name, category=category, records=file_records(files), files=files)


class Form(NamedTuple):
    """What a file holds (parquet, csv or json), and how that is packed (gzip, zstd or none)."""

    content: str
    packing: str = "none"


def form_of(file: Path) -> Form:
    """Look into a file, whatever its suffix says; only ``.csv`` in its name tells CSV from JSON."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if start == PARQUET:
        return Form("parquet")
    content = "csv" if ".csv" in file.name.lower() else "json"
    if start.startswith(GZIP):
        return Form(content, "gzip")
    return Form(content, "zstd" if start == ZSTD else "none")


def file_records(files: Iterable[Path], *, wanted: Container[int] | None = None) -> Iterator[RawRow]:
    """Read records one at a time; a damaged file gives those before, then one with a problem.

    Args:
        files: Their rows are counted on from one to the next.
        wanted: Rows to read, where not all; the others cost next to nothing.
    """
    row = 0
    for file in files:
        try:
            for number, record in _records_of(file, first=row, wanted=wanted):
                row = number
                if record is not None:
                    yield record
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError, CatalogueError) as e:
            row += 1
            yield RawRow(
                row=row,
                problem=f"{file.name} is damaged here, and nothing behind it is read: {first_line(e)}; "
                "download it again",
            )


def _records_of(file: Path, *, first: int, wanted: Container[int] | None) -> Iterator[tuple[int, RawRow | None]]:
    """Yield every row's number, with its record where that is wanted."""
    content, packing = form_of(file)
    if content == "parquet":
        for record in parquet_rows(file):
            row = first + record.row
            yield row, record._replace(row=row) if wanted is None or row in wanted else None
        return
    row, header = first, None
    # As bytes: a line that is not UTF-8 is a problem of its own, and a byte order mark is none.
    with unpacked_lines(file, packing) as lines:
        for number, line in enumerate(lines, start=1):
            if len(line) > _MAX_LINE:
                row += 1
                problem = f"line {number}: longer than {_MAX_LINE_MIB} MiB; shorten it, or break it into records"
                yield row, RawRow(row=row, problem=problem) if wanted is None or row in wanted else None
                continue
            if not line.strip():
                continue
            if content == "csv" and header is None:
                header = csv_cells(line)
                continue
            row += 1
            if wanted is not None and row not in wanted:
                yield row, None
            elif header is not None:
                yield row, _csv_record(line, row=row, header=header)
            else:
                [read] = json_rows(json_lines([line]))
                yield row, read._replace(row=row, problem=read.problem and f"line {number}: {read.problem[8:]}")


@contextmanager
def unpacked_lines(file: Path, packing: str) -> Iterator[Iterable[bytes]]:
    """Open a file of lines for a block, whatever it is packed with.

    Lines come with their line breaks; of one that is too long, its beginning and one byte too many.
    """
    if packing == "zstd":
        import pyarrow as pa  # heavy: imported on use

        with pa.input_stream(str(file), compression="zstd") as stream:
            yield _bounded(io.BufferedReader(stream))
        return
    with gzip.open(file) if packing == "gzip" else file.open("rb") as lines:
        yield _bounded(lines)


def _bounded(stream: io.BufferedIOBase) -> Iterator[bytes]:
    while line := stream.readline(_MAX_LINE + 1):
        yield line
        if len(line) > _MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = stream.readline(_MAX_LINE)


def csv_cells(line: bytes) -> list[str]:
    """Return the cells of one line of CSV; one that is not UTF-8, or too long a cell, has none."""
    try:
        return next(csv.reader([line.decode("utf-8-sig").strip()]))
    except (UnicodeDecodeError, csv.Error):
        return []


def _csv_record(line: bytes, *, row: int, header: list[str]) -> RawRow:
    cells = csv_cells(line)
    if len(cells) != len(header):
        return RawRow(
            row=row, problem=f"it has {len(cells)} cells in UTF-8, the header names {len(header)}; correct it"
        )
    return RawRow(row=row, values={name: cell or None for name, cell in zip(header, cells, strict=True)})


def _hub_source(kind: str, category: str) -> AmazonSource:
    folder, prefix = ("meta_categories", "meta_") if kind == "meta" else ("review_categories", "")
    path = f"raw/{folder}/{prefix}{category}.jsonl"
    return AmazonSource(name=f"raw_{kind}_{category}", category=category, records=_hub_records(path), hub_path=path)


def download_source(source: AmazonSource) -> AmazonSource:
    """Return a source of the hub as a file in the hub's own cache, others as they are.

    For who reads all of it: an interrupted download goes on, and the revision is known.

    Raises:
        CatalogueError: It cannot be had.
    """
    if source.hub_path is None:
        return source
    import httpx  # heavy: imported on use
    from huggingface_hub import hf_hub_download

    try:
        file = Path(hf_hub_download(HUB_DATASET, source.hub_path, repo_type="dataset"))
    except (OSError, httpx.HTTPError) as e:
        raise _unreachable(source.hub_path, e) from e
    revision = file.parents[len(PurePosixPath(source.hub_path).parts) - 1].name
    return replace(source, files=(file,), revision=revision)


def _hub_records(path: str) -> Iterator[RawRow]:
    """Stream one file of JSON lines from the hub, given its path inside the data set's repository.

    The data set's own configurations need a loading script, which datasets no longer runs; the raw
    files behind them are plain JSON lines. They are read as text because their records do not share
    one schema.
    """
    import httpx  # heavy: imported on use
    from datasets import load_dataset

    try:
        file = f"hf://datasets/{HUB_DATASET}/{path}"
        stream = load_dataset("text", data_files=file, split="train", streaming=True)
        yield from json_rows(json_lines(row["text"] for row in stream))
    except (OSError, httpx.HTTPError) as e:
        raise _unreachable(path, e) from e


def _unreachable(path: str, error: Exception) -> CatalogueError:
    return CatalogueError(
        f"cannot read hf://datasets/{HUB_DATASET}/{path}: {first_line(error)}; check the category's name and the "
        f"network (HF_HUB_OFFLINE must not be set), or download {PurePosixPath(path).name}.gz yourself and give its "
        "path"
    )
