"""``compare --html``: any two evaluations as a page."""

from pathlib import Path

import pytest

from grpo_mmpc.cli import main
from tests.reports.run.fake_run import build_run


def test_two_evaluations_become_a_page_with_items_and_categories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = build_run(tmp_path / "run", categories=["Toys", "Office"], items_per_category=20, compare=False)
    before, after, page = run / "evaluations/base", run / "evaluations/final", tmp_path / "page.html"
    assert main(["compare", str(before), str(after), "--resamples", "200", "--html", str(page)]) == 0
    assert f"written to {page}" in capsys.readouterr().out
    text = page.read_text("utf-8")
    assert "grpo-mmpc comparison" in text and "base against final" in text
    assert "In plain words" in text and "BLEU rose from" in text and "Got worst" in text
    assert 'src="data:image/png' in text
    assert "Learning curves" not in text
    assert main(["compare", str(before), str(after), str(after), "--html", str(page)]) == 2
    assert "--html is a page of two evaluations" in capsys.readouterr().err
