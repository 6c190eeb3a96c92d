"""The page "From a shop's export to reviewed titles": each of its commands, as the page has it."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from grpo_mmpc.catalogue import load_catalogue
from tests.cli.test_documented_commands import ROOT, start

PAGE = ROOT / "docs" / "shop_export.md"
COLUMNS = ["Handle", "Title", "Vendor", "Type", "Option1 Name", "Option1 Value", "Variant SKU", "Image Src"]


def write_exports(folder: Path, catalogue: Path) -> None:
    """Write shop.csv of drawn products, three of eight without title, and a supplier's list."""
    products = list(load_catalogue(catalogue).records())[:8]
    with (folder / "shop.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, product in enumerate(products):
            title = "" if number < 3 else product.title
            image = str(catalogue / product.image)
            (folder / Path(image).name).write_bytes(Path(image).read_bytes())
            handle = f"p{number}"
            writer.writerow([handle, title, "Acme", "Mugs", "Size", "S", f"{number}-S", Path(image).name])
            if 3 <= number < 7:
                writer.writerow([handle, "", "", "", "", "L", f"{number}-L", ""])
    rows = [f"{n};{p.title if n else ''};{Path(p.image).name}\r\n" for n, p in enumerate(products)]
    (folder / "supplier.csv").write_bytes(("Nr;Bezeichnung;Foto\r\n" + "".join(rows)).encode("cp1252"))


def write_orders(catalogue: Path) -> None:
    """Write who bought what: every customer leaves one of four items out."""
    items = [record.item_id for record in load_catalogue(catalogue).records()]
    rows = [
        f"customer {user},{item_id},{1_700_000_000_000 + day},5"
        for user in range(16)
        for day, item_id in enumerate(items)
        if (user + day) % 4
    ]
    (catalogue / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp,rating", *rows, ""]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_from_top_to_bottom(tmp_path: Path, small_catalogue: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    write_exports(tmp_path, small_catalogue)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 12
    said = [start(*shlex.split(line), cwd=tmp_path) for line in lines[:1]]
    write_orders(tmp_path / "shop_catalogue")
    said += [start(*shlex.split(line), cwd=tmp_path) for line in lines[1:]]
    printed = re.search(r"```text\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1].splitlines()
    assert printed[1:] == said[0].splitlines()[1:]
    before, after = ((tmp_path / name).read_bytes() for name in ("shop.csv", "shop_with_titles.csv"))
    changed = [(a, b) for a, b in zip(before.split(b"\r\n"), after.split(b"\r\n"), strict=True) if a != b]
    filled = re.search(r"(\d+) title cells filled", said[5])
    assert filled and 1 <= int(filled[1]) == len(changed) <= 3
    for old, new in changed:
        handle, rest = old.split(b",,", 1)
        assert new.startswith(handle + b",") and new.endswith(b"," + rest) and len(new) > len(old)
    measured = 9  # items with a title and an image; of three there was none to take away
    assert f"{measured} without their title" in said[7] and "3 had none before" in said[7]
    assert "image_to_text, corrected mode: 9 items" in said[10]
    assert "shop_measured: 9 of 9 missing titles completed" in said[11]
