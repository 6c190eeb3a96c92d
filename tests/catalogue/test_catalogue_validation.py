"""validate_catalogue and its text: counts, broken rows, near-duplicates, interactions."""

import json
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue import interactions_summary, validate_catalogue
from grpo_mmpc.catalogue.validation import CategoryCounts
from grpo_mmpc.catalogue.validation_text import format_report
from grpo_mmpc.errors import CatalogueError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "catalogue" / "images").mkdir(parents=True)
    Image.radial_gradient("L").save(tmp_path / "catalogue" / "images" / "a.png")
    return tmp_path / "catalogue"


def write(folder: Path, *rows: dict) -> None:
    defaults = {"category": "Fruit", "title": None, "description": "Good.", "image": "images/a.png"}
    lines = [json.dumps({**defaults, "item_id": f"i{n}", **row}) + "\n" for n, row in enumerate(rows)]
    (folder / "items.jsonl").write_text("".join(lines))


def write_interactions(folder: Path, *rows: str) -> None:
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp,rating", *rows]) + "\n")


def counts(category: str, **values: int) -> CategoryCounts:
    zero = {"items": 0, "missing_title": 0, "missing_description": 0, "missing_image": 0, "broken": 0}
    return CategoryCounts(category=category, **{**zero, **values})


def test_each_category_counts_its_items_gaps_and_broken_rows(folder):
    write(
        folder,
        {"title": "Apple"},
        {"title": "Pear", "description": ""},
        {"image": "images/gone.png"},
        {"category": "Tools", "title": "Saw", "image": None},
        {"category": "Books", "title": "x", "image": "../x"},
        {"category": ""},
    )
    report = validate_catalogue(folder)
    assert report.categories == [
        counts("Fruit", items=2, missing_description=1, broken=1),
        counts("Tools", items=1, missing_image=1),
        counts("(unknown)", broken=1),
        counts("Books", broken=1),
    ]
    assert (report.rows_read, report.items, len(report.quarantined)) == (6, 3, 3)
    assert report.is_broken


def test_a_sound_catalogue_is_not_broken(folder):
    write(folder, {"title": "Apple"}, {"title": "Pear", "image": None})
    report = validate_catalogue(folder)
    assert not report.is_broken
    assert report.warnings == []
    assert format_report(report).endswith("2 usable items of 2 rows; nothing is broken.")


def test_near_duplicates_and_repeated_identifiers_are_counted(folder):
    write(
        folder,
        {"title": "Apple", "image": None},
        {"title": "APPLE!", "image": None},
        {"title": "Pear", "image": None},
        {"item_id": "i0", "title": "Apple"},
    )
    report = validate_catalogue(folder)
    assert (report.near_duplicate_groups, report.near_duplicate_items, report.duplicate_ids) == (1, 2, 1)
    assert [(g.items, g.item_ids, g.title) for g in report.largest_groups] == [(2, ["i0", "i1"], "Apple")]


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        (
            [{"category": "Fruit", "title": "a"}, {"category": "fruit", "title": "b"}],
            "categories Fruit, fruit look like one",
        ),
        ([{"title": "a"}, {"category": "Tools", "image": "gone.png"}], "category Tools has no usable item (1 broken)"),
        ([{"title": "a", "image": None}], "category Fruit has no image at all"),
        ([{"title": None}], "category Fruit has no title at all"),
        ([{"title": f"t{i}"} for i in range(30)], "30 of 30 items are near-duplicates of each other"),
        ([{"title": f"t{i}", "category": f"c{i}"} for i in range(201)], "201 categories"),
        ([{"title": "a", "attributes": "{"}], "items.jsonl row 1 (i0): attributes dropped"),
    ],
)
def test_odd_things_are_warned_about(folder, rows, warning):
    write(folder, *rows)
    assert any(w.startswith(warning) for w in validate_catalogue(folder).warnings)


def test_a_catalogue_without_usable_rows_is_still_reported(folder):
    write(folder, {"category": None})
    report = validate_catalogue(folder)
    assert report.items == 0
    assert format_report(report).endswith("No usable item: correct the rows above first.")


