"""Kill ``complete`` and ``data amazon`` at random times, repeat them until they are done, compare.

The folder must hold the same files, byte for byte, as that of an undisturbed run; the logs that
only grow must hold the same lines, in whatever order.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_mmpc.nano.catalogue import build_catalogue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
INTERRUPTED = 130
GROWING = ("completions.jsonl", "renders.jsonl")


def gappy_catalogue(folder: Path) -> list[str]:
    """Write a catalogue with many gaps; return the command that fills them."""
    build_catalogue(folder / "shop", num_items=120, seed=5)
    lines = (folder / "shop" / "items.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {0: {"title": None}, 1: {"image": None}}.get(i % 4, {}) for i, line in enumerate(lines)]
    (folder / "shop" / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return ["complete", "shop", "--out", "out", "--base", "--recipe", "recipe.yaml", "evaluation.batch_size=8"]


def amazon_records(folder: Path) -> list[str]:
    """Write metadata and reviews of many products; return the command that converts them."""
    with (folder / "meta_A.jsonl").open("w") as items, (folder / "A.jsonl").open("w") as reviews:
        for i in range(60_000):
            item = {
                "parent_asin": f"B{i}",
                "title": f"Mug &amp; Cup {i}",
                "description": ["<p>Holds.</p>"],
                "details": {},
            }
            items.write(json.dumps(item) + "\n")
            review = {"user_id": f"u{i % 900}", "parent_asin": f"B{i}", "timestamp": 1588687728923 + i, "rating": 4}
            reviews.write(json.dumps(review) + "\n")
    return ["data", "amazon", "meta_A.jsonl", "--out", "out", "--reviews", "A.jsonl"]


def start(folder: Path, command: list[str]) -> "subprocess.Popen[bytes]":
    (folder / "recipe.yaml").write_text(f"base: {Path(__file__).parents[2] / 'recipes' / 'nano.yaml'}\n")
    with (folder / "log").open("a") as log:
        whole = [sys.executable, "-m", "grpo_mmpc", *command]
        return subprocess.Popen(whole, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)


def artefacts(out: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            whole = content.split(b"\n") if path.name in GROWING else None
            found[str(path.relative_to(out))] = content if whole is None else sorted(set(filter(_is_whole, whole)))
    return found


def _is_whole(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}")


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 10), (signal.SIGTERM, 5), (signal.SIGINT, 5)])
@pytest.mark.parametrize("prepare", [gappy_catalogue, amazon_records], ids=["complete", "data amazon"])
def test_what_is_left_is_what_an_undisturbed_run_leaves(
    tmp_path: Path, prepare: Callable[[Path], list[str]], number: signal.Signals, times: int
) -> None:
    folder = tmp_path.resolve()
    command = prepare(folder)
    began = time.monotonic()
    assert start(folder, command).wait() == 0, (folder / "log").read_text()
    seconds = time.monotonic() - began
    expected = artefacts(folder / "out")
    if "complete" in command:
        text = (folder / "out" / "completion.json").read_text()
        assert str(folder / "shop") in text
    (folder / "out").rename(folder / "undisturbed")
    chance, stopped = random.Random(int(number)), 0
    for _ in range(times):
        process = start(folder, command)
        try:
            process.wait(timeout=chance.uniform(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.wait(timeout=60)
            stopped += 1
        # Python itself starts in the first second, which is no time to ask it for words.
        assert process.returncode in (0, -number, INTERRUPTED), (folder / "log").read_text()
    assert start(folder, command).wait() == 0, (folder / "log").read_text()
    found = artefacts(folder / "out")
    print(
        f"\n{command[0]}, {number.name}: {stopped} of {times} hit, {len(expected)} files, {seconds:.0f} s undisturbed"
    )
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert "Traceback" not in (folder / "log").read_text()
