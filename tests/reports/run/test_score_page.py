"""``score --html``: anybody's answers as a page, with intervals."""

import json
import re
from pathlib import Path

import pytest

from grpo_mmpc.cli import main
from grpo_mmpc.reports.run.comparison_page import image_folders


def test_answers_of_any_system_become_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers, references, page = (tmp_path / name for name in ("answers.jsonl", "references.jsonl", "page.html"))
    titles = [f"red mug number {i} <b>" for i in range(12)]
    rows = [{"item_id": str(i), "prediction": title if i % 2 else "blue mug"} for i, title in enumerate(titles)]
    answers.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    known = [{"item_id": str(i), "reference": title, "category": f"c{i % 2}"} for i, title in enumerate(titles)]
    references.write_text("".join(f"{json.dumps(row)}\n" for row in known))
    words = ["--predictions", str(answers), "--references", str(references), "--metrics", "token_f1,rouge_l"]
    assert main(["score", *words, "--html", str(page)]) == 0
    assert f"page: {page}" in capsys.readouterr().out
    text = page.read_text("utf-8")
    for part in ("Token F1", "95% interval", "By category", "Best answers", "Worst answers", "12 of 12", "&lt;b&gt;"):
        assert part in text


def test_items_of_one_product_count_once_in_the_intervals_of_the_page(tmp_path: Path) -> None:
    # An interval takes six that stand alone: twelve products of one item are enough, four of three
    # are not.
    answers, references, page = (tmp_path / name for name in ("answers.jsonl", "references.jsonl", "page.html"))
    rows = [{"item_id": str(i), "prediction": "red mug" if i % 3 else "blue"} for i in range(12)]
    answers.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ["--predictions", str(answers), "--references", str(references), "--metrics", "token_f1"]

    def interval(*, products: int) -> str:
        known = [{"item_id": str(i), "reference": "red mug", "group": f"product {i % products}"} for i in range(12)]
        references.write_text("".join(f"{json.dumps(row)}\n" for row in known))
        assert main(["score", *words, "--html", str(page)]) == 0
        [text] = re.findall('<td class="interval">(.*?)</td>', page.read_text("utf-8"))
        return text

    assert interval(products=12) != ""
    assert interval(products=4) == ""


def test_images_of_a_run_are_found_with_and_without_the_name_of_the_suite(tmp_path: Path) -> None:
    shop, run = tmp_path / "shop", tmp_path / "run"
    (run / "evaluations" / "base" / "cqbench").mkdir(parents=True)
    shop.mkdir()
    (shop / "items.jsonl").touch()
    (run / "config.yaml").write_text(f"data: {{catalogue: {shop}}}\n")
    for source in ("evaluations/base", "evaluations/base/cqbench"):
        assert image_folders(run / source) == [run, shop]
