"""Many cells at once: interruptions, orphans, failures of one."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from grpo_mmpc.recbench import engines
from grpo_mmpc.recbench.cells import RecommenderCell, finished, save_features, save_split
from grpo_mmpc.recbench.engines import run_local
from grpo_mmpc.recbench.records import TrainingSettings
from tests.recbench.worlds import taste_world

ROOT = Path(__file__).parents[2]

ENDLESS = """
import sys
from grpo_mmpc.utils.processes import die_with_parent
die_with_parent({parent})  # where the tests themselves are killed
sys.path.insert(0, {root!r})
from pathlib import Path
from grpo_mmpc.recbench.engines import run_local
from tests.recbench.test_engines import cells_of

if __name__ == "__main__":
    folder = Path({folder!r})
    print("training", flush=True)
    run_local(folder, cells_of(folder, count=6, max_epochs=10**6), parallel=2, device="cpu", show=lambda done: None)
"""


def cells_of(folder: Path, *, count: int, max_epochs: int = 2) -> list[RecommenderCell]:
    split, features = taste_world(0, num_users=40, num_items=60, interactions_per_user=5)
    return [
        RecommenderCell(
            category="A",
            recommender="vbpr",
            split=save_split(folder, split),
            text=save_features(folder, features.text),
            image=None,
            seed=seed,
            mode="corrected",
            grid=({"reg": 0.01},),
            training=TrainingSettings(max_epochs=max_epochs, patience=max_epochs, batch_size=64, learning_rate=1e-2),
        )
        for seed in range(count)
    ]


@pytest.fixture
def endless(tmp_path):
    """A process whose two workers train without end, and the process ids of those workers."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS.format(root=str(ROOT), folder=str(tmp_path), parent=os.getpid())],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 90
    workers: list[int] = []
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        workers = [pid for pid in children_of(process.pid) if "spawn_main" in command_of(pid)]
    assert len(workers) == 2
    time.sleep(4)  # past the imports, into the training
    yield process, workers
    process.kill()
    process.wait()


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def command_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_text()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return "spawn_main" in command_of(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and the system must end children with their parent")
class TestInterruption:
    def test_ctrl_c_ends_the_training_at_once(self, endless):
        process, workers = endless
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        assert process.returncode != 0
        assert not [pid for pid in workers if alive(pid)]

    def test_workers_end_with_a_parent_that_is_killed(self, endless):
        process, workers = endless
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        deadline = time.monotonic() + 60  # a worker may still be importing
        while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [pid for pid in workers if alive(pid)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("No space left on device\nand more"), "No space left on device"),
        (
            OSError(errno.ENOSPC, "No space left on device", "cells/x"),
            "cells/x: the disk is full; free some space on it",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            "CUDA out of memory. Tried; lower training.batch_size",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator: can't allocate memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_trouble_of_this_machine_fails_the_cell_and_not_the_others(tmp_path, monkeypatch, error, said):
    cells = cells_of(tmp_path, count=3)
    run_cell = engines.run_cell

    def failing(folder, cell, *, device):
        if cell.seed == 1:
            raise error
        run_cell(folder, cell, device=device)

    monkeypatch.setattr(engines, "run_cell", failing)
    shown = []
    failures = run_local(tmp_path, cells, parallel=1, device="cpu", show=shown.append)
    assert list(failures) == [cells[1].key] and failures[cells[1].key].startswith(said)
    assert shown == [1, 2, 3]
    assert [finished(tmp_path, cell.key) for cell in cells] == [True, False, True]


def test_a_mistake_of_ours_is_an_exception(tmp_path, monkeypatch):
    def failing(folder, cell, *, device):
        raise TypeError("a bug")

    monkeypatch.setattr(engines, "run_cell", failing)
    with pytest.raises(TypeError, match="a bug"):
        run_local(tmp_path, cells_of(tmp_path, count=1), parallel=1, device="cpu", show=lambda done: None)
