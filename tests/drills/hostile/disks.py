"""Disks that fill up while a command writes: a file system of 200 kB in a namespace of its own."""

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.drills.hostile.case import REFUSED, Case, Group, both, json_lines, write
from tests.drills.hostile.catalogue_rows import GOOD
from tests.drills.hostile.images import colours, saved
from tests.drills.hostile.interactions import RECORD
from tests.drills.hostile.predictions import predicted

MOUNT = "mkdir full && mount -t tmpfs -o size=200k none full"


@cache
def _permitted() -> bool:
    made = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return made.returncode == 0


def small_disk(*makers: Callable[[Path], object]) -> Callable[[Path], object]:
    """Write inputs, where a small file system can be mounted."""

    def make(folder: Path) -> None:
        if not _permitted():
            pytest.skip("mounting a small file system is not permitted here (it takes root)")
        both(*makers)(folder)

    return make


def onto_it(words: str) -> str:
    """Return a shell line that runs a command, then shows what it left on the disk."""
    return f"sh:unshare -m sh -c '{MOUNT} && grpo-mmpc {words}; status=$?; find full -size +0 -type f; exit $status'"


LARGE = write("x.png", saved(colours().effect_spread(60).resize((400, 400)), "PNG"))
ROWS = [{"id": f"{n}", "name": f"Red Mug {n} " + "with a long name " * 20, "image": "x.png"} for n in range(2_000)]
ITEMS = [GOOD | {"item_id": f"{n}", "title": "x" * 400} for n in range(2_000)]

DISKS = Group(
    title="Disks that fill up",
    command="sh:grpo-mmpc COMMAND on a file system of 200 kB",
    outcome=REFUSED,
    cases=[
        Case(
            "data nano", small_disk(), "the disk is full", command=onto_it("data nano --num-items 200 --out full/shop")
        ),
        Case(
            "data import",
            small_disk(write("rows.jsonl", json_lines(*ROWS)), LARGE),
            "the disk is full",
            command=onto_it("data import rows.jsonl --out full/shop"),
        ),
        Case(
            "data amazon",
            small_disk(write("meta_K.jsonl", json_lines(*(RECORD | {"parent_asin": f"B{n}"} for n in range(3_000))))),
            "the disk is full",
            command=onto_it("data amazon meta_K.jsonl --out full/shop"),
        ),
        Case(
            "data validate: the report",
            small_disk(write("shop/items.jsonl", json_lines(*(item | {"title": None} for item in ITEMS)))),
            "the disk is full",
            command=onto_it("data validate shop --json full/report.json"),
        ),
        Case(
            "score: the table of items",
            small_disk(predicted(json_lines(*({"item_id": f"z{n}" * 40, "prediction": 1} for n in range(3_000))))),
            "the disk is full",
            command=onto_it("score --predictions p.jsonl --references r.jsonl --metrics token_f1 --out full/s.json"),
        ),
    ],
)

GROUPS = [DISKS]
