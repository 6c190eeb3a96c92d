"""Read records of Amazon Reviews 2023, items or reviews, from files or streamed from the hub."""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from grpo_mmpc.catalogue.rows import RawRow, json_rows
from grpo_mmpc.catalogue.tables import parquet_rows
from grpo_mmpc.errors import CatalogueError

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

_META_FILE = re.compile(r"(?:raw_)?meta_(?P<category>.+?)(?:\.jsonl|\.jsonl\.gz|\.parquet|)$")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class AmazonSource:
    """Records of one file or hub configuration: item metadata, or reviews."""

    name: str
    """For messages."""
    category: str | None
    """Category of its items; None takes each metadata record's ``main_category``."""
    records: Iterable[RawRow]
    """Read once, and only as far as needed."""


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

    Each is ``<Category>.jsonl`` or ``.jsonl.gz``, or ``raw_review_<Category>``, which is streamed
    from the hub.

    Raises:
        CatalogueError: No such file.
    """
    sources = []
    for name in names:
        if Path(name).is_file():
            sources.append(_file_source(Path(name), category=None))
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
    return AmazonSource(name=path.name, category=category, records=_file_records(path))


def _file_records(path: Path) -> Iterator[RawRow]:
    """Read JSON lines, gzipped or not, or Parquet, one record at a time, whatever the suffix says.

    A file that ends too early or is damaged gives the records up to there, then one with a problem.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    row = 0
    for file in files:
        try:
            for record in _records_of(file):
                row += 1
                yield replace(record, row=row)
        except (EOFError, zlib.error, gzip.BadGzipFile, CatalogueError) as e:
            yield RawRow(
                row=row + 1,
                problem=f"{file.name} is damaged here, and nothing behind it is read: {e}; download it again",
            )


def _records_of(file: Path) -> Iterator[RawRow]:
    with file.open("rb") as stream:
        mark = stream.read(4)
    if mark == b"PAR1":
        yield from parquet_rows(file)
        return
    # As bytes: a line that is not UTF-8 is a problem of its own, and a byte order mark is none.
    with gzip.open(file) if mark[:2] == b"\x1f\x8b" else file.open("rb") as lines:
        yield from json_rows(lines)


def _hub_source(kind: str, category: str) -> AmazonSource:
    folder, prefix = ("meta_categories", "meta_") if kind == "meta" else ("review_categories", "")
    records = _hub_records(f"raw/{folder}/{prefix}{category}.jsonl")
    return AmazonSource(name=f"raw_{kind}_{category}", category=category, records=records)


def _hub_records(path: str) -> Iterator[RawRow]:
    """Stream one file of JSON lines from the hub, given its path inside the data set's repository.

    The data set's own configurations need a loading script, which datasets no longer runs; the raw
    files behind them are plain JSON lines. They are read as text because their records do not share
    one schema.
    """
    import httpx  # heavy: imported on use
    from datasets import load_dataset

    file = f"hf://datasets/{HUB_DATASET}/{path}"
    try:
        stream = load_dataset("text", data_files=file, split="train", streaming=True)
        yield from json_rows(row["text"] for row in stream)
    except (OSError, httpx.HTTPError) as e:
        raise CatalogueError(
            f"cannot stream {file}: {e}; check the category's name and the network (HF_HUB_OFFLINE must not be set), "
            f"or download {PurePosixPath(path).name}.gz yourself and give its path"
        ) from e
