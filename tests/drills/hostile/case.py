"""What a hostile input is, how it meets a command, and what is checked of every one of them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
SET_ASIDE, REFUSED, GOES_ON = "set aside", "refused", "goes on"
"""Outcomes: the row is left out with its reason, the command ends with what to change, or the input
is used, and counted where it is odd."""
NANO = ROOT / "recipes" / "nano.yaml"
GROCERY = ["Acme Steel Kettle", "Bolt Red Mug 350 ml", "Crane Tea Towel", "Dune Oat Bar 12 pack", "Elm Wooden Spoon"]


class Tally(NamedTuple):
    """Rows of an input and what became of them: equal, or some were lost without a word."""

    read: int
    used: int
    set_aside: int


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile input and the outcome that is right."""

    what: str
    make: Callable[[Path], object]
    """Writes it into an empty folder, which is then the working directory."""
    says: str
    """Must stand in what the command says, as the docs quote it; parts separated by ``...``."""
    outcome: str = ""
    """Its group's, unless given."""
    command: str = ""
    """Its group's, unless given."""
    rows: int | None = None
    """Rows written, where the group counts them."""
    status: int | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """Variables to set, or to take away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Inputs of one kind."""

    title: str
    command: str
    """Shell words after ``grpo-mmpc``; a whole shell line where it starts with ``sh:``."""
    outcome: str
    cases: Sequence[Case]
    count: Callable[[Path], Tally] | None = None
    """Reads from the files that the command wrote what became of the rows."""
    rows: int | None = None

    def resolved(self) -> list[tuple[str, Case]]:
        """Return each case with its own command and outcome, by an identifier."""
        return [(f"{self.title}: {case.what}", case) for case in self.cases]


def meet(group: Group, case: Case, folder: Path, *, timeout_s: float = 600.0) -> str:
    """Let a command meet an input in a fresh process; return what it said.

    Raises:
        AssertionError: It crashed, ended otherwise than it should, did not say why, or lost rows.
    """
    case.make(folder)
    command = case.command or group.command
    outcome = case.outcome or group.outcome
    line = command[3:] if command.startswith("sh:") else f"grpo-mmpc {command}"
    given = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GRPO_MMPC_CACHE": str(folder / ".cache")}
    given |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NANO": str(NANO)} | case.environment
    environment = {name: value for name, value in (os.environ | given).items() if value is not None}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    shown = f"$ {line}\n{said[-6000:]}\nexit status {done.returncode}"
    assert "Traceback" not in said, shown
    expected = case.status if case.status is not None else {REFUSED: 2}.get(outcome, 0)
    assert done.returncode == expected, f"expected {expected}\n{shown}"
    assert all(char.isprintable() or char in "\n\r\t" for char in said), f"control characters\n{shown}"
    flat = " ".join(said.split())
    for part in case.says.split(" ... "):
        assert part in flat, f"expected {part!r}\n{shown}"
    if group.count is not None and outcome != REFUSED:
        tally = group.count(folder)
        rows = case.rows if case.rows is not None else group.rows
        assert tally.read == tally.used + tally.set_aside == rows, f"{rows} rows, {tally}\n{shown}"
        assert (tally.set_aside > 0) == (outcome == SET_ASIDE), f"{tally}\n{shown}"
    return shown


def table(groups: Sequence[Group]) -> str:
    """Return the tables of the docs, one for each group."""
    lines = []
    for group in groups:
        command = group.command if group.command.startswith("sh:") else f"grpo-mmpc {group.command}"
        lines += ["", f"### {group.title}", "", f"`{command.removeprefix('sh:')}`", ""]
        lines += ["| input | outcome | says |", "|---|---|---|"]
        for case in group.cases:
            outcome = case.outcome or group.outcome
            lines.append("| " + " | ".join(map(_cell, (case.what, outcome, case.says))) + " |")
    return "\n".join(lines).strip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") or "-"


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Return a function that writes one file of a folder."""

    def make(folder: Path) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return make


def both(*makers: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return a function that does what several do, in order."""
    return lambda folder: [make(folder) for make in makers]


def json_lines(*rows: object) -> str:
    """Return rows as JSON lines."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)
