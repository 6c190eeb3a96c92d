"""The cache of what can be rebuilt: kept once, and never in the way."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from grpo_mmpc.catalogue import load_catalogue
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


def gone() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_a_killed_writer_has_left_beside_an_entry_is_removed(tmp_path):
    for pid in (gone(), os.getpid()):
        (tmp_path / f".squares.json.{pid}-ab.partial").touch()
    remembered(tmp_path / "squares.json", lambda: [1], read=read, write=write)
    assert {path.name for path in tmp_path.iterdir()} == {"squares.json", f".squares.json.{os.getpid()}-ab.partial"}


def test_what_a_killed_writer_has_left_of_descriptions_of_images_is_removed(small_catalogue, tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(small_catalogue, tmp_path / "shop")
    load_catalogue(folder, check_images=True)
    [store] = (tmp_path / "cache/images").iterdir()
    left = store.with_name(f".{store.name}.{gone()}-ab.partial")
    left.touch()
    store.unlink()
    load_catalogue(folder, check_images=True)
    assert store.exists() and not left.exists()


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
