"""Completing a catalogue: workers beside one process, memory at size, and going on after a kill.

    python benchmarks/complete.py              # about ten minutes on two cores
    python benchmarks/complete.py --quick      # fewer items

Items a second are of the nano policy that writes missing titles, between the tenth and the last
tenth of them, so that loading is left out. Memory is that of a process with a stand-in for the
policy, which answers at once, on catalogues of 3,000 and 30,000 items with an image each; titles
are looked for beside, as by default. The kill is a SIGKILL of the whole command with half of the
titles written; the time to go on is that to the first title after it.

The last line is one JSON object; ``ratio`` is how many times better ours is.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from grpo_mmpc.nano.catalogue import build_catalogue
from grpo_mmpc.utils.files import write_json_lines
from grpo_mmpc.utils.manifest import environment

ROOT = Path(__file__).parents[1]
RECIPE = ["--base", "--recipe", str(ROOT / "recipes" / "nano.yaml")]
MACHINERY = """
import resource, sys
from contextlib import contextmanager
from pathlib import Path
import grpo_mmpc.rollout.engines as engines
from grpo_mmpc.pipelines.complete import complete_catalogue
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.tasks import TASKS

class Writer:
    rows_at_once = 32
    def generate(self, rows, sampling):
        return [TASKS[row.task].answer("red mug") for row in rows]

@contextmanager
def engine(config, *, checkpoint):
    yield Writer()

engines.offline_engine = engine
complete_catalogue(load_recipe([sys.argv[3]]), catalogue=Path(sys.argv[1]), out=Path(sys.argv[2]), checkpoint=None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def without_titles(folder: Path, *, num_items: int) -> Path:
    """Write a nano catalogue without titles."""
    build_catalogue(folder, num_items=num_items, seed=7)
    rows = [json.loads(line) | {"title": None} for line in (folder / "items.jsonl").read_text().splitlines()]
    write_json_lines(folder / "items.jsonl", rows)
    return folder


def of_size(folder: Path, *, num_items: int) -> Path:
    """Write a catalogue of random images; one item in ten has a title to give."""
    (folder / "images").mkdir(parents=True)
    colours = np.random.default_rng(num_items).integers(0, 256, (num_items, 6, 6, 3), np.uint8)
    for number, cells in enumerate(colours):
        Image.fromarray(cells).resize((64, 64)).save(folder / f"images/{number}.png")
    rows = [
        {
            "item_id": f"i{number}",
            "category": "Kitchen",
            "title": f"Acme Mug {number}" if number % 10 == 0 else None,
            "description": "A mug of many colours, for tea, coffee and soup.",
            "image": f"images/{number}.png",
            "attributes": {"brand": "Acme", "color": f"colour {number}"},
        }
        for number in range(num_items)
    ]
    write_json_lines(folder / "items.jsonl", rows)
    return folder


def start(catalogue: Path, out: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start ``complete`` in a process of its own."""
    command = [sys.executable, "-m", "grpo_mmpc", "complete", str(catalogue), "--out", str(out), *options, *RECIPE]
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def items_per_second(catalogue: Path, out: Path, *options: str, num_items: int) -> float:
    """Complete a catalogue from nothing; return its speed between a tenth and nine tenths."""
    shutil.rmtree(out, ignore_errors=True)
    process, seen = start(catalogue, out, *options), []
    while process.poll() is None:
        if 0.1 <= (share := written(out) / num_items) <= 0.9:
            seen.append((time.perf_counter(), share))
        time.sleep(0.1)
    if process.returncode or len(seen) < 2:
        raise SystemExit(f"complete {' '.join(options)} failed")
    (began, first), (ended, last) = seen[0], seen[-1]
    return num_items * (last - first) / (ended - began)


def written(out: Path) -> int:
    """Titles that are on the disk."""
    files = [*out.glob("parts/*/answers.jsonl"), *out.glob("parts/*/completions.jsonl")]
    return sum(line.startswith(b'{"item_id"') or line.startswith(b'{"prompt_id"') for f in files for line in _lines(f))


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except FileNotFoundError:  # renamed meanwhile
        return []


def after_a_kill(catalogue: Path, out: Path, *, num_items: int) -> dict[str, float]:
    """Kill a completion half way; return the seconds to the first title of the next command."""
    shutil.rmtree(out, ignore_errors=True)
    process = start(catalogue, out)
    while written(out) < num_items / 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    held = written(out)
    began = time.perf_counter()
    process = start(catalogue, out)
    while process.poll() is None and written(out) <= held:
        time.sleep(0.05)
    went_on = time.perf_counter() - began
    process.wait()
    return {"held": held, "seconds": went_on, "total": time.perf_counter() - began}


def peak_mb(catalogue: Path, out: Path) -> float:
    """Peak resident memory of a completion whose policy costs nothing."""
    command = [sys.executable, "-c", MACHINERY, str(catalogue), str(out), str(ROOT / "recipes" / "nano.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2_000, help="titles to write (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    sizes = (3_000, 30_000)
    if arguments.quick:
        arguments.items, arguments.repeats, sizes = 520, 1, (300, 3_000)
    ways = {"one": (), "two": ("--workers", "2"), "ray": ("--engine", "ray", "--workers", "2")}
    checks: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        many = without_titles(folder / "many", num_items=arguments.items)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, options in ways.items():
                out = folder / f"many-{name}"
                rates[name].append(items_per_second(many, out, *options, num_items=arguments.items))
        for name in ("two", "ray"):
            same = [(folder / f"many-{one}" / "items.jsonl").read_bytes() for one in ("one", name)]
            checks[f"{name}_writes_the_same_catalogue"] = same[0] == same[1]
        kill = after_a_kill(many, folder / "killed", num_items=arguments.items)
        killed = (folder / "killed" / "items.jsonl").read_bytes()
        checks["the_same_catalogue_after_a_kill"] = killed == (folder / "many-one" / "items.jsonl").read_bytes()
        memory = {}
        for size in sizes:
            catalogue = of_size(folder / f"size-{size}", num_items=size)
            memory[size] = peak_mb(catalogue, folder / f"out-{size}")
    small, large = (memory[size] for size in sizes)
    checks["memory_grows_by_less_than_50_mb"] = large - small < 50
    rate = {name: statistics.median(values) for name, values in rates.items()}
    where = environment()
    results: dict[str, Any] = {
        name: {"ours": rate[side], "baseline": rate["one"], "unit": "items/s", "ratio": rate[side] / rate["one"]}
        for name, side in (("two_workers", "two"), ("two_workers_by_ray", "ray"))
    }
    result = {
        "benchmark": "complete",
        "hardware": where["hardware"],
        "versions": where["versions"],
        "results": results,
        "figures": {
            "items_per_s_one_worker": rate["one"],
            "items_per_s_two_workers": rate["two"],
            "items_per_s_ray": rate["ray"],
            "peak_mb_small": small,
            "peak_mb_large": large,
            "memory_growth_mb": large - small,
            "seconds_to_go_on_after_a_kill": kill["seconds"],
            "share_held_by_a_kill": kill["held"] / arguments.items,
        },
        "checks": checks,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
