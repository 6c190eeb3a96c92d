"""docs/grpo_step.md and its drawing name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("page", "at_least"), [("docs/grpo_step.md", 15), ("docs/images/grpo_step.svg", 10)])
def test_every_file_that_is_named_exists(page, at_least):
    named = set(re.findall(r"\b[a-z_]+(?:/[a-z_]+)+\.py\b", (ROOT / page).read_text("utf-8")))
    assert len(named) >= at_least
    assert [name for name in sorted(named) if not (ROOT / "grpo_mmpc" / name).is_file()] == []
