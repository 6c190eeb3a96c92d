"""Kill ``recbench`` at random times, repeat it until it is done, compare with an undisturbed run.

The two folders must hold the same files, byte for byte, but for times and durations.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.recbench.catalogues import OFFLINE, small_catalogue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

COMMAND = [
    *(sys.executable, "-m", "grpo_mmpc", "recbench", *OFFLINE, "training.max_epochs=40", "seeds=[0,1,2]"),
    *("recommenders=[vbpr,freedom,most_popular]", "fills=[no_missing,zeros,mean,random_matched]", "rates=[0.5,1.0]"),
    *("training.parallel=2", "--catalogue", "shop", "--out", "out"),
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
INTERRUPTED = 130


def start(folder: Path) -> "subprocess.Popen[str]":
    log = (folder / "log").open("a")
    return subprocess.Popen(
        COMMAND, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log, text=True, start_new_session=True
    )


def workers(folder: Path) -> list[int]:
    """Process ids of everything that still runs in a folder."""
    alive = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cwd").readlink() == folder and place.joinpath("cmdline").read_bytes():
                alive.append(int(place.name))
        except OSError:
            continue
    return alive


def artefacts(out: Path) -> dict[str, object]:
    """Every file of the folder by name, without times, durations and what is said of them."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            found[name] = {key: value for key, value in content.items() if key not in ("seconds", "finished")}
        elif path.suffix == ".html":
            found[name] = re.sub(r"\d+ \w+ \d{4}, \d\d:\d\d[^<]*|[\d.]+ s<|\d+ min \d+ s<", "", path.read_text())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed").resolve()
    small_catalogue(folder / "shop")
    began = time.monotonic()
    assert start(folder).wait() == 0, (folder / "log").read_text()
    return artefacts(folder / "out"), time.monotonic() - began


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 10), (signal.SIGTERM, 5), (signal.SIGINT, 5)])
def test_what_is_left_is_what_an_undisturbed_run_leaves(undisturbed, tmp_path, number, times):
    expected, seconds = undisturbed
    folder, chance, done_at = tmp_path.resolve(), random.Random(int(number)), []
    small_catalogue(folder / "shop")
    for _ in range(times):
        process = start(folder)
        try:
            status = process.wait(timeout=chance.uniform(1.0, seconds))
            assert status == 0, (folder / "log").read_text()
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            status = process.wait(timeout=60)
            # Python itself starts in the first second, and it may have ended in this very moment.
            assert status in (-number, INTERRUPTED, 0), (folder / "log").read_text()
        deadline = time.monotonic() + 20
        while workers(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not workers(folder)
        done_at.append(len(list((folder / "out" / "cells").glob("*.json"))))
    assert start(folder).wait() == 0, (folder / "log").read_text()
    print(f"\n{number.name}: cells finished after each stop {done_at} of {len([*expected])} files in {seconds:.0f} s")
    found = artefacts(folder / "out")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert "Traceback" not in (folder / "log").read_text()
