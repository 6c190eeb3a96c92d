"""A user's own files in the working directory hide none of our modules."""

import subprocess
import sys
from pathlib import Path

import pytest

OURS = ("rewards", "grpo_rewards", "tasks", "config", "report")


@pytest.mark.parametrize(
    "start", [["-m", "grpo_mmpc"], ["-m", "accelerate.commands.launch", "--cpu", "-m", "grpo_mmpc"]]
)
def test_a_file_called_rewards_in_the_working_directory_hides_nothing(tmp_path: Path, start: list[str]) -> None:
    for name in OURS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file was imported')\n")
    result = subprocess.run(
        [sys.executable, *start, "rewards", "list"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "bleu" in result.stdout
