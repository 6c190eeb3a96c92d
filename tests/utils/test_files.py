"""Files that are whole or absent, and JSON lines that survive a kill."""

import gzip
import json
import math
import signal
import subprocess
import sys
from itertools import chain

import pytest

from grpo_mmpc.utils.files import (
    append_json_lines,
    build_folder,
    copy_folder,
    json_lines,
    many_json_lines,
    names_in,
    parse_json,
    place_file,
    read_json_lines,
    read_object,
    remove_left,
    remove_partial,
    replace_atomically,
    without_nan,
    write_json,
    write_json_lines,
)
from grpo_mmpc.utils.json_blocks import plain_objects


def test_a_file_appears_when_it_is_whole_and_a_failed_writer_leaves_the_old_one(tmp_path):
    target = tmp_path / "new" / "file"
    with replace_atomically(target) as temporary:
        temporary.write_text("old")
        assert not target.exists()
    with pytest.raises(OSError, match="disk full"), replace_atomically(target) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_placed_file_follows_its_source_and_mends_half_a_copy(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links on this disk")))
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    source.write_text("old")
    place_file(source, target)
    before = target.stat()
    place_file(source, target)
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    target.unlink()
    target.write_text("")  # a killed copy
    place_file(source, target)
    assert target.read_text() == "old"
    source.unlink()
    source.write_text("new")
    place_file(source, target)
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_appears_when_it_is_whole_and_never_over_another(tmp_path):
    target = tmp_path / "folder"
    with build_folder(target) as temporary:
        (temporary / "file").touch()
        assert not target.exists()
    with pytest.raises(OSError, match="not empty"), build_folder(target) as temporary:
        (temporary / "other").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "file"]


def test_a_folder_that_a_killed_writer_left_is_removed_and_one_being_built_is_not(tmp_path):
    target, other = tmp_path / "fold[er]", tmp_path / "fold[er].b"
    building = "from grpo_mmpc.utils.files import build_folder; from pathlib import Path; import os, signal"
    kill = f"{building}\nwith build_folder(Path({str(target)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", kill]).returncode == -signal.SIGKILL
    with build_folder(other) as of_another:
        assert len(list(tmp_path.iterdir())) == 2
        with build_folder(target) as ours:
            assert {*tmp_path.iterdir()} == {of_another, ours}
            (ours / "file").touch()
            with pytest.raises(ZeroDivisionError), build_folder(target) as faster:
                assert ours.is_dir() and faster.is_dir()
                raise ZeroDivisionError
    assert {*tmp_path.iterdir()} == {target, other}


def test_a_file_that_a_killed_writer_left_is_removed_and_one_being_written_is_not(tmp_path):
    target = tmp_path / "scores[1].json"
    writing = "from grpo_mmpc.utils.files import replace_atomically; from pathlib import Path; import os, signal"
    kill = f"with replace_atomically(Path({str(target)!r})) as path: path.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", f"{writing}\n{kill}"]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with replace_atomically(target) as ours:
        ours.touch()
        remove_left(target.with_suffix(""))
        assert {*tmp_path.iterdir()} == {left, ours}
        remove_left(target)
        assert [*tmp_path.iterdir()] == [ours]
    assert [*tmp_path.iterdir()] == [target]


def test_a_folder_is_empty_that_holds_only_what_a_killed_writer_left(tmp_path):
    (tmp_path / ".claim.json.1-0.partial").touch()
    assert names_in(tmp_path) == names_in(tmp_path / "absent") == set()
    (tmp_path / "claim.json").touch()
    assert names_in(tmp_path) == {"claim.json"}


def test_a_copied_folder_replaces_what_was_there(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, name in ((source, "new"), (target, "old")):
        folder.mkdir()
        (folder / name).touch()
    copy_folder(source, target)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_json_has_no_nan(tmp_path):
    content = {"a": [1.5, math.nan], "b": (math.inf, "é")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", content)
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "file.json", without_nan(content))
    assert (tmp_path / "file.json").read_text("utf-8") == (
        '{\n "a": [\n  1.5,\n  null\n ],\n "b": [\n  null,\n  "é"\n ]\n}\n'
    )


def test_lines_are_divided_at_line_feeds_alone(tmp_path):
    rows = [{"text": "one\u2028\x85\r\n\x1ctwo"}, {"text": ""}]
    write_json_lines(tmp_path / "rows.jsonl", rows)
    append_json_lines(tmp_path / "rows.jsonl", rows)
    assert read_json_lines(tmp_path / "rows.jsonl") == rows * 2


def test_a_line_cut_short_costs_nothing_but_itself(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_json_lines(path, [{"n": 1}])
    with path.open("ab") as file:
        file.write('{"text": "é'.encode()[:-1])  # in the middle of a letter
    append_json_lines(path, [{"n": 2}, {"n": 3}])
    assert read_json_lines(path, skip_broken=True) == [{"n": 1}, {"n": 2}, {"n": 3}]
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: not UTF-8 .*; save the file as UTF-8"):
        read_json_lines(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PAR1\x15\x04\n", "a Parquet file"),
        (b"PK\x03\x04\x14\n", "a ZIP archive or an Excel file"),
        (gzip.compress(b'{"a": 1}\n', mtime=0), "packed by gzip"),
        (b"\x28\xb5\x2f\xfd\x04\n", "packed by zstd"),
    ],
)
def test_a_file_of_another_format_is_named_for_what_it_is(tmp_path, content, what):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=f"rows.jsonl, line 1: this is {what}; write one JSON object per line"):
        read_json_lines(tmp_path / "rows.jsonl", of_user=True)


