"""Tables of a shop, as ``data import`` meets them."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.drills.hostile.case import GOES_ON, REFUSED, SET_ASIDE, Case, Group, both, write
from tests.drills.hostile.images import colours, saved
from tests.drills.hostile.interactions import converted

TABLE = "id,name,image,category\n1,Acme Kettle,,Kitchen\n2,Red Mug,,Kitchen\n"
OLD_EXCEL = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000)


def workbook(change: Callable[[str, bytes], bytes]) -> Callable[[Path], object]:
    """An Excel file of two items, each of its parts changed."""

    def make(folder: Path) -> None:
        import openpyxl

        book, out = openpyxl.Workbook(), io.BytesIO()
        for line in TABLE.splitlines():
            book.active.append(line.split(","))
        book.save(out)
        with zipfile.ZipFile(out) as whole, zipfile.ZipFile(folder / "items.xlsx", "w") as other:
            for name in whole.namelist():
                other.writestr(name, change(name, whole.read(name)))

    return make


def half_of(part: str) -> Callable[[str, bytes], bytes]:
    return lambda name, content: content[: len(content) // 2] if part in name else content


def encrypted(folder: Path) -> None:
    """Set the flag of every entry by which a ZIP archive says that it needs a password."""
    content = bytearray((folder / "items.xlsx").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(mark, place + 1)) >= 0:
            content[place + flags] |= 1
    (folder / "items.xlsx").write_bytes(bytes(content))


def unsaved(folder: Path) -> None:
    """An Excel file as a program writes it: with a formula that no spreadsheet has computed."""
    import openpyxl

    book = openpyxl.Workbook()
    for row in (["id", "name"], ["1", '=A2&" kettle"'], ["2", "Red Mug"]):
        book.active.append(row)
    book.save(folder / "items.xlsx")


def shard(*cuts: slice) -> Callable[[Path], object]:
    """Pieces of a WebDataset of two titles, of each a header and a block of 512 bytes."""

    def make(folder: Path) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for key in ("a", "b"):
                about = tarfile.TarInfo(f"{key}.txt")
                about.size = 3
                archive.addfile(about, io.BytesIO(b"Mug"))
        write("items.tar", b"".join(out.getvalue()[cut] for cut in cuts))(folder)

    return make


def command(name: str) -> str:
    return f"data import {name} --out out"


XLSX, TAR = command("items.xlsx"), command("items.tar")
IMPORTS = Group(
    title="Tables of a shop",
    command=command("items.csv"),
    outcome=REFUSED,
    count=converted,
    rows=2,
    cases=[
        Case("no header", write("items.csv", TABLE.partition("\n")[2]), "no column is recognised as title or image"),
        Case("only a header", write("items.csv", TABLE.partition("\n")[0]), "No item", status=1),
        Case(
            "two columns of one name",
            write("items.csv", TABLE.replace("image", "name")),
            "not read, but kept: name (2)",
            GOES_ON,
        ),
        Case(
            "a field mapped twice",
            write("items.csv", TABLE),
            "title is given twice",
            command=command("items.csv --map title=name title=id"),
        ),
        Case(
            "a field mapped to two columns",
            write("items.csv", TABLE),
            "only image and attributes take several columns",
            command=command("items.csv --map title=name,id"),
        ),
        Case("a NUL in a cell", write("items.csv", TABLE.replace("Mug", "M\0ug")), "items: 2", GOES_ON),
        Case("UTF-16 without a mark", write("items.csv", TABLE.encode("utf-16-le")), "UTF-16-LE ... items: 2", GOES_ON),
        Case("a million columns", write("items.csv", "id,name" + ",x" * 10**6), "has 1,000,002 columns, the limit is"),
        Case(
            "a title of 10 million characters",
            write("items.csv", TABLE.replace("Red", "red " * 2_500_000)),
            "title has 10,000,003 characters, the limit is",
            SET_ASIDE,
        ),
        Case("a photograph named .csv", write("items.csv", saved(colours(), "PNG")), "items.csv is no text"),
        Case("a gzip archive named .csv", write("items.csv", gzip.compress(TABLE.encode())), "items.csv is no text"),
        Case("text named .xlsx", write("items.xlsx", TABLE), "File is not a zip file", command=XLSX),
        Case("an .xls named .xlsx", write("items.xlsx", OLD_EXCEL), "or an old .xls by another name", command=XLSX),
        Case("an .xls", write("items.xls", OLD_EXCEL), "save it as .xlsx", command=command("items.xls")),
        Case("a workbook cut in the middle", workbook(half_of("sheet1")), "cannot be read as an Excel", command=XLSX),
        Case("a workbook whose styles are damaged", workbook(half_of("styles")), "cannot be read as", command=XLSX),
        Case(
            "a workbook behind a password",
            both(workbook(lambda name, content: content), encrypted),
            "it is protected by a password",
            command=XLSX,
        ),
        Case(
            "formulas without values", unsaved, "formulas without their values, 1 of them, such as in B2", command=XLSX
        ),
        Case(
            "an Excel error in the place of a title",
            write("items.csv", TABLE.replace("Red Mug", "#REF!")),
            "row 2 (2): neither title nor image",
            SET_ASIDE,
        ),
        Case(
            "Excel's lock and a Mac's shadow beside the table",
            both(write("shop/items.csv", TABLE), write("shop/~$items.xlsx", b"\5"), write("shop/._items.csv", b"\0\5")),
            "items: 2",
            GOES_ON,
            command("shop"),
        ),
        Case(
            "a folder of tables of two formats",
            both(write("shop/items.csv", TABLE), write("shop/old.jsonl", '{"name": "Mug"}')),
            "holds tables of several formats (old.jsonl, items.csv)",
            command=command("shop"),
        ),
        Case(
            "photographs: texts of one that is gone, and of one twice",
            both(
                write("shop/a.png", saved(colours(), "PNG")),
                write("shop/metadata.csv", "file_name,title\na.png,Mug\ngone.png,Pot\na.png,Pan\n"),
            ),
            "gone.png does not exist ... a.png was named before",
            SET_ASIDE,
            command("shop"),
            rows=3,
        ),
        Case(
            "a ZIP archive",
            write("items.zip", b"PK\x03\x04" + bytes(99)),
            "of no format that is read",
            command=command("items.zip"),
        ),
        Case(
            "a WebDataset cut in a header",
            shard(slice(1034)),
            "row 1: items.tar is damaged here",
            command=TAR,
            rows=1,
            status=1,
        ),
        Case("half of a WebDataset's first header", shard(slice(100)), "items.tar is no tar archive", command=TAR),
        Case(
            "a WebDataset with a damaged header",
            shard(slice(1024), slice(1025, 1537), slice(1536, None)),
            "bad checksum at byte 1,024",
            command=TAR,
            rows=1,
            status=1,
        ),
        Case(
            "two WebDatasets joined",
            shard(slice(None), slice(None)),
            "give archives one by one, not joined",
            SET_ASIDE,
            TAR,
        ),
    ],
)

GROUPS = [IMPORTS]
