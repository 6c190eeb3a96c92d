"""Tables in spreadsheets and terminals, which would run a cell, and on narrow screens."""

import csv
import re
from pathlib import Path

import pytest

from grpo_mmpc.reports.common import tables
from grpo_mmpc.reports.common.tables import text_table, write_csv


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1+cmd", "'+1+cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("\r=1", "' =1"),
        ("-0.25", "-0.25"),
        ("-1e-05", "-1e-05"),
        (-0.25, "-0.25"),
        ("Toys", "Toys"),
        (None, ""),
    ],
)
def test_a_cell_that_a_spreadsheet_would_run_is_text(tmp_path: Path, cell: object, written: str) -> None:
    write_csv(tmp_path / "t.csv", ["name", "other"], [[cell, "x"]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == [written, "x"]


def test_escape_sequences_of_names_do_not_reach_the_terminal() -> None:
    assert text_table(("name",), [("\x1b[31mred\x1b[0m",)]) == ["name", " [31mred [0m"]


def test_a_table_wider_than_the_terminal_leaves_out_spare_columns_in_their_order_and_names_them():
    head, row = ("name", "mean", "effect", "p"), ("bleu", "0.5", "+1.2", "0.01")
    # 4 + 4 + 6 + 4 columns and three gaps of 2: 24
    whole = ["name  mean  effect     p", "bleu   0.5    +1.2  0.01"]
    assert text_table(head, [row], spare=("effect", "p"), width=24) == whole
    assert text_table(head, [row], spare=("effect", "p"), width=23) == [
        "name  mean     p",
        "bleu   0.5  0.01",
        "(a wider terminal also shows effect)",
    ]
    beside = [("a longer name", "0.5", "", "")]  # of another table: both leave out the same column
    assert text_table(head, [row], spare=("effect",), beside=beside, width=32)[0] == "name           mean     p"
    assert text_table(head, [row], spare=("effect", "p"), width=3)[-1] == "(a wider terminal also shows effect and p)"


def test_that_a_table_can_be_swiped_is_said_on_narrow_screens_alone() -> None:
    style = Path(tables.__file__).with_name("style.css").read_text("utf-8")
    media = dict(re.findall(r"^@media \((.*?)\) \{\n(.*?)^\}", style, re.MULTILINE | re.DOTALL))
    assert re.search(r"^\.hint \{ display: none;", style, re.MULTILINE)
    assert [width for width, rules in media.items() if ".hint { display: block; }" in rules] == ["max-width: 40rem"]
