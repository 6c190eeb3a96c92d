"""``compare --html``: any two evaluations as a page."""

import json
from pathlib import Path

import pyarrow.parquet as pq
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


def test_images_of_both_sides_are_shown_wherever_answers_and_references_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Renders lie in the run, true images in a catalogue that only --references names."""
    run = build_run(tmp_path / "run", categories=["Toys"], items_per_category=8, compare=False)
    shop = tmp_path / "shop"
    (run / "catalogue").rename(shop)
    rows = pq.read_table(run / "evaluations/base/cqbench/samples.parquet").to_pylist()
    items = {
        row["item_id"]: {
            **{"item_id": row["item_id"], "category": row["category"], "title": row["reference"]},
            "image": f"images/{Path(row['image_path']).name}",
        }
        for row in rows
    }
    (shop / "items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items.values()))
    page = tmp_path / "page.html"
    for name in ("base", "final"):
        words = ["--predictions", str(run / "evaluations" / name), "--references", str(shop), "--metrics", "ssim"]
        more = ["--as-evaluation", str(tmp_path / name), "--html", str(page)]
        assert main(["score", "--task", "text_to_image", *words, *more]) == 0
        assert page.read_text("utf-8").count("<img") == 2 * 6, "six items, true and rendered"
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "final"), "--html", str(page)]) == 0
    assert ">no image<" not in page.read_text("utf-8")
    assert "know only the products of the nano catalogue" not in page.read_text("utf-8")
    runs = [str(run / "evaluations" / name) for name in ("base", "final")]
    assert main(["compare", *runs, "--html", str(page)]) == 0
    assert "knows only the products of the nano catalogue" in page.read_text("utf-8"), "items are called P000001"
