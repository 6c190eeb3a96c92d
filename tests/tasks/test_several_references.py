"""Several right texts of an item: from the catalogue to the prompt row, the suite and scores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from grpo_mmpc import score
from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.evaluation.suite import VERSION, Suite
from grpo_mmpc.rewards.columns import RowReader
from grpo_mmpc.tasks import IMAGE_TO_TEXT, SHIPPED
from grpo_mmpc.tasks.prompt_rows import prompt_rows
from grpo_mmpc.utils.hashing import json_digest

ROWS: list[dict[str, Any]] = [
    {"item_id": "1", "title": "Red Tote Bag", "titles": ["Red  Shopper", "Red Tote Bag", "Red Shopper"]},
    {"item_id": "2", "title": "Blue Mug", "titles": '["Blue Cup"]', "descriptions": ["Holds tea.\nAnd milk."]},
    {"item_id": "3", "title": "Green Lamp", "titles": None},
    {"item_id": "4", "title": "White Plate", "titles": "Plate"},
    {"item_id": "5", "title": "Black Pot", "titles": [{"en": "Pot"}]},
    {"item_id": "6", "title": None, "titles": ["Pan"]},
]


def write(folder: Path, rows: list[dict[str, Any]], *, form: str = "jsonl") -> Path:
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    whole = [{"category": "c", "description": "Good.", "image": "a.png"} | row for row in rows]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(whole), folder / "items.parquet")
    else:
        (folder / "items.jsonl").write_text("\n".join(map(json.dumps, whole)), encoding="utf-8")
    return folder


def test_further_texts_are_a_list_or_its_json_text_and_broken_ones_are_named(tmp_path):
    catalogue = load_catalogue(write(tmp_path / "shop", ROWS))
    records = list(catalogue.records())
    assert [record.titles for record in records] == [("Red Shopper",), ("Blue Cup",), (), (), (), ("Pan",)]
    assert records[1].descriptions == ("Holds tea.\nAnd milk.",)
    assert catalogue.warnings == [
        'items.jsonl row 4: titles dropped: expected a list such as ["Red Mug"]',
        'items.jsonl row 5: titles dropped: it holds an object, expected text, expected a list such as ["Red Mug"]',
    ]
    rows: list[dict[str, Any]] = [
        {"item_id": "1", "title": "Red Tote Bag", "titles": ["Red Shopper"]},
        {"item_id": "2", "title": "Mug"},
    ]
    parquet = load_catalogue(write(tmp_path / "parquet", rows, form="parquet"))
    assert [record.titles for record in parquet.records()] == [("Red Shopper",), ()]


def test_a_task_takes_the_further_texts_of_its_target_and_shows_none(tmp_path):
    catalogue = load_catalogue(write(tmp_path / "shop", ROWS))
    names = ["image_to_text", "text_to_image", "image_to_description"]
    rows = {row.prompt_id: row for row in prompt_rows(catalogue, [0, 1], names)}
    assert rows["image_to_text:2"].more_references == ("Blue Cup",)
    assert rows["image_to_description:2"].more_references == ("Holds tea.\nAnd milk.",)
    assert rows["image_to_description:1"].more_references == ()
    assert rows["text_to_image:2"].more_references == ()
    assert all("Blue Cup" not in json.dumps(row.messages) for row in rows.values())
    (gap,) = prompt_rows(catalogue, [5], ["image_to_text"])
    assert (gap.reference, gap.more_references) == (None, ())
    columns = RowReader(catalogue).of(["1", "2"], ["image_to_text"] * 2)
    assert columns["more_references"] == [("Red Shopper",), ("Blue Cup",)]


def test_a_suite_is_another_one_with_further_references_and_the_same_without(tmp_path):
    catalogue = load_catalogue(write(tmp_path / "shop", ROWS))
    with_further, without = prompt_rows(catalogue, [0, 2], ["image_to_text"])

    def key(row) -> str:
        sampling = {"image_to_text": IMAGE_TO_TEXT.greedy()}
        return Suite(rows=(row,), sampling=sampling, settings={}, known_tasks=SHIPPED).key

    assert key(with_further) != key(replace(with_further, more_references=()))
    content = {
        **{"version": VERSION, "name": "cqbench", "mode": "corrected", "metrics": None},
        "prompts": [(without.prompt_id, without.reference, without.messages)],
        **{"sampling": {"image_to_text": repr(IMAGE_TO_TEXT.greedy())}, "settings": {}},
    }
    assert key(without) == json_digest(content)


def test_score_takes_lists_in_files_catalogues_and_python(tmp_path, capsys):
    folder = write(tmp_path / "shop", ROWS)
    predictions = tmp_path / "predictions.jsonl"
    answers = {"1": "Red Shopper", "2": "Blue Mug"}
    rows = [{"item_id": item, "prediction": text} for item, text in answers.items()]
    predictions.write_text("\n".join(map(json.dumps, rows)))
    lines = [
        {"item_id": "1", "reference": ["Red Tote Bag", "Red Shopper"]},
        {"item_id": "2", "reference": "Blue Mug"},
        {"item_id": "3", "reference": []},
    ]
    (tmp_path / "references.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out, scored = tmp_path / "out.jsonl", str(tmp_path / "scored")
    for references in (folder, tmp_path / "references.jsonl"):
        command = ["score", "--predictions", str(predictions), "--references", str(references), "--metrics"]
        assert main([*command, "token_f1,bleu", "--per-item", str(out), "--as-evaluation", scored]) == 0
        capsys.readouterr()
        values = [json.loads(line)["token_f1"] for line in out.read_text().splitlines()]
        assert values[:2] == [1.0, 1.0]
    in_python = score({"1": "Red Shopper"}, {"1": ["Red Tote Bag", "Red Shopper"]}, metrics=["token_f1"])
    assert in_python.by_metric == {"token_f1": [1.0]}
    with_none = score({"1": "Red Shopper"}, {"1": "Red Shopper", "2": []}, metrics=["token_f1"])
    assert with_none.by_metric["token_f1"][0] == 1.0
    # an evaluation keeps them, and is scored again to the same values
    columns = pq.read_schema(f"{scored}/samples.parquet").names
    assert "more_references" in columns
    page = tmp_path / "page.html"
    again = ["score", "--predictions", scored, "--metrics", "token_f1", "--html", str(page)]
    assert main([*again, "--per-item", str(out)]) == 0
    assert "<dt>Also right</dt>" in page.read_text("utf-8")
    capsys.readouterr()
    values = [json.loads(line)["token_f1"] for line in out.read_text().splitlines()]
    assert values[:2] == [1.0, 1.0]


def test_samples_of_a_catalogue_with_one_reference_an_item_have_no_further_column(tmp_path, capsys):
    (tmp_path / "r.jsonl").write_text('{"item_id": "1", "reference": "Red Bag"}\n')
    (tmp_path / "p.jsonl").write_text('{"item_id": "1", "prediction": "Red Bag"}\n')
    paths = ["--predictions", str(tmp_path / "p.jsonl"), "--references", str(tmp_path / "r.jsonl")]
    assert main(["score", *paths, "--metrics", "bleu", "--as-evaluation", str(tmp_path / "scored")]) == 0
    assert "more_references" not in pq.read_schema(tmp_path / "scored" / "samples.parquet").names


def test_data_validate_counts_them(tmp_path, capsys):
    folder = write(tmp_path / "shop", ROWS)
    page = tmp_path / "page.html"
    assert main(["data", "validate", str(folder), "--html", str(page)]) == 0
    output = capsys.readouterr().out
    assert "Further texts that are right as well: titles of 3 items and descriptions of 1\n  item." in output
    assert 'items.jsonl row 4: titles dropped: expected a list such as ["Red Mug"]' in output
    assert "titles of 3 items and descriptions of 1 item." in page.read_text("utf-8")
