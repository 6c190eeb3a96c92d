"""Every hostile input meets its command in a fresh process; the docs show the same list.

``python -m tests.drills.hostile`` prints the tables of docs/reliability.md again.
"""

from pathlib import Path

import pytest

from tests.drills.hostile import GROUPS
from tests.drills.hostile.case import ROOT, Case, Group, meet, table

CASES = [pytest.param(group, case, id=f"{group.title}: {case.what}") for group in GROUPS for case in group.cases]


@pytest.mark.slow
@pytest.mark.timeout(660)
@pytest.mark.parametrize(("group", "case"), CASES)
def test_an_input_is_used_set_aside_or_refused_in_words(group: Group, case: Case, tmp_path: Path) -> None:
    meet(group, case, tmp_path.resolve())


def test_the_docs_show_the_inputs_that_are_tried() -> None:
    assert table(GROUPS) in (ROOT / "docs/reliability.md").read_text("utf-8"), "run: python -m tests.drills.hostile"


def test_there_are_at_least_120_inputs_and_each_has_a_name_of_its_own() -> None:
    names = [parameters.id for parameters in CASES]
    assert len(names) == len(set(names)) >= 120
