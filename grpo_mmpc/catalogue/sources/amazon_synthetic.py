"""Write files shaped like Amazon Reviews 2023, at any size and in every form the data comes in."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grpo_mmpc.catalogue.sources.amazon_records import BENCHMARK_CATEGORIES
from grpo_mmpc.catalogue.sources.amazon_warts import ITEM_WARTS, REVIEW_WARTS, Planted, Wart, plant
from grpo_mmpc.utils.files import write_json_lines
from grpo_mmpc.utils.hashing import seed as seed_of

PLANTED = "planted.jsonl"

_CHUNK_ROWS = 100_000
_FIRST_MS, _SPAN_MS = 1_420_070_400_000, 260_000_000_000
"""2015, and a little more than eight years."""
_ELSEWHERE = 0.05
"""Share of reviews of products that the metadata does not have."""
_WART_EVERY = 20_000

_BRANDS = "Acme,Nordlys,Kestrel,Bluebird,Hartwell,Quill,Tamsin,Orchard,Brightside,Zephyr"
_COLORS = "Red,Blue,Green,Black,White,Silver,Amber,Teal,Ivory,Copper"
_MATERIALS = "Steel,Cotton,Oak,Glass,Leather,Bamboo,Ceramic,Nylon"
_SIZES = "Small,Medium,Large,8 Ounce,12 Inch,2.5 mm,1/2 Inch,XL"
_KINDS = "Mug,Kettle,Desk Lamp,Backpack,Paint Brush,Guitar Strap,Drill Bit,Board Game,Hair Brush,USB Cable"
_WORDS = (
    "durable,compact,easy,to,clean,made,for,daily,use,with,a,smooth,finish,and,soft,grip,fits,most,kitchens,offices,"
    "gifts,travel,comes,in,box,lasting,design,lightweight,sturdy,classic,modern,safe,quiet,quick"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How a category's files are written."""

    metadata: str
    """Name of the metadata's file, with ``{}`` for the category."""
    reviews: str
    packing: str = "none"
    """Of both files' content, whatever their names say: none, gzip or zstd."""
    damage: str | None = None
    """Of the metadata's file: ``byte order mark`` or ``truncated``."""


_FORMS = (
    _Form(metadata="meta_{}.jsonl", reviews="{}.jsonl"),
    _Form(metadata="meta_{}.jsonl.gz", reviews="{}.jsonl.gz", packing="gzip"),
    _Form(metadata="meta_{}.jsonl.zst", reviews="{}.jsonl.zst", packing="zstd"),
    _Form(metadata="raw_meta_{}", reviews="raw_review_{}"),
    _Form(metadata="meta_{}.jsonl", reviews="{}.csv"),
    _Form(metadata="meta_{}.jsonl", reviews="{}.jsonl", packing="gzip"),
    _Form(metadata="meta_{}.jsonl.gz", reviews="{}.jsonl.gz"),
    _Form(metadata="meta_{}.jsonl", reviews="{}.jsonl", damage="byte order mark"),
    _Form(metadata="meta_{}.jsonl.gz", reviews="{}.jsonl.gz", packing="gzip", damage="truncated"),
)
"""One a category: plain, gzip, zstd, the hub's Parquet, rating-only CSV, packed without saying so,
not packed as said, a byte order mark, an archive that ends too early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticFiles:
    """What was written."""

    folder: Path
    metadata: list[Path]
    reviews: list[Path]
    num_items: int
    num_reviews: int
    planted: list[Planted]
    """Also in ``planted.jsonl``."""


def write_synthetic(out: Path, *, num_items: int, num_reviews: int, seed: int, clean: bool = False) -> SyntheticFiles:
    """Write metadata and reviews of the nine MMPCBench categories, each category in another form.

    Users review many products of one category, products differ in popularity, and one review in
    twenty is of a product that the metadata lacks. The same arguments give the same files.

    Args:
        out: Folder to write; files of the same names are replaced.
        num_items: Metadata records, over all categories.
        num_reviews: Reviews, over all categories.
        seed: Of everything.
        clean: Plant no faults; the forms stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    planted: list[Planted] = []
    metadata, reviews, first = [], [], 0
    for position, (category, form) in enumerate(zip(BENCHMARK_CATEGORIES, _FORMS, strict=True)):
        items, of_category = (_share(total, position) for total in (num_items, num_reviews))
        chance = np.random.default_rng([seed_of(category), seed])
        faults = 0 if clean else 1
        metadata.append(out / form.metadata.format(category))
        chunks = _items(chance, category=category, first=first, count=items)
        _write(metadata[-1], chunks, form=form, warts=ITEM_WARTS, rows=items * faults, chance=chance, planted=planted)
        if form.damage and not clean:
            planted.append(_damage(metadata[-1], form.damage))
        reviews.append(out / form.reviews.format(category))
        chunks = _reviews(chance, first=first, items=items, count=of_category)
        rows = of_category * faults
        _write(reviews[-1], chunks, form=form, warts=REVIEW_WARTS, rows=rows, chance=chance, planted=planted)
        first += items
    if not clean:
        write_json_lines(out / PLANTED, (one._asdict() for one in planted))
    return SyntheticFiles(
        folder=out,
        metadata=metadata,
        reviews=reviews,
        num_items=num_items,
        num_reviews=num_reviews,
        planted=planted,
    )


