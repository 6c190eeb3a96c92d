"""Whatever an interactions file holds: each row is used or counted, and errors are in words."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_mmpc.errors import CatalogueError, RecBenchError
from grpo_mmpc.recbench.interactions import filter_interactions, read_interactions
from grpo_mmpc.recbench.settings import InteractionsSection
from grpo_mmpc.recbench.splits import chronological_split, leave_one_out_split, split_statistics

KNOWN = {"a": "Fruit", "b": "Fruit", "c": "Fruit", "ü": "Tools"}
COLUMNS = ("user_id", "item_id", "timestamp", "rating")
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", " ", "NaN", "1e400", "0x10", "\uff11\uff12", "=1+1", "\ufeff", "\x00", "a\nb", '"']),
    st.just("9" * 5000),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)
GOOD = {
    "user_id": st.sampled_from(["u", "v", "w"]),
    "item_id": st.sampled_from([*KNOWN, "gone"]),
    "timestamp": st.integers(0, 2 * 10**12),
    "rating": st.one_of(st.none(), st.floats(1, 5)),
}
ROWS = st.lists(
    st.one_of(
        st.fixed_dictionaries(GOOD),
        st.fixed_dictionaries({name: st.one_of(good, ODD) for name, good in GOOD.items()}),
        st.dictionaries(st.sampled_from([*COLUMNS, "more"]), ODD),
    ),
    max_size=40,
)
LINES = st.one_of(st.binary(max_size=30), st.sampled_from([b"{", b"[]", b"null", b"\xff\xfe", b"{}", b"1" * 6000]))


def check(folder: Path, *, rows: int | None) -> None:
    try:
        raw = read_interactions(folder, known_items=KNOWN)
    except CatalogueError:
        return
    assert raw.rows_read == len(raw.users) + raw.unknown_items + raw.broken
    assert rows is None or raw.rows_read == rows
    assert np.abs(raw.timestamps.astype(float)).max(initial=0) < 2**63
    for mode in ("corrected", "paper"):
        for category in raw.categories:
            try:
                kept, counts = filter_interactions(
                    raw, category=category, filter=InteractionsSection(min_per_user=3), mode=mode
                )
            except RecBenchError:
                continue
            for cut in (chronological_split, leave_one_out_split):
                split = cut(kept)
                assert len(split.train) + len(split.validation) + len(split.test) == counts.kept
                assert str(split_statistics(split)).startswith(f"{counts.users:,} user")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(rows=ROWS)
def test_rows_of_json_lines(tmp_path, rows):
    (tmp_path / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    check(tmp_path, rows=len(rows))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(rows=ROWS, lines=st.lists(LINES, max_size=4), data=st.data())
def test_broken_lines_between_good_ones(tmp_path, rows, lines, data):
    good = [json.dumps(row).encode() for row in rows]
    mixed = data.draw(st.permutations([*good, *(line.replace(b"\n", b"").replace(b"\r", b"") for line in lines)]))
    (tmp_path / "interactions.jsonl").write_bytes(b"\n".join(mixed) + b"\n")
    check(tmp_path, rows=None)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(rows=ROWS)
def test_rows_of_a_csv_file(tmp_path, rows):
    with (tmp_path / "interactions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([{name: str(value).replace("\x00", "") for name, value in row.items()} for row in rows])
    check(tmp_path, rows=None)


@pytest.mark.parametrize("content", [b"", b"\n", b"user_id\n", b"PAR1", b"\xff\xfe\x00", b"\x1f\x8b\x08\x00"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_that_are_no_tables(tmp_path, suffix, content):
    (tmp_path / f"interactions.{suffix}").write_bytes(content)
    check(tmp_path, rows=None)
