"""Kill ``complete`` with several workers, here and on Ray: the whole command or one of them.

What is left in the end is, byte for byte, what one process leaves that nobody disturbs.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.drills.commands import complete
from tests.drills.disturbing import SEED, Drill, hits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
import grpo_mmpc.completion.plan as plan
from grpo_mmpc.cli import main

if __name__ == "__main__":
    plan._PART_SIZE = 8  # eight parts of 60 gaps
    raise SystemExit(main(sys.argv[1:]))
"""


def start(drill: Drill, *options: str) -> "subprocess.Popen[bytes]":
    (drill.folder / "command.py").write_text(COMMAND)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "GRPO_MMPC_CACHE": str(drill.folder / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    with (drill.folder / "log").open("a") as log:
        command = [sys.executable, "command.py", *drill.command, *options]
        return subprocess.Popen(command, cwd=drill.folder, env=environment, stdout=log, stderr=log)


def one_worker(parent: int, *, ray: bool) -> int | None:
    """Return the process id of a worker of a command."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = place.joinpath("cmdline").read_bytes()
            above = int(place.joinpath("stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # ended in this moment
            continue
        if b"ray::fill_shares" in line if ray else above == parent and b"spawn_main" in line:
            return int(place.name)
    return None


@pytest.mark.parametrize("victim", ["command", "worker"])
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_what_is_left_is_what_one_undisturbed_process_leaves(tmp_path: Path, engine: str, victim: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    drill, options = complete(tmp_path.resolve()), ("--engine", engine, "--workers", "2")
    out = drill.folder / "out"

    def parts() -> int:
        return len(list(out.glob("parts/*/answers.jsonl")))

    assert start(drill).wait() == 0, drill._log()
    drill.expected = drill.left()
    assert parts() == 8
    drill._clear()
    chance, kills, killed, starts, done = random.Random(f"{SEED} {engine} {victim}"), hits(5), 0, 0, 0
    while killed < kills or done == 0 or out.exists():
        wanted, starts = parts() + chance.randrange(1, 4), starts + 1
        process = start(drill, *options)
        while process.poll() is None and (killed == kills or parts() < wanted):
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 1.0))
        pid = process.pid if victim == "command" else one_worker(process.pid, ray=engine == "ray")
        is_killed = process.poll() is None and pid is not None
        if is_killed:
            os.kill(pid, signal.SIGKILL)
        # a worker's place is taken by another one
        assert process.wait() == (-signal.SIGKILL if is_killed and victim == "command" else 0), drill._log()
        drill._wait_for_its_processes()
        killed += is_killed
        if process.returncode == 0:
            drill._compare(stopped=False)
            drill._clear()
            done += 1
        print(f"{killed} of {kills} killed in {starts} starts, {done} finished as undisturbed", flush=True)