def test_an_unreadable_catalogue_is_an_error(folder):
    (folder / "items.csv").write_text("item_id\n1\n")
    with pytest.raises(CatalogueError, match="lacks the columns category, title, image"):
        validate_catalogue(folder)


# --- interactions


def test_interactions_are_checked_against_the_items(folder):
    write(folder, {"title": "Apple"}, {"title": "Pear"}, {"title": "Plum"})
    write_interactions(
        folder,
        "u1,i0,1600000000000,5",
        "u1,i0,1600000000001,4",
        "u2,i1,1600000000000,",
        "u2,i9,1600000000000,3",
        "u3,i9,1600000000000,3",
        "u3,i8,1600000000000,3",
        ",i1,1600000000000,3",
        "u4,i1,yesterday,3",
        "u4,i1,1600000000000,great",
        "u4,i1",
    )
    found = validate_catalogue(folder).interactions
    assert found is not None
    assert (found.rows_read, found.users, found.items, found.repeated) == (10, 2, 2, 1)
    assert found.unknown_items == {"i9": 2, "i8": 1}
    assert {q.row: q.reason for q in found.broken} == {
        7: "user_id is missing; remove the row or name the user",
        8: "timestamp is 'yesterday', expected milliseconds since 1970 as a whole number",
        9: "rating is 'great', expected a number or nothing",
        10: "line 11 has 2 cells, the header names 4; put quotes around a cell that contains a comma",
    }
    assert {q.file for q in found.broken} == {"interactions.csv"}


def test_users_items_and_pairs_are_counted_whatever_part_of_the_users_is_looked_at_together(folder, monkeypatch):
    monkeypatch.setattr(interactions_summary, "_ROWS_SORTED", 3)
    write(folder, *({"title": f"Apple {n}"} for n in range(8)))
    pairs = [(n % 7, n * n % 6) for n in range(60)]
    write_interactions(folder, *(f"u{user},i{item},1600000000000,5" for user, item in pairs), "u9,i9,1600000000000,5")
    found = validate_catalogue(folder).interactions
    assert found is not None
    counts = len({user for user, _ in pairs}), len({item for _, item in pairs}), len(pairs) - len({*pairs})
    assert (found.users, found.items, found.repeated) == counts == (7, 4, 32)


@pytest.mark.parametrize(
    ("stamp", "is_broken"),
    [("1600000000000", False), ("1.6e12", False), ("1600000000000.5", True), ("", True), ("nan", True)],
)
def test_a_timestamp_is_a_whole_number(folder, stamp, is_broken):
    write(folder, {"title": "Apple"})
    write_interactions(folder, f"u1,i0,{stamp},5")
    found = validate_catalogue(folder).interactions
    assert found is not None
    assert bool(found.broken) is is_broken


def test_timestamps_in_seconds_and_microseconds_are_warned_about(folder):
    write(folder, {"title": "Apple"})
    write_interactions(folder, "u1,i0,1600000000,5", "u2,i0,1600000000000,5", "u3,i0,1600000000000000,5")
    found = validate_catalogue(folder).interactions
    assert found is not None
    [warning] = found.warnings
    assert warning.startswith("timestamps before 1980 or after 2100 in 2 of 3 rows: they look like seconds")


def test_interactions_are_counted_once_until_they_or_the_items_change(folder, monkeypatch):
    write(folder, {"title": "Apple"}, {"title": "Pear"})
    write_interactions(folder, "u1,i0,1600000000000,5", "u1,i2,1600000000000,5", "u1,i0,never,5")
    first = validate_catalogue(folder).interactions
    assert first is not None and first.unknown_items == {"i2": 1}
    counted = []
    real = interactions_summary.checked_batches
    monkeypatch.setattr(interactions_summary, "checked_batches", lambda table: counted.append(table) or real(table))
    assert validate_catalogue(folder).interactions == first
    assert not counted
    write(folder, {"title": "Apple"}, {"title": "Pear"}, {"title": "Plum"})
    again = validate_catalogue(folder).interactions
    assert counted and again is not None and again.unknown_items == {}


