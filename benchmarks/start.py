"""The start of a training on a catalogue seen before, against one of 1,000 items.

    python benchmarks/start.py                    # 100,000 items; some minutes
    python benchmarks/start.py --items 1000000    # most of it to describe the images once
    python benchmarks/start.py --quick

``start_cpu_s`` is the processor time of ``recipes/nano.yaml`` from the end of imports to its first
step, the nano models included, on a catalogue whose images were described by an earlier start;
``start_first_cpu_s`` is that earlier one. ``start_small_cpu_s`` is the same as the former for 1,000
items, and ``start_bytes_an_item`` the growth of peak memory between the two catalogues. Each start
is in a process of its own, and figures are medians. An image is 16 pixels a side.

Check: starts draw the same items for their first step, whether images were described before or not.
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from PIL import Image

from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.training.session import TrainingSession
from grpo_mmpc.training.trl_seams import TrainerCallback
from grpo_mmpc.utils.files import write_json_lines
from grpo_mmpc.utils.manifest import environment

ROOT = Path(__file__).parents[1]
SMALL = 1000
ADJECTIVES, KINDS = ("Blue", "Red", "Small", "Large", "Steel", "Oak"), ("Mug", "Board", "Lamp", "Chair", "Brush")


class Start(NamedTuple):
    """What a start took, and the items of its first step."""

    cpu_s: float
    peak_bytes: int
    items: list[str]


def write_catalogue(folder: Path, *, items: int) -> None:
    """Write items with a title and an image of their own each, and reviews of nobody."""
    (folder / "images").mkdir(parents=True)
    chance = np.random.default_rng(0)

    def rows() -> Any:
        for i in range(items):
            out = io.BytesIO()
            Image.fromarray(chance.integers(0, 255, (16, 16, 3), np.uint8)).save(out, "PNG", compress_level=0)
            (folder / "images" / f"{i}.png").write_bytes(out.getvalue())
            title = f"{ADJECTIVES[i % 6]} {KINDS[i % 5]} model {i}"
            yield {"item_id": f"B{i}", "category": f"Category {i % 9}", "title": title, "image": f"images/{i}.png"}

    write_json_lines(folder / "items.jsonl", rows())


def start(answer: Connection, catalogue: Path, run_dir: Path, cache: Path) -> None:
    """Start a training and send what it took when its first step begins."""
    os.environ |= {"GRPO_MMPC_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    begun = time.process_time()
    train = TrainingSession.train

    class AtFirstStep(TrainerCallback):
        def __init__(self, dataset: Any) -> None:
            self.dataset = dataset

        def on_step_begin(self, *_: Any, **given: Any) -> NoReturn:
            seconds = time.process_time() - begun
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            sampler = given["train_dataloader"].sampler
            first = [self.dataset[int(index)]["item_id"] for index, _ in zip(sampler, range(4), strict=False)]
            answer.send(Start(seconds, 1024 * int(status["VmHWM"].split()[0]), first))
            answer.close()
            os._exit(0)

    def until_first_step(session: TrainingSession, **_: Any) -> Any:
        session.trainer.add_callback(AtFirstStep(session.trainer.train_dataset))
        return train(session, before=None, after_save=None)

    TrainingSession.train = until_first_step
    recipe = [str(ROOT / "recipes/nano.yaml"), f"data.catalogue={catalogue}", f"run_dir={run_dir}"]
    with redirect_stdout(sys.stderr):
        run_training(load_recipe(recipe))


def in_a_process(catalogue: Path, run_dir: Path, cache: Path) -> Start:
    """Start a training in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=start, args=(theirs, catalogue, run_dir, cache))
    process.start()
    theirs.close()
    taken: Start = ours.recv()
    process.join()
    return taken


def main() -> None:
    """Measure first and later starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2,000 items, once")
    arguments = parser.parse_args()
    items, repeats = (2000, 1) if arguments.quick else (arguments.items, arguments.repeats)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts: dict[int, list[Start]] = {}
        for count in (SMALL, items):
            write_catalogue(folder / str(count), items=count)
            starts[count] = [
                in_a_process(folder / str(count), folder / f"run-{count}-{number}", folder / "cache")
                for number in range(1 + repeats)
            ]
    seconds = {count: statistics.median(one.cpu_s for one in some[1:]) for count, some in starts.items()}
    memory = {count: statistics.median(one.peak_bytes for one in some[1:]) for count, some in starts.items()}
    where = environment()
    figures = {
        "items": items,
        "start_cpu_s": round(seconds[items], 2),
        "start_first_cpu_s": round(starts[items][0].cpu_s, 2),
        "start_small_cpu_s": round(seconds[SMALL], 2),
        "start_bytes_an_item": round((memory[items] - memory[SMALL]) / (items - SMALL)),
    }
    print(
        json.dumps(
            {
                "benchmark": "start",
                "hardware": where["hardware"],
                "versions": where["versions"],
                "results": {},
                "figures": figures,
                "checks": {
                    "same_first_items": all(one.items == some[0].items for some in starts.values() for one in some)
                },
            }
        )
    )


if __name__ == "__main__":
    main()
