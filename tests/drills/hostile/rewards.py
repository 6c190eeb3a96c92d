"""Reward files of a user, and the surroundings of a command."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.drills.hostile.case import GOES_ON, GROCERY, REFUSED, Case, Group, both, json_lines, write
from tests.drills.hostile.catalogue_rows import GOOD
from tests.drills.hostile.images import colours, saved

SHOP = both(
    write("shop/x.jpg", saved(colours())),
    write(
        "shop/items.jsonl",
        json_lines(*(GOOD | {"item_id": f"i{n}", "title": t, "image": "x.jpg"} for n, t in enumerate(GROCERY))),
    ),
)
HEAD = "import os, sys, time\ndef factory(**options):\n    def score(*, predictions, **columns):\n        "
TAIL = "\n    return score\n"


def reward(
    body: str = "", *, file: str | bytes | None = None, name: str = "own.py:factory", **spec: Any
) -> Callable[[Path], object]:
    """A mix of one reward whose function has this body, in a file of its own."""
    mix = json.dumps({"rewards": {"mix": [{"name": name, "weight": 1.0, **spec}]}})
    content = HEAD + body + TAIL if file is None else file
    return both(SHOP, write("mix.yaml", mix), write("own.py", content))


REWARDS = Group(
    title="Rewards of a user",
    command="rewards preview --catalogue shop --mix mix.yaml --items 5 --out look",
    outcome=REFUSED,
    cases=[
        Case("no such file", reward(name="gone.py:factory"), "no such file gone.py"),
        Case("no such function", reward(name="own.py:factor"), "own.py"),
        Case("a syntax error", reward(file="def factory(:\n"), "own.py"),
        Case("bytes that are no text", reward(file=b"\xff\xfe\0\0"), "own.py"),
        Case("a file that raises when it is imported", reward(file="raise RuntimeError('no key')\n"), "no key"),
        Case("a file that exits when it is imported", reward(file="import sys\nsys.exit(3)\n"), "own.py"),
        Case("a package that is not installed", reward(file="import no_such_package\n"), "no_such_package"),
        Case(
            "a factory that raises",
            reward(file="def factory():\n    raise RuntimeError('no GPU here')\n"),
            "no GPU here",
        ),
        Case("a factory that returns a number", reward(file="def factory():\n    return 5\n"), "own.py:factory"),
        Case(
            "an argument that the factory does not take",
            reward(file="def factory(*, a=1):\n    return len\n", kwargs={"b": 2}),
            "reward 'own.py:factory' takes",
        ),
        Case(
            "a function that takes no columns",
            reward(file="def factory():\n    def score():\n        return []\n    return score\n"),
            "factory: ... got an unexpected keyword argument",
        ),
        Case(
            "os.system in the place of a reward", reward(name="os:system", kwargs={"command": "touch ran"}), "os:system"
        ),
        Case(
            "raises for every answer",
            reward("raise ValueError('no such brand')"),
            "ValueError: no such brand ... own.py, line 4",
        ),
        Case(
            "returns text",
            reward("return ['good'] * len(predictions)"),
            "returned 'good' at position 0, expected a number or None",
        ),
        Case("returns too few", reward("return [1.0]"), "factory: returned 1 scores for"),
        Case("returns nothing", reward("return None"), "factory: returned NoneType, expected a list of"),
        Case("returns infinity", reward("return [float('inf')] * len(predictions)"), "returned inf at position 0"),
        Case("hangs", reward("time.sleep(600)", time_limit=2), "factory: took longer than its time limit of 2 s"),
        Case(
            "hangs in a process of its own",
            reward("time.sleep(600)", time_limit=2, isolated=True),
            "factory: took longer than its time limit of 2 s",
        ),
        Case("calls sys.exit", reward("sys.exit(3)"), "factory: raised SystemExit(3)"),
        Case("ends its own process", reward("os._exit(3)", isolated=True), "factory: its process died (exit code 3)"),
    ],
)

VALIDATE = "grpo-mmpc data validate shop"
SURROUNDINGS = Group(
    title="Surroundings",
    command="sh:" + VALIDATE,
    outcome=GOES_ON,
    cases=[
        Case("no HOME", SHOP, "5 usable items", environment={"HOME": None}),
        Case(
            "a HOME that cannot be written, no cache named",
            SHOP,
            "5 usable items",
            environment={"HOME": "/proc", "GRPO_MMPC_CACHE": None, "XDG_CACHE_HOME": None},
        ),
        Case(
            "a cache that is a file",
            both(SHOP, write("cache", "x")),
            "5 usable items",
            environment={"GRPO_MMPC_CACHE": "cache"},
        ),
        Case(
            "LANG=C and accents",
            write("shop/items.jsonl", json_lines(GOOD | {"category": "K\u00fcche"})),
            "1 usable item",
            environment={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"},
        ),
        Case(
            "PYTHONIOENCODING=ascii and accents",
            write("shop/items.jsonl", json_lines(GOOD | {"category": "K\u00fcche"})),
            "1 usable item",
            environment={"PYTHONIOENCODING": "ascii"},
        ),
        Case("TERM=dumb, 1 column", SHOP, "usable", environment={"TERM": "dumb", "COLUMNS": "1"}),
        Case("COLUMNS=abc", SHOP, "5 usable items", environment={"COLUMNS": "abc"}),
        Case("a reader that goes away", SHOP, "Catalogue shop", command=f"sh:{VALIDATE} | head -1"),
        Case("stdin closed", SHOP, "5 usable items", command=f"sh:{VALIDATE} <&-"),
        Case("stdout closed", SHOP, "", command=f"sh:{VALIDATE} >&-"),
        Case("stdout and stderr closed", SHOP, "", command=f"sh:{VALIDATE} >&- 2>&-"),
        Case("a full disk as stdout", SHOP, "the disk is full", REFUSED, command=f"sh:{VALIDATE} >/dev/full"),
        Case(
            "a pipe in the place of the output",
            both(SHOP, lambda folder: os.mkfifo(folder / "report.json")),
            "report.json: something stands there already",
            REFUSED,
            command=f"sh:{VALIDATE} --json report.json",
        ),
        Case(
            "an output below a file",
            both(SHOP, write("x", "")),
            "a file stands where a folder is expected",
            REFUSED,
            command=f"sh:{VALIDATE} --json x/report.json",
        ),
        Case(
            "an output that is a folder",
            SHOP,
            "a folder stands where a file is expected",
            REFUSED,
            command=f"sh:{VALIDATE} --json shop",
        ),
        Case("an output below /proc", SHOP, "/proc", REFUSED, command=f"sh:{VALIDATE} --json /proc/x/report.json"),
        Case("a TMPDIR that does not exist", SHOP, "5 usable items", environment={"TMPDIR": "/nowhere"}),
        Case(
            "a command that does not exist",
            SHOP,
            "'trian' is unknown; did you mean 'train'?",
            REFUSED,
            command="sh:grpo-mmpc trian",
        ),
        Case("no command", SHOP, "Start with: grpo-mmpc train", REFUSED, command="sh:grpo-mmpc"),
    ],
)

GROUPS = [REWARDS, SURROUNDINGS]
