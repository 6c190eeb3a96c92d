"""The cache of what can be rebuilt: kept once, and never in the way."""

import errno
import json
from pathlib import Path

import pytest

from grpo_mmpc.utils.cache import remembered


def read(file: Path) -> list[int]:
    return list(json.loads(file.read_bytes())["squares"])


def write(file: Path, squares: list[int]) -> None:
    file.write_text(json.dumps({"squares": squares}))


def test_a_value_is_computed_once(tmp_path):
    entry, values = tmp_path / "squares.json", iter([[1, 4], [9]])
    for _ in range(2):
        assert remembered(entry, lambda: next(values), read=read, write=write) == [1, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["squares.json"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"cubes": [1]}', '{"squares": 4}'])
def test_a_damaged_entry_is_computed_anew_and_mended(tmp_path, damage):
    entry = tmp_path / "squares.json"
    entry.write_text(damage)
    assert remembered(entry, lambda: [1, 4], read=read, write=write) == [1, 4] == read(entry)


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, caplog):
    def full(file: Path, squares: list[int]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert remembered(tmp_path / "squares.json", lambda: [1, 4], read=read, write=full) == [1, 4]
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())