def _share(total: int, position: int) -> int:
    """Return this category's part of a total: all parts add up."""
    parts = len(BENCHMARK_CATEGORIES)
    return total * (position + 1) // parts - total * position // parts


def _ids(letter: str, numbers: Any, *, digits: int) -> pa.Array:
    return pc.binary_join_element_wise(letter, pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0"), "")


def _pick(chance: np.random.Generator, listed: str, count: int) -> pa.Array:
    words = listed.split(",")
    return pa.array(words).take(pa.array(chance.integers(len(words), size=count)))


def _sentence(chance: np.random.Generator, *, words: int, count: int) -> pa.Array:
    return pc.binary_join_element_wise(*(_pick(chance, _WORDS, count) for _ in range(words)), " ")


def _items(chance: np.random.Generator, *, category: str, first: int, count: int) -> Iterator[pa.Table]:
    for start in range(0, count, _CHUNK_ROWS):
        n = min(_CHUNK_ROWS, count - start)
        asins = _ids("B", np.arange(first + start, first + start + n), digits=9)
        facts = {
            name: _pick(chance, words, n)
            for name, words in {"Brand": _BRANDS, "Color": _COLORS, "Size": _SIZES, "Material": _MATERIALS}.items()
        }
        kind = _pick(chance, _KINDS, n)
        serial = chance.integers(10, 10_000, size=n)
        columns = {
            "main_category": pa.array([category.replace("_", " ")]).take(pa.array(np.zeros(n, dtype=np.int64))),
            "title": pc.binary_join_element_wise(
                *facts.values(), kind, "for Home and Travel, Model", pa.array(serial).cast(pa.string()), " "
            ),
            "average_rating": pa.array(chance.integers(20, 51, size=n) / 10),
            "rating_number": pa.array(serial),
            "features": _sentence(chance, words=8, count=n),
            "description": _sentence(chance, words=30, count=n),
            "price": pa.array(serial / 100, mask=chance.random(n) < 0.6),
            "image": pc.binary_join_element_wise("https://m.media-amazon.com/images/I/", asins, ""),
            "store": facts["Brand"],
            "parent_asin": asins,
        }
        yield pa.table(columns | facts)


def _reviews(chance: np.random.Generator, *, first: int, items: int, count: int) -> Iterator[pa.Table]:
    users = max(1, count // 8)
    known = max(1, items)
    for start in range(0, count, _CHUNK_ROWS):
        n = min(_CHUNK_ROWS, count - start)
        product = first + (known * chance.random(n) ** 2).astype(np.int64)
        product = np.where(chance.random(n) < _ELSEWHERE, product + 500_000_000, product)
        user = first * 1000 + (users * chance.random(n) ** 3).astype(np.int64)
        asins = _ids("B", product, digits=9)
        yield pa.table(
            {
                "rating": pa.array(chance.integers(1, 6, size=n).astype(np.float64)),
                "title": _sentence(chance, words=3, count=n),
                "text": _sentence(chance, words=25, count=n),
                "asin": asins,
                "parent_asin": asins,
                "user_id": _ids("AE", user, digits=26),
                "timestamp": pa.array(_FIRST_MS + chance.integers(_SPAN_MS, size=n)),
                "helpful_vote": pa.array(chance.integers(10, size=n)),
            }
        )


# --- forms of files


def _write(
    path: Path,
    chunks: Iterator[pa.Table],
    *,
    form: _Form,
    warts: tuple[Wart, ...],
    rows: int,
    chance: np.random.Generator,
    planted: list[Planted],
) -> None:
    """Write one file, with every wart once in so many rows; none where ``rows`` is 0."""
    if path.suffix == "":
        _write_parquet(path, chunks)
        return
    is_csv = path.suffix == ".csv"
    number = 0 if is_csv or rows <= 2 * len(warts) else len(warts) * max(1, rows // _WART_EVERY)
    where = np.sort(chance.choice(np.arange(1, max(rows, 1)), size=number, replace=False)) if number else np.empty(0)
    order = [warts[i % len(warts)] for i in chance.permutation(number)]
    start, at = 0, 0
    with _packed(path, packing="none" if is_csv else form.packing) as file:
        if is_csv:
            file.write(b"user_id,parent_asin,rating,timestamp\n")
        for table in chunks:
            lines = _csv_lines(table) if is_csv else _json_lines(table)
            here = int(np.searchsorted(where, start + len(lines)))
            file.write(plant(lines, order[at:here], rows=where[at:here] - start, first=start, file=path, into=planted))
            start, at = start + len(lines), here


@contextmanager
def _packed(path: Path, *, packing: str) -> Iterator[IO[bytes]]:
    with path.open("wb") as raw:
        if packing == "gzip":
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as file:
                yield file  # type: ignore[misc]
        elif packing == "zstd":
            with pa.CompressedOutputStream(raw, "zstd") as file:
                yield file
        else:
            yield raw


def _json_lines(table: pa.Table) -> pa.Array:
    """Return a text a row, with its line break; no word of this module needs escaping."""
    text = {name: table[name].combine_chunks().cast(pa.string()) for name in table.column_names}
    if "user_id" in text:
        parts = [
            *('{"rating": ', text["rating"], ', "title": "', text["title"], '", "text": "', text["text"]),
            *('", "images": [], "asin": "', text["asin"], '", "parent_asin": "', text["parent_asin"]),
            *('", "user_id": "', text["user_id"], '", "timestamp": ', text["timestamp"]),
            *(', "helpful_vote": ', text["helpful_vote"], ', "verified_purchase": true}\n'),
        ]
        return pc.binary_join_element_wise(*parts, "")
    image, price = text["image"], pc.fill_null(text["price"], "null")
    parts = [
        *('{"main_category": "', text["main_category"], '", "title": "', text["title"]),
        *('", "average_rating": ', text["average_rating"], ', "rating_number": ', text["rating_number"]),
        *(', "features": ["', text["features"], '"], "description": ["', text["description"], '"], "price": ', price),
        ', "images": [',
    ]
    for variant, end in (("MAIN", ", "), ("PT01", ", "), ("PT02", "")):
        parts += [
            '{"thumb": "',
            image,
            f't{variant}.jpg", "large": "',
            image,
            f'l{variant}.jpg", "variant": "{variant}"',
        ]
        parts += [', "hi_res": "', image, f'h{variant}.jpg"}}{end}']
    parts += [
        '], "videos": [], "store": "',
        text["store"],
        '", "categories": [], "details": {"Brand": "',
        text["Brand"],
    ]
    parts += ['", "Color": "', text["Color"], '", "Size": "', text["Size"], '", "Material": "', text["Material"]]
    parts += ['", "Item Weight": "2 ounces"}, "parent_asin": "', text["parent_asin"], '", "bought_together": null}\n']
    return pc.binary_join_element_wise(*parts, "")


def _csv_lines(table: pa.Table) -> pa.Array:
    cells = [
        table[name].combine_chunks().cast(pa.string()) for name in ("user_id", "parent_asin", "rating", "timestamp")
    ]
    return pc.binary_join_element_wise(pc.binary_join_element_wise(*cells, ","), "\n", "")


def _write_parquet(folder: Path, chunks: Iterator[pa.Table]) -> None:
    """Write a folder of the hub's form: images as an object of lists, details and price as text."""
    folder.mkdir(exist_ok=True)
    for part, table in enumerate(chunks):
        if "image" in table.column_names:
            table = _hub_columns(table)
        pq.write_table(table, folder / f"full-{part:05d}.parquet", compression="zstd")


def _hub_columns(table: pa.Table) -> pa.Table:
    text = {name: table[name].combine_chunks() for name in table.column_names}
    n = len(table)
    one = pa.array(np.arange(n + 1, dtype=np.int32))

    def listed(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(one, values)

    join = pc.binary_join_element_wise
    main = pa.array(["MAIN"]).take(pa.array(np.zeros(n, dtype=np.int64)))
    images = {
        "hi_res": listed(pa.nulls(n, pa.string())),
        "large": listed(join(text["image"], "lMAIN.jpg", "")),
        "variant": listed(main),
    }
    details = join('{"Brand": "', text["Brand"], '", "Color": "', text["Color"], '", "Size": "', text["Size"], '"}', "")
    return pa.table(
        {
            **{name: text[name] for name in ("main_category", "title", "average_rating", "rating_number", "store")},
            "features": listed(text["features"]),
            "description": listed(text["description"]),
            "price": pc.fill_null(text["price"].cast(pa.string()), "None"),
            "images": pa.StructArray.from_arrays(list(images.values()), list(images)),
            "details": details,
            "parent_asin": text["parent_asin"],
        }
    )


def _damage(path: Path, damage: str) -> Planted:
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) * 9 // 10])
        return Planted(wart="truncated gzip", file=path.name, row=None, item_id=None, outcome="skipped")
    path.write_bytes(b"\xef\xbb\xbf" + content)
    return Planted(wart=damage, file=path.name, row=1, item_id=None, outcome="read")
