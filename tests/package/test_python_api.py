"""The public names, and the quick start of docs/python.md, run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import grpo_mmpc
from grpo_mmpc.utils.cpu_compat import ensure_importable

ROOT = Path(__file__).parents[2]


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.DOTALL)


def test_every_public_name_is_there_and_nothing_else_is_promised():
    for name in grpo_mmpc.__all__:
        assert callable(getattr(grpo_mmpc, name)), name
    assert set(grpo_mmpc.__all__) <= set(dir(grpo_mmpc))
    assert not hasattr(grpo_mmpc, "trian")


@pytest.mark.slow
def test_the_quick_start_runs_as_it_stands(tmp_path: Path) -> None:
    quick_start, own_reward = code_blocks()
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    result = subprocess.run(
        [sys.executable, "-c", quick_start + own_reward], cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr
    bleu, token_f1 = result.stdout.splitlines()[-2:]
    assert re.fullmatch(r"BLEU 0\.\d{3} -> 0\.\d{3}: (no evidence|too few changed)", bleu)
    assert token_f1 == "0.8"  # precision 2/2, recall 2/3
    assert (tmp_path / "runs" / "quick" / "report.html").is_file()


def test_titles_are_scored_as_the_command_scores_them() -> None:
    ensure_importable()
    scores = grpo_mmpc.score(
        {"a": "red kettle", "b": None}, {"a": "red kettle", "b": "blue cup", "c": "mat"}, metrics=["token_f1"]
    )
    assert scores.by_metric["token_f1"] == [1.0, 0.0, 0.0]  # malformed and missing answers are wrong answers
    assert scores.summary["references_without_prediction"] == 1
