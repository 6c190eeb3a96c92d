"""``grpo-mmpc score``: files in, a table and files out, and an answer to every mistake."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.prediction_files import read_predictions, read_references

REFERENCES = [
    {"item_id": "a", "reference": "Acme Red Mug 12oz, Pack of 2", "category": "Home", "attributes": {"color": "red"}},
    {"item_id": "b", "reference": "Steel Kettle", "category": "Home"},
    {"item_id": "c", "reference": "Navy Blue Tote Bag", "category": "Bags"},
]
GOLD = [{"item_id": row["item_id"], "prediction": row["reference"]} for row in REFERENCES]
LEXICAL = "bleu,corpus_bleu,chrf,rouge_l,token_f1,jaccard,parse_rate"


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Score:
    """Runs the command in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, predictions: list[dict[str, Any]] | Path, *options: str, references: Any = REFERENCES) -> Any:
        given = predictions if isinstance(predictions, Path) else lines(self.folder / "p.jsonl", predictions)
        words = ["score", "--predictions", str(given), "--out", str(self.folder / "out/s.json")]
        words += ["--per-item", str(self.folder / "out/i.jsonl")]
        if references is not None:
            known = references if isinstance(references, Path) else lines(self.folder / "r.jsonl", references)
            words += ["--references", str(known)]
        assert main([*words, *options]) == 0, self.capsys.readouterr().err
        return self.summary()

    def summary(self) -> Any:
        text = (self.folder / "out/s.json").read_text("utf-8")
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    def items(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out/i.jsonl").read_text("utf-8").splitlines()]

    def error(self, *words: str) -> str:
        assert main(["score", *words]) == 2
        return self.capsys.readouterr().err


@pytest.fixture
def score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Score:
    return Score(tmp_path, capsys)


def test_perfect_predictions_score_one_in_every_category_and_in_total(score: Score) -> None:
    summary = score(GOLD, "--metrics", LEXICAL)
    assert summary["mode"] == "corrected"
    for name in LEXICAL.split(","):
        assert summary["metrics"][name] == {"mean": pytest.approx(1.0), "n_scored": 3, "n_total": 3}
        assert summary["categories"]["Home"][name] == {"mean": pytest.approx(1.0), "n_scored": 2, "n_total": 2}
        assert summary["macro"][name] == pytest.approx(1.0)


def test_metrics_are_named_with_commas_or_spaces(score: Score) -> None:
    for words in (["jaccard,token_f1"], ["jaccard", "token_f1"], ["jaccard,", "token_f1"]):
        assert {*score(GOLD, "--metrics", *words)["metrics"]} == {"jaccard", "token_f1"}


def test_means_are_over_items_and_macro_over_categories(score: Score) -> None:
    summary = score([*GOLD[:1], {"item_id": "b", "prediction": "x"}, *GOLD[2:]], "--metrics", "jaccard")
    # items 1, 0, 1; Home (1 + 0) / 2, Bags 1
    assert summary["metrics"]["jaccard"]["mean"] == pytest.approx(2 / 3)
    assert summary["macro"]["jaccard"] == pytest.approx(3 / 4)


def test_corpus_bleu_is_computed_from_summed_statistics(score: Score) -> None:
    summary = score([*GOLD[:2], {"item_id": "c", "prediction": None}], "--metrics", "corpus_bleu")
    # 13a tokens: 8 + 2 predicted, all right, of 8 + 2 + 4: the brevity penalty alone
    assert summary["metrics"]["corpus_bleu"]["mean"] == pytest.approx(math.exp(1 - 14 / 10))


def test_malformed_missing_and_unknown_items_are_kept_apart(score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    summary = score(
        [{"item_id": "a", "prediction": None}, {"item_id": "b"}, {"item_id": "z", "prediction": "Hat"}],
        "--metrics",
        "jaccard,parse_rate",
    )
    assert summary["metrics"]["jaccard"] == {"mean": 0.0, "n_scored": 3, "n_total": 3}
    assert summary["malformed"] == 2
    assert summary["references_without_prediction"] == 1
    assert summary["predictions_without_reference"] == 1
    said = capsys.readouterr().out
    for part in (
        "malformed predictions: 2 (wrong answers)",
        "references without a prediction: 1 (wrong answers)",
        "predictions without a reference: 1 (left out)",
    ):
        assert part in said


def test_completions_are_parsed_as_those_of_a_policy(score: Score) -> None:
    rows = [
        {"item_id": "a", "completion": 'Sure: {"title": "Acme Red Mug 12oz, Pack of 2"}'},
        {"item_id": "b", "completion": "Steel Kettle"},
        {"item_id": "c", "completion": "ignored", "prediction": "Navy Blue Tote Bag"},
    ]
    score(rows, "--metrics", "jaccard")
    assert [(row["prediction"], row["jaccard"]) for row in score.items()] == [
        ("Acme Red Mug 12oz, Pack of 2", 1.0),
        (None, 0.0),
        ("Navy Blue Tote Bag", 1.0),
    ]


def test_a_null_reference_is_unscored_and_written_as_null(score: Score) -> None:
    summary = score(GOLD, "--metrics", "jaccard", references=[{**REFERENCES[0], "reference": None}, *REFERENCES[1:]])
    assert summary["metrics"]["jaccard"] == {"mean": 1.0, "n_scored": 2, "n_total": 3}
    assert score.items()[0]["jaccard"] is None


def test_known_attributes_bring_their_metrics(score: Score) -> None:
    summary = score(GOLD, "--metrics", "attribute_recall,title_attribute_f1")
    assert summary["metrics"]["attribute_recall_color"] == {"mean": 1.0, "n_scored": 1, "n_total": 3}
    assert summary["metrics"]["title_attribute_f1"] == {"mean": 1.0, "n_scored": 2, "n_total": 3}


def test_an_encoder_that_cannot_be_loaded_leaves_its_metric_unscored_with_the_reason(
    score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    options = ("--bertscore-model", nowhere, "--bertscore-layers", "3", "--sentence-model", "nano:minilm")
    summary = score(GOLD, "--metrics", "bertscore_f1,embedding_cosine", *options)
    assert summary["metrics"]["bertscore_f1"] == {"mean": None, "n_scored": 0, "n_total": 3}
    assert nowhere in summary["missing"]["bertscore_f1"]
    assert summary["metrics"]["embedding_cosine"]["mean"] == pytest.approx(1.0)
    assert "unscored: bertscore_f1: " in capsys.readouterr().out


def test_paper_mode_has_the_papers_metrics_and_drops_a_category_without_a_title(
    score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    references = [*REFERENCES, {"item_id": "d", "reference": None, "category": "Bags"}]
    summary = score(GOLD, "--mode", "paper", "--bertscore-model", "nano:minilm", references=references)
    assert {"tfidf_cosine", "tfidf_euclidean", "jaccard", "word_overlap", "bertscore_f1", "bleu"} <= set(
        summary["metrics"]
    )
    assert summary["metrics"]["jaccard"] == {"mean": 1.0, "n_scored": 2, "n_total": 4}
    assert summary["categories"]["Bags"]["jaccard"]["mean"] is None
    assert summary["macro"]["jaccard"] == 1.0
    assert summary["unscored_categories"] == {"Bags": "1 item without a title"}
    assert "category Bags: 1 item without a title" in capsys.readouterr().out


def test_a_catalogue_gives_titles_categories_and_attributes(score: Score, small_catalogue: Path) -> None:
    records = list(load_catalogue(small_catalogue, check_images=False).records())
    summary = score(
        [{"item_id": r.item_id, "prediction": r.title} for r in records],
        "--metrics",
        "jaccard,attribute_recall",
        references=small_catalogue,
    )
    assert summary["metrics"]["jaccard"] == {"mean": 1.0, "n_scored": 90, "n_total": 90}
    assert summary["metrics"]["attribute_recall_type"]["mean"] == 1.0
    assert len(summary["categories"]) == 9


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """An evaluation folder with two items in both tasks, one of each malformed."""
    folder = tmp_path / "run/evaluations/base/cqbench"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(folder / "images/0.png")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "real.png")
    rows = [
        {
            "item_id": item_id,
            "category": category,
            "task": task,
            "reference": title,
            "image_path": str(tmp_path / "real.png"),
            "prediction": prediction,
            "rendered_image": image,
            "attributes": "{}",
        }
        for item_id, category, task, title, prediction, image in (
            ("a", "Home", "image_to_text", "Red Mug", "Red Mug", None),
            ("b", "Bags", "image_to_text", "Blue Bag", None, None),
            ("a", "Home", "text_to_image", "Red Mug", "a red mug", "images/0.png"),
            ("b", "Bags", "text_to_image", "Blue Bag", None, None),
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")
    return folder.parent


def test_the_table_of_an_evaluation_is_refused_with_the_name_of_its_folder(evaluation: Path) -> None:
    for read in (read_predictions, read_references):
        with pytest.raises(EvaluationError, match=f"table of an evaluation; give its folder: {evaluation}/cqbench$"):
            read(evaluation / "cqbench/samples.parquet", task="image_to_text", set_aside=[])


def test_an_evaluation_folder_brings_its_own_references(score: Score, evaluation: Path) -> None:
    summary = score(evaluation, "--metrics", "jaccard", references=None)
    assert summary["metrics"]["jaccard"] == {"mean": 0.5, "n_scored": 2, "n_total": 2}
    assert summary["malformed"] == 1


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("task", None, "samples.parquet has no column task"),
        ("category", None, "samples.parquet has no column category"),
        ("prediction", [1.5] * 4, "holds double in the column prediction, expected text"),
        ("score/bleu", ["a"] * 4, "holds string in the column score/bleu, expected numbers"),
        ("item_id", ["a"] * 4, "item 'a' appears more than once in image_to_text"),
        ("item_id", ["a", None] * 2, "item None appears more than once in image_to_text; items must be unique"),
        ("attributes", ["{"] * 4, "attributes hold '{', no JSON object"),
    ],
)
def test_samples_that_no_evaluation_writes_are_refused_by_name(
    score: Score, evaluation: Path, column: str, values: list[Any] | None, message: str
) -> None:
    path = evaluation / "cqbench/samples.parquet"
    table = pq.read_table(path)
    table = table.drop_columns([column]) if column in table.column_names else table
    pq.write_table(table if values is None else table.append_column(column, pa.array(values)), path)
    assert message in score.error("--predictions", str(evaluation), "--metrics", "bleu")


def test_references_that_an_evaluation_never_asked_for_are_no_wrong_answers(score: Score, evaluation: Path) -> None:
    summary = score(evaluation, "--metrics", "jaccard")
    assert summary["items"] == 2
    assert summary["references_without_prediction"] == 0


def test_the_images_of_an_evaluation_are_scored(score: Score, evaluation: Path) -> None:
    summary = score(evaluation, "--task", "text_to_image", "--metrics", "ssim,render_rate", references=None)
    assert summary["metrics"]["ssim"] == {"mean": pytest.approx(0.5), "n_scored": 2, "n_total": 2}
    assert summary["metrics"]["render_rate"]["mean"] == 0.5


def test_results_travel_to_the_official_layout_and_back(score: Score, evaluation: Path, tmp_path: Path) -> None:
    model = tmp_path / "outputs/nano"
    for task, file in (("image_to_text", "titles/Home.tsv"), ("text_to_image", "Home/a.jpg")):
        words = ["--predictions", str(evaluation), "--task", task, "--metrics", "parse_rate"]
        assert main(["score", *words, "--export-official", str(model)]) == 0
        (model / file).unlink()  # as after a kill
        for _ in range(2):
            assert main(["score", *words, "--export-official", str(model)]) == 0
    assert (model / "titles/Home.tsv").read_text() == "item_id\ttitle\na\tRed Mug\n"
    assert (model / "titles/Bags.tsv").read_text() == "item_id\ttitle\nb\terror\n"
    assert (model / "Home/a.jpg").is_file()
    references = lines(tmp_path / "r.jsonl", [{"item_id": "a", "reference": "Red Mug"}, REFERENCES[1]])
    out = tmp_path / "s.json"
    for options in (["--official", str(model)], ["--predictions", str(model)]):
        words = [*options, "--references", str(references), "--metrics", "jaccard", "--out", str(out)]
        assert main(["score", *words]) == 0
        summary = json.loads(out.read_text())
        assert summary["metrics"]["jaccard"] == {"mean": 0.5, "n_scored": 2, "n_total": 2}
        assert summary["malformed"] == 1


def test_exporting_needs_no_references_where_categories_are_known(score: Score, tmp_path: Path) -> None:
    rows = [{"item_id": "a", "prediction": "Mug", "category": "../x"}, {"item_id": "b", "prediction": None}]
    predictions = lines(tmp_path / "p.jsonl", rows)
    model = tmp_path / "deep/model"
    said = score.error("--predictions", str(predictions), "--export-official", str(model))
    assert "the category of item 'b' is unknown" in said
    lines(tmp_path / "p.jsonl", rows[:1])
    assert main(["score", "--predictions", str(predictions), "--export-official", str(model)]) == 0
    assert [path.relative_to(model).as_posix() for path in tmp_path.rglob("*.tsv")] == ["titles/%2E.%2Fx.tsv"]


def test_what_pandas_reads_as_missing_drops_its_category_in_paper_mode_only(score: Score, tmp_path: Path) -> None:
    (tmp_path / "m/titles").mkdir(parents=True)
    (tmp_path / "m/titles/Home.tsv").write_text("a\tAcme Red Mug 12oz, Pack of 2\nb\tnull\n")
    (tmp_path / "m/titles/Bags.tsv").write_text("c\tNavy Blue Tote Bag\n")
    summary = score(tmp_path / "m", "--mode", "paper", "--metrics", "jaccard")
    assert summary["unscored_categories"] == {"Home": "1 item without a title"}
    assert summary["metrics"]["jaccard"] == {"mean": 1.0, "n_scored": 1, "n_total": 3}
    summary = score(tmp_path / "m", "--metrics", "jaccard")
    assert summary["metrics"]["jaccard"] == {"mean": pytest.approx(2 / 3), "n_scored": 3, "n_total": 3}


def test_official_images_are_compared_with_the_catalogues(score: Score, small_catalogue: Path, tmp_path: Path) -> None:
    catalogue = load_catalogue(small_catalogue, check_images=False)
    records = list(catalogue.records())
    for record in records[:-1]:
        folder = tmp_path / "m" / record.category
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(catalogue.image_path(record)).convert("RGB").save(folder / f"{record.item_id}.png")
    options = ("--task", "text_to_image", "--metrics", "ssim,render_rate")
    summary = score(tmp_path / "m", *options, references=small_catalogue)
    # 89 copies of the real image, and one that is missing: a failed render
    assert summary["metrics"]["ssim"] == {"mean": pytest.approx(89 / 90), "n_scored": 90, "n_total": 90}
    assert summary["metrics"]["render_rate"]["mean"] == pytest.approx(89 / 90)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ('{"item_id": "a", "prediction": "x"', "p.jsonl, line 1: not JSON"),
        ('\n{"item_id": "a", "prediction": NaN}', "p.jsonl, line 2: NaN is not JSON, write null"),
        ('["a", "x"]', "p.jsonl, line 1: it holds no JSON object"),
        ('{"id": "a", "prediction": "x"}', "p.jsonl, line 1: the key item_id is missing (found: id, prediction)"),
        ('{"item_id": true, "prediction": "x"}', "the key item_id is no text"),
        ('{"item_id": "a", "prediction": 5}', "p.jsonl, line 1: prediction holds 5, expected text or null"),
        ('{"item_id": "a", "title": "x"}', "no row has the key prediction (found: item_id, title)"),
        ("", "p.jsonl holds no row"),
        ('{"item_id": "q", "prediction": "x"}', "no item has both a prediction and a reference (1 predictions"),
        ("[" * 100_000, "p.jsonl, line 1: "),
    ],
)
def test_a_mistake_in_the_predictions_is_named(score: Score, tmp_path: Path, predictions: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(predictions)
    references = lines(tmp_path / "r.jsonl", REFERENCES)
    assert message in score.error("--predictions", str(path), "--references", str(references), "--metrics", "bleu")


def test_bad_rows_are_set_aside_with_reasons_and_the_others_scored(
    score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = "".join(json.dumps(row) + "\n" for row in GOLD)
    bad = '{"item_id": "a", "prediction": "twice"}\n{"item_id"\n{"item_id": "z", "prediction": 5}\n'
    predictions = tmp_path / "p.jsonl"
    predictions.write_text(good + bad)
    references = [*REFERENCES, {"item_id": "y", "title": "x"}]
    summary = score(predictions, "--metrics", "jaccard", references=references)
    assert summary["metrics"]["jaccard"] == {"mean": 1.0, "n_scored": len(GOLD), "n_total": len(GOLD)}
    assert len(summary["set_aside"]) == 4
    said = capsys.readouterr().out
    assert "set aside, as if they were not there: 4 rows" in said
    count = len(GOLD)
    assert f"p.jsonl, line {count + 1}: item_id 'a' appears twice, first in line 1, which counts" in said
    assert f"p.jsonl, line {count + 2}: not JSON" in said
    assert f"p.jsonl, line {count + 3}: prediction holds 5, expected text or null" in said
    assert f"r.jsonl, line {len(references)}: the key reference is missing" in said


def test_anybodys_outputs_are_a_full_side_of_a_comparison(
    score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"item_id": f"i{n}", "reference": f"red mug number {n}", "category": "Home"} for n in range(24)]
    items = [item | {"group": f"product {n // 2}"} for n, item in enumerate(items)]
    sides = []
    for name, words in (("ours", "blue mug"), ("theirs", "red mug number {n}")):
        given = [{"item_id": f"i{n}", "prediction": words.format(n=n)} for n in range(24)]
        sides.append(tmp_path / name)
        score(given, "--metrics", LEXICAL, "--as-evaluation", str(sides[-1]), references=items)
    assert "next: grpo-mmpc compare OTHER" in capsys.readouterr().out
    assert main(["compare", *map(str, sides), "--resamples", "500"]) == 0
    said = capsys.readouterr().out
    assert "image_to_text: 24 items of 12 products (resampled as wholes)" in said
    assert "▲ After is better in bleu, corpus_bleu, chrf, rouge_l, token_f1 and jaccard." in said
    words = ["--predictions", str(tmp_path / "p.jsonl"), "--references", str(tmp_path / "r.jsonl"), "--metrics", "bleu"]
    assert "is not empty" in score.error(*words, "--as-evaluation", str(sides[0])), "other answers of that file"
    assert main(["score", *words, "--as-evaluation", str(sides[1])]) == 0, "given again"


def test_an_evaluation_of_scores_is_whole_or_not_there(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    predictions, references = lines(tmp_path / "p.jsonl", GOLD), lines(tmp_path / "r.jsonl", REFERENCES)
    before = {*tmp_path.iterdir()}
    monkeypatch.setattr("grpo_mmpc.evaluation.score.write_evaluation", full)
    words = ["--predictions", str(predictions), "--references", str(references), "--metrics", "bleu"]
    assert "the disk is full" in score.error(*words, "--as-evaluation", str(tmp_path / "side"))
    assert {*tmp_path.iterdir()} == before


def test_an_occupied_folder_is_refused_before_anything_is_scored(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model/titles").mkdir(parents=True)
    (tmp_path / "model/titles/Home.tsv").write_text("a\tMug\n")
    monkeypatch.setattr("grpo_mmpc.evaluation.score.score_predictions", lambda *_, **__: pytest.fail("scored"))
    predictions, references = lines(tmp_path / "p.jsonl", GOLD), lines(tmp_path / "r.jsonl", REFERENCES)
    words = ["--predictions", str(predictions), "--references", str(references), "--metrics", "bleu"]
    assert "already holds titles/Home.tsv" in score.error(*words, "--export-official", str(tmp_path / "model"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
ROWS = st.dictionaries(st.sampled_from(["item_id", "prediction", "completion", "category", "x"]), JSON, max_size=5)
LINES = (
    ROWS.map(json.dumps).map(str.encode)
    | st.binary(max_size=40)
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
)


@settings(max_examples=150, deadline=None)
@given(content=st.lists(LINES, max_size=8).map(b"\n".join))
def test_any_file_of_predictions_is_read_or_explained(content: bytes) -> None:
    """Every line that is not blank is a prediction or set aside; nothing else is ever raised."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.jsonl"
        path.write_bytes(content)
        set_aside: list[str] = []
        try:
            read = read_predictions(path, task="image_to_text", set_aside=set_aside)
        except EvaluationError as error:
            assert str(path) in str(error)
            return
        assert len(read.by_item) + len(set_aside) == sum(bool(line.strip()) for line in content.split(b"\n"))
        for item_id, prediction in read.by_item.items():
            f"{item_id}{prediction.prediction}{prediction.category}".encode()  # any file takes them


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item_id": "a", "title": "x"}, "r.jsonl, line 1: the key reference is missing (found: item_id, title)"),
        ({"item_id": "a", "reference": {"x": 1}}, 'reference holds {"x": 1}, expected text'),
        ({"item_id": "a", "reference": "x", "attributes": "red"}, "attributes must be an object"),
    ],
)
def test_a_mistake_in_the_references_is_named(score: Score, tmp_path: Path, row: dict[str, Any], message: str) -> None:
    references, predictions = lines(tmp_path / "r.jsonl", [row]), lines(tmp_path / "p.jsonl", GOLD)
    assert message in score.error("--predictions", str(predictions), "--references", str(references))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "blue"], "metric 'blue' is unknown for image_to_text in corrected mode; did you mean 'bleu'?"),
        (["--metrics", "word_overlap"], "metric 'word_overlap' is for image_to_text in paper mode, not for"),
        (["--metrics", ","], "--metrics names no metric"),
        (["--images", "x", "--task", "image_to_text"], "--images are renders of text_to_image"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    score: Score, tmp_path: Path, options: list[str], message: str
) -> None:
    references, predictions = lines(tmp_path / "r.jsonl", REFERENCES), lines(tmp_path / "p.jsonl", GOLD)
    assert message in score.error("--predictions", str(predictions), "--references", str(references), *options)


def test_missing_references_and_folders_of_several_models_are_explained(score: Score, tmp_path: Path) -> None:
    predictions = lines(tmp_path / "p.jsonl", GOLD)
    assert "--references is missing" in score.error("--predictions", str(predictions))
    for model in ("gemma", "qwen"):
        (tmp_path / "all" / model / "titles").mkdir(parents=True)
    said = score.error("--official", str(tmp_path / "all"), "--references", str(predictions))
    assert "holds the outputs of 2 models (gemma, qwen)" in said
    assert "does not exist" in score.error("--predictions", str(tmp_path / "no"), "--references", str(predictions))
