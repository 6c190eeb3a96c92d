"""Faults of a disk in words, and outputs refused before any work."""

import argparse
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_mmpc.cli import build_parser, main
from grpo_mmpc.utils.faults import explain_os_error, full_disk, try_file, try_folder


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "the disk is full; free some space on it"),
        (errno.EROFS, "the file system is read-only; choose another folder"),
        (errno.EACCES, "no permission; change it, or choose another path"),
    ],
)
def test_a_fault_names_path_reason_and_remedy(code: int, remedy: str) -> None:
    assert explain_os_error(OSError(code, os.strerror(code), "/data/x")) == f"/data/x: {remedy}"


def test_an_error_that_is_not_the_systems_keeps_its_text() -> None:
    assert explain_os_error(OSError("gpt9 is no model of the hub")) == "gpt9 is no model of the hub"


def test_a_full_disk_is_recognised_in_the_errors_of_libraries() -> None:
    library = RuntimeError("I/O error: No space left on device (os error 28)")
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = library
    assert full_disk(library) and full_disk(wrapped) and full_disk(OSError(errno.ENOSPC, "x"))
    assert not full_disk(ValueError("no space in this title"))


def test_trying_an_output_leaves_no_trace_and_says_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / f".file.{2**30}-0.partial").touch()  # of a writer that was killed: no process has that number
    try_folder(tmp_path / "new" / "deep")
    try_file(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError):  # a file in its place would take a pipe or a device away
        try_file(tmp_path / "pipe")
    with pytest.raises(NotADirectoryError):
        try_folder(tmp_path / "file" / "deep")
    with pytest.raises(IsADirectoryError):
        try_file(tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder", "pipe"}


OUTPUTS = {"--out", "--to", "--apply", "--html", "--csv", "--latex", "--tables", "--per-item", "--json"}
OUTPUTS |= {"--as-evaluation", "--export-official"}


def outputs(parser: argparse.ArgumentParser, *command: str) -> Iterator[list[str]]:
    """Every command of the program with each of its options that name what is written."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from outputs(inner, *command, name)
        elif action.nargs != 0:  # a flag names nothing
            yield from ([*command, option] for option in sorted(OUTPUTS & {*action.option_strings}))


ALL_OUTPUTS = [*outputs(build_parser())]


def test_the_outputs_of_all_commands_are_known() -> None:
    named = {tuple(command) for command in ALL_OUTPUTS}
    some = ["rescore --out", "review --apply", "export --to", "rewards preview --out", "data amazon --out"]
    assert {tuple(command.split()) for command in [*some, "data export --out", "recbench --out"]} <= named


@pytest.mark.parametrize("command", ALL_OUTPUTS, ids=" ".join)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    command: list[str], tmp_path: Path, capsys
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:  # by the parser: what the command reads is not even named
        main([*command, str(tmp_path / "file" / "out")])
    assert end.value.code == 2
    said = f"argument {command[-1]}: {tmp_path / 'file'}: a file stands where a folder is expected; move it, or choose"
    assert said in capsys.readouterr().err


def test_a_disk_that_fills_up_ends_a_command_in_words_with_the_command_that_goes_on(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/disk/items.jsonl")

    monkeypatch.setattr("grpo_mmpc.nano.catalogue.write_json_lines", fail)
    monkeypatch.setattr("sys.argv", ["grpo-mmpc", "data", "nano", "--out", "out"])
    assert main(["data", "nano", "--out", str(tmp_path / "out"), "--num-items", "9"]) == 2
    said = capsys.readouterr().err
    assert "error: /disk/items.jsonl: the disk is full; free some space on it" in said
    assert "then go on with: grpo-mmpc data nano --out out" in said
    assert list(tmp_path.iterdir()) == []
