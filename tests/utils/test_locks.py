"""One process holds a folder, and the next one hears of one that ended without a word."""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from grpo_mmpc.utils.locks import Holder, hold, holder


def test_a_lock_is_held_by_one_and_free_again(tmp_path):
    lock = tmp_path / "folder" / ".lock"
    with hold(lock, refuse=ValueError) as left:
        assert left == ""
        with pytest.raises(ValueError, match="process "), hold(lock, refuse=ValueError):
            pass
    with hold(lock, refuse=ValueError) as left:
        assert left == ""
    assert lock.read_text() == ""


def test_what_a_killed_process_has_left_is_told_to_the_next(tmp_path):
    (tmp_path / ".lock").write_text("process 7 on host\n")
    with hold(tmp_path / ".lock", refuse=ValueError) as left:
        assert left == "process 7 on host"


def test_who_refuses_nobody_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with hold(tmp_path / ".lock", refuse=None):
            order.append("second")

    with hold(tmp_path / ".lock", refuse=None):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_who_holds_a_folder_is_seen_without_touching_its_lock(tmp_path: Path) -> None:
    lock, here = tmp_path / ".lock", platform.node()
    assert holder(lock) is None
    with hold(lock, refuse=None):
        assert holder(lock) == holder(lock) == (os.getpid(), here), "looking took nothing from it"
    assert holder(lock) is None, "it ended in order"
    lock.write_text("process 7")
    assert holder(lock) is None, "half a line"


def test_whether_a_holder_lives_is_seen_on_its_own_machine_alone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert Holder(os.getpid(), platform.node()).is_alive is True
    assert Holder(child.pid, platform.node()).is_alive is False
    assert Holder(child.pid, "another.machine").is_alive is None
