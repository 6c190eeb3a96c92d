"""docs/grpo_step.md and its drawing name files that exist."""

import re
from pathlib import Path

import pytest

from tests.package.test_import_directions import level_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("page", "at_least"), [("docs/grpo_step.md", 15), ("docs/images/grpo_step.svg", 10)])
def test_every_file_that_is_named_exists(page, at_least):
    named = set(re.findall(r"\b[a-z_]+(?:/[a-z_]+)+\.py\b", (ROOT / page).read_text("utf-8")))
    assert len(named) >= at_least
    assert [name for name in sorted(named) if not (ROOT / "grpo_mmpc" / name).is_file()] == []


def test_walks_come_up_at_most_twice_and_where_they_say():
    page = (ROOT / "docs/grpo_step.md").read_text("utf-8")
    _, *walks = re.split(r"\n\*\*From ", page.partition("## Three walks")[2])
    assert len(walks) == 3
    for walk in walks:
        stations = re.findall(r"\*\*Up\*\*|`([a-z_]+/[a-z_/]+)\.py`", walk)
        assert 1 <= stations.count("") <= 2
        levels = [level_of(station.partition("/")[0]) if station else None for station in stations]
        for before, at, after in zip(levels, levels[1:], levels[2:], strict=False):
            if at is None:
                assert before is not None and after is not None and after > before, walk
            elif after is not None:
                assert after <= at, walk