def test_every_kind_of_broken_line_says_what_is_wrong_with_it():
    lines = ['{"a": 1}', "", "{", "[1]", "null", f'{{"a": {"9" * 5000}}}', '{"a": NaN}']
    read = list(json_lines(lines, allow_nan=False))
    assert [line.number for line in read] == [1, 3, 4, 5, 6, 7]
    assert read[0].values == {"a": 1} and not read[0].problem
    assert [line.values for line in read[1:]] == [None] * 5
    assert "column 2" in read[1].problem
    assert "no JSON object" in read[2].problem and "no JSON object" in read[3].problem
    assert "digits" in read[4].problem
    assert "NaN is not JSON" in read[5].problem
    assert json.dumps(list(json_lines(lines))[-1].values) == '{"a": NaN}'


def test_of_a_key_that_appears_twice_neither_value_is_taken():
    problem = "the key 'b' appears twice; keep one of them"
    (line,) = json_lines(['{"a": {"b": 1, "b": 2}}'])
    assert (line.values, line.problem) == (None, problem)
    with pytest.raises(ValueError, match=problem):
        parse_json('{"b": 1, "b": 1}')
    assert parse_json('[{"b": 1}, {"b": 2}]') == [{"b": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "odd",
    [
        '{"b": 1, "b": 2}',
        '{"b" :":", "b" :1}',
        '{"b": [{"c": 1, "c": 1}]}',
        '{"b": 1, "b": "\\u0022:"}',
        '{"b": 1, "b": "\\u0020:", "c": "\\u00e9 \\u003a"}',
        '{"b": [[{"c": 1, "c": 1}]]}',
        '{"b": NaN}',
        '{"b": "\\ud800"}',
        f'{{"b": {10**30}, "c": {"9" * 5000}}}',
        '{"b": 1}{"b": 2}',
        '{"b": 1}{"b": 2}\n{"b":\n3}',
        '{"b": 1,}',
        '{"b": "\t"}',
        "[1]",
        "",
        '{"b": ":", "c": "x : y", "d": "https://x", "e": 1e999}',
        '{"b": [[{"c": 1}]], "d": -0.0} ',
        "[" * 5000,
    ],
)
def test_many_lines_are_read_as_one_after_the_other(odd):
    lines = [line + "\n" for line in ['{"a": 1, "é": {"b": [1.5, null]}}', *odd.split("\n"), '{"a": "x: y"}']]
    for several in (lines, lines * 3000):
        one_by_one = [line if line.values is None else line.values for line in json_lines(several)]
        assert repr([*chain.from_iterable(many_json_lines(several, at_once=4096))]) == repr(one_by_one)


def test_lines_that_plainly_hold_an_object_need_no_look_each():
    lines = ['{"a": {"b": [{"c": "d: e"}]}}\n', '{"a": 1, "a": 2}\n', '{"f": ": \\u00e9"}\n', '{"g": "\\u003A"}']
    # In the last one a colon is written as its number: it could stand for that of a dropped member.
    assert plain_objects(lines) == [{"a": {"b": [{"c": "d: e"}]}}, None, {"f": ": \u00e9"}, None]


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    assert next(json_lines([b'\xef\xbb\xbf{"a": 1}'])).values == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [None, b"", b'{"half": ', b"[1]", b"\xff", b"[" * 100_000],
    ids=["absent", "empty", "half", "list", "bytes", "deep"],
)
def test_an_object_that_is_absent_cut_short_or_none_is_empty(tmp_path, content):
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    assert read_object(path) == {}
    assert read_object(path / "below a file") == {}


def test_an_object_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "state.json", {"key": 1})
    assert read_object(tmp_path / "state.json") == {"key": 1}


def test_partial_files_of_folders_where_others_write_are_left(tmp_path):
    for name in ("a/.x.1.partial", "b/.x.1.partial"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    remove_partial(tmp_path, besides=(tmp_path / "b",))
    assert [path.parent.name for path in tmp_path.rglob("*.partial")] == ["b"]
