"""Imports next to a torch without CUDA, in either order."""

import subprocess
import sys

import pytest

CODE = """
import datasets
from grpo_mmpc.utils.cpu_compat import ensure_importable
rows = datasets.Dataset.from_dict({"title": ["mug"]})
ensure_importable()
import transformers
print(datasets.Dataset.from_dict({"title": ["mug", "bag"]})[1]["title"], rows[0]["title"])
"""


@pytest.mark.parametrize("first", ["datasets", "models"])
def test_data_sets_can_be_read_whichever_was_imported_first(first):
    lines = CODE.strip().splitlines()
    if first == "models":
        lines = ["from grpo_mmpc.utils.cpu_compat import ensure_importable", "ensure_importable()", *lines]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["bag", "mug"], done.stderr[-2000:]
