"""Disks that fill up while a command writes, or are read-only: mounts in a namespace of their own.

Permissions of folders would not do: root may write everywhere.
"""

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.drills.hostile.case import GOES_ON, NANO, REFUSED, ROOT, Case, Group, both, json_lines, write
from tests.drills.hostile.catalogue_rows import GOOD
from tests.drills.hostile.images import colours, saved
from tests.drills.hostile.interactions import RECORD
from tests.drills.hostile.predictions import SUMMARY, evaluation, predicted
from tests.drills.hostile.run_folders import run

MIXES = ROOT / "recipes/ablations/nano_reward_mixes.yaml"
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


def read_only(words: str, *, name: str = "shut") -> str:
    """Return a shell line that runs a command while a folder, and what is in it, is read-only."""
    mount = f"mkdir -p {name} && mount --bind {name} {name} && mount -o remount,ro,bind {name}"
    return f"sh:unshare -m sh -c '{mount} && grpo-mmpc {words}'"


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

SHUT = "shut: the file system is read-only; choose another folder"
SHOP = write("shop/items.jsonl", json_lines(GOOD, GOOD | {"item_id": "gap", "title": None, "image": "x.png"}))
SIDES = both(*(evaluation(name, summary=SUMMARY) for name in "ab"))
SCORED = "score --predictions p.jsonl --references r.jsonl --metrics token_f1"
READ_ONLY = Group(
    title="Disks that are read-only",
    command="sh:grpo-mmpc COMMAND on a read-only file system",
    outcome=REFUSED,
    cases=[
        Case("train", small_disk(), SHUT, command=read_only(f"train {NANO} run_dir=shut/run")),
        Case("train --check", small_disk(), SHUT, command=read_only(f"train {NANO} run_dir=shut/run --check")),
        Case("evaluate", small_disk(), SHUT, command=read_only(f"evaluate {NANO} --base --out shut/base")),
        Case(
            "complete", small_disk(SHOP), SHUT, command=read_only(f"complete shop --base --recipe {NANO} --out shut/c")
        ),
        Case("recbench", small_disk(), SHUT, command=read_only("recbench --out shut/recbench")),
        Case("ablate", small_disk(), SHUT, command=read_only(f"ablate {MIXES} --out shut/ablation")),
        Case("data nano", small_disk(), SHUT, command=read_only("data nano --out shut/shop")),
        Case("data import", small_disk(LARGE), SHUT, command=read_only("data import . --out shut/shop")),
        Case("data mask", small_disk(SHOP), SHUT, command=read_only("data mask shop --out shut/shop")),
        Case("data validate", small_disk(SHOP), SHUT, command=read_only("data validate shop --json shut/s.json")),
        Case("score: the summary", small_disk(predicted("")), SHUT, command=read_only(f"{SCORED} --out shut/s.json")),
        Case(
            "score: the evaluation",
            small_disk(predicted("")),
            SHUT,
            command=read_only(f"{SCORED} --as-evaluation shut/e"),
        ),
        Case(
            "score: the official layout",
            small_disk(predicted("")),
            SHUT,
            command=read_only(f"{SCORED} --export-official shut/o"),
        ),
        Case("compare", small_disk(SIDES), SHUT, command=read_only("compare a b --html shut/page.html")),
        Case(
            "report",
            small_disk(run()),
            "run/summary.html: the file system is read-only",
            command=read_only("report run", name="run"),
        ),
        Case(
            "a catalogue that is only read",
            small_disk(SHOP),
            "next: ",
            GOES_ON,
            read_only("data validate shop", name="shop"),
        ),
        Case(
            "the cache",
            small_disk(SHOP),
            "cannot use the cache folder",
            GOES_ON,
            read_only("data validate shop", name=".cache"),
        ),
    ],
)

GROUPS = [DISKS, READ_ONLY]