@pytest.mark.parametrize("row", ["u1,gone,1600000000000,5", "u1,i0,never,5"])
def test_unknown_items_and_broken_interactions_make_the_report_broken(folder, row):
    write(folder, {"title": "Apple"})
    write_interactions(folder, row)
    assert validate_catalogue(folder).is_broken


def test_an_interactions_file_without_its_columns_is_an_error(folder):
    write(folder, {"title": "Apple"})
    (folder / "interactions.csv").write_text("user,item_id\nu,i\n")
    with pytest.raises(CatalogueError, match=r"lacks the column user_id, timestamp, rating; found: user, item_id"):
        validate_catalogue(folder)


# --- the text


def test_no_line_of_the_report_is_wider_than_80_columns_whatever_the_names(folder):
    rows = [
        {"title": "word " * 60, "category": "A very long category name " * 5},
        {"title": "x" * 300, "category": "緑茶" * 50},
    ]
    rows += [{"title": "x" * 300, "item_id": "y" * 200}]
    rows += [{"image": "z" * 250 + ".png", "item_id": "i" * 100}] * 3
    write(folder, *rows)
    write_interactions(folder, *(f"u{i},{'unknown' * 30}{i},1,1" for i in range(9)), "u,i0,bad,1")
    assert max(len(line) for line in format_report(validate_catalogue(folder)).splitlines()) <= 80


def test_a_reason_is_given_once_with_the_number_of_rows_that_share_it(folder):
    rows = [{"item_id": f"b{i}", "category": None} for i in range(25)]
    write(
        folder,
        {"title": "Apple"},
        *rows,
        {"item_id": "c", "image": "images/none.png"},
        {"item_id": "d", "image": "x.png"},
    )
    text = format_report(validate_catalogue(folder))
    assert "27 broken rows of items.jsonl, left out of training:" in text
    assert "  - items.jsonl row 2 (b0): category is missing; name the department the item\n    belongs to" in text
    assert "    the same in 24 more rows: 3, 4, 5, 6, 7, ..." in text
    assert text.count("category is missing") == 1
    assert "does not exist" in text and "the same in 1 more row: 28" in text


def test_the_table_adds_up(folder):
    write(
        folder,
        {"title": "Apple"},
        {"title": "Saw", "category": "Tools", "image": None},
        {"category": "Tools", "image": "x"},
    )
    lines = format_report(validate_catalogue(folder)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("category"))
    assert lines[start : start + 4] == [
        "category  items  no title  no descr.  no image  broken",
        "Fruit         1         0          0         0       0",
        "Tools         1         0          0         1       1",
        "total         2         0          0         1       1",
    ]


def test_a_long_category_is_cut_and_its_numbers_are_not(folder):
    write(folder, {"title": "Apple", "category": "緑茶" * 50}, {"title": "Saw", "category": "c" * 90})
    lines = format_report(validate_catalogue(folder)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("category"))
    assert lines[start].split("  ")[-5:] == ["items", "no title", "no descr.", "no image", "broken"]
    assert [line.split()[-5:] for line in lines[start + 1 : start + 4]] == [list("10000"), list("10000"), list("20000")]
    assert lines[start + 1].startswith("c" * 33 + "…")


def test_control_characters_of_a_hostile_row_do_not_reach_the_terminal(folder):
    write(folder, {"title": "\x1b[31mred", "category": "\x1b]0;title\x07"}, {"image": "\x1b[2J.png"})
    assert "\x1b" not in format_report(validate_catalogue(folder))


def test_titles_that_english_metrics_cannot_judge_are_counted(folder):
    write(folder, {"title": "Apple"}, {"title": "Красная куртка", "image": None}, {"title": "青い 2", "image": None})
    [warning] = validate_catalogue(folder).warnings
    assert "2 of 3 titles (67%) are not in Latin script" in warning
