"""Children that end with their parent, whenever it ends."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")


def _child(parent: int) -> "subprocess.CompletedProcess[str]":
    code = f"from grpo_mmpc.utils.processes import die_with_parent; die_with_parent({parent}); print('lives')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_child_whose_parent_ended_before_it_asked_ends_too() -> None:
    child = _child(parent=os.getppid())  # anybody but the one that started it
    assert child.returncode == -signal.SIGKILL and not child.stdout


def test_a_child_lives_while_its_parent_does() -> None:
    assert _child(parent=os.getpid()).stdout == "lives\n"
