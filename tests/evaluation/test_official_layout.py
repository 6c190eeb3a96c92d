"""The official layout: read, refused, and nothing is lost on the way there and back."""

from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.official_layout import (
    read_official_images,
    read_official_titles,
    write_official,
)
from grpo_mmpc.evaluation.predictions import Prediction

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st


def titles_of(folder: Path, content: str, name: str = "Home.tsv") -> list[tuple[str, str | None]]:
    (folder / "titles").mkdir(exist_ok=True)
    (folder / "titles" / name).write_text(content, encoding="utf-8")
    set_aside: list[str] = []
    rows = read_official_titles(folder, set_aside=set_aside)
    if set_aside:
        raise EvaluationError(set_aside[0])
    return [(row.item_id, row.prediction) for row in rows]


@pytest.mark.parametrize(
    "content",
    [
        "item_id\ttitle\na\tRed Mug\nb\tBlue Mug\n",
        "a\tRed Mug\nb\tBlue Mug\n",
        "title\tcategory\tASIN\nRed Mug\tHome\ta\nBlue Mug\tHome\tb\n",
        "\ufeffimage\ttext\r\na\tRed Mug\r\n\r\nb\tBlue Mug\r\n",
        'a\t"Red Mug"\nb\tBlue Mug',
    ],
    ids=["header", "no header", "named columns", "BOM and CRLF", "quoted"],
)
def test_titles_are_read_with_and_without_header(tmp_path: Path, content: str) -> None:
    assert titles_of(tmp_path, content) == [("a", "Red Mug"), ("b", "Blue Mug")]


def test_quotes_are_those_of_csv(tmp_path: Path) -> None:
    assert titles_of(tmp_path, 'a\t"10"" Frame"\nb\t10" Frame\n') == [("a", '10" Frame'), ("b", '10" Frame')]


def test_an_open_quote_costs_its_own_row_and_none_behind_it(tmp_path: Path) -> None:
    (tmp_path / "titles").mkdir()
    (tmp_path / "titles" / "Home.tsv").write_text('item_id\ttitle\na\tRed\nb\t"24 inch wheel\nc\tBlue\nd\t"x')
    set_aside: list[str] = []
    rows = read_official_titles(tmp_path, set_aside=set_aside)
    assert [(row.item_id, row.prediction) for row in rows] == [("a", "Red"), ("c", "Blue")]
    assert [place.split(", ")[1].split(":")[0] for place in set_aside] == ["line 3", "line 5"]


def test_shards_of_a_category_are_read_together(tmp_path: Path) -> None:
    titles_of(tmp_path, "a\tRed Mug\n", name="Home_and_Kitchen_gpu0.tsv")
    titles_of(tmp_path, "b\tBlue Mug\n", name="Home_and_Kitchen_gpu1.tsv")
    rows = read_official_titles(tmp_path, set_aside=[])
    assert [(row.item_id, row.category) for row in rows] == [("a", "Home_and_Kitchen"), ("b", "Home_and_Kitchen")]


def test_error_and_an_empty_cell_are_malformed_and_what_pandas_calls_missing_is_marked(tmp_path: Path) -> None:
    assert titles_of(tmp_path, "a\terror\nb\t\nc\tNaN\nd\tnull\ne\tNaN cake\n") == [
        ("a", None),
        ("b", None),
        ("c", "NaN"),
        ("d", "null"),
        ("e", "NaN cake"),
    ]
    assert [row.is_nan for row in read_official_titles(tmp_path, set_aside=[])] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tRed\nb,Blue\n", r"Home.tsv, line 2: found 1 cell"),
        ("a\tRed\n\tBlue\n", r"line 2: the item_id is empty"),
        ("a\tRed\na\tBlue\n", r"line 2: item 'a' appears twice, first in .*line 1"),
        ('a\t"Best" mug\nb\t"Red mug\nc\tBlue\nd\tGreen\n', r"line 2: .*quote at its start is never closed"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        titles_of(tmp_path, content)


def test_images_are_found_whatever_the_case_of_their_ending(tmp_path: Path) -> None:
    for name in ("Home/a.jpg", "Home/b.JPEG", "Bags/c.PNG", "Bags/d.webp", "Bags/note.txt", "titles/x.tsv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    found = read_official_images(tmp_path)
    assert {c: sorted(files) for c, files in found.items()} == {"Home": ["a", "b"], "Bags": ["c"]}
    assert sorted(read_official_images(tmp_path, webp=True)["Bags"]) == ["c", "d"]


def test_of_two_images_of_an_item_the_jpeg_counts(tmp_path: Path) -> None:
    (tmp_path / "Home").mkdir()
    for name in ("a.png", "a.jpg", "a.jpeg"):
        (tmp_path / "Home" / name).write_bytes(b"")
    assert read_official_images(tmp_path)["Home"]["a"].name == "a.jpg"


def test_titles_and_images_come_back(tmp_path: Path) -> None:
    picture = tmp_path / "made.png"
    Image.new("RGB", (20, 10), (200, 30, 40)).save(picture)
    answers = [
        Prediction(item_id="B0/1", category="Home & Kitchen/Mugs", prediction='10" "Best" Mug, 5%2F', image=picture),
        Prediction(item_id="..", category="..", prediction=None),
        Prediction(item_id="c", category="Home & Kitchen/Mugs", prediction="حقيبة 🎒"),
    ]
    write_official(tmp_path / "model", answers)
    rows = read_official_titles(tmp_path / "model", set_aside=[])
    assert {(row.item_id, row.category, row.prediction) for row in rows} == {
        (answer.item_id, answer.category, answer.prediction) for answer in answers
    }
    images = read_official_images(tmp_path / "model")
    image = images["Home & Kitchen/Mugs"]["B0/1"]
    assert image.suffix == ".jpg"
    with Image.open(image) as copy:
        assert copy.size == (20, 10)
        assert max(abs(a - b) for a, b in zip(copy.getpixel((5, 5)), (200, 30, 40), strict=True)) <= 3  # JPEG


@pytest.mark.parametrize("category", ["titles", "Titles", "Home_gpu0", "images"])
def test_a_category_may_have_the_name_of_a_part_of_the_layout(tmp_path: Path, category: str) -> None:
    picture = tmp_path / "made.jpg"
    Image.new("RGB", (4, 4)).save(picture)
    answers = [Prediction(item_id=f"a{i}", category=category, prediction="Mug", image=picture) for i in range(2)]
    for _ in range(2):  # given again it finds its own files there
        assert write_official(tmp_path / "model", answers) == 3
    assert {row.category for row in read_official_titles(tmp_path / "model", set_aside=[])} == {category}
    assert {name: sorted(files) for name, files in read_official_images(tmp_path / "model").items()} == {
        category: ["a0", "a1"]
    }
    other = [Prediction(item_id="a0", category=category, prediction="Mug", image=picture)]
    with pytest.raises(EvaluationError, match="already holds"):
        write_official(tmp_path / "model", other)


def test_a_jpeg_is_copied_byte_for_byte(tmp_path: Path) -> None:
    picture = tmp_path / "made.jpg"
    Image.effect_noise((20, 20), 80).convert("RGB").save(picture)
    write_official(
        tmp_path / "model", [Prediction(item_id="a", category="Home", prediction=None, image=picture)], titles=False
    )
    assert (tmp_path / "model/Home/a.jpg").read_bytes() == picture.read_bytes()
    assert not (tmp_path / "model/titles").exists()


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "..", ".", "C:\\x", "a\x00b", ".hidden", "x. "])
def test_no_id_and_no_category_leaves_the_folder(tmp_path: Path, name: str) -> None:
    model = tmp_path / "in" / "model"
    picture = tmp_path / "made.jpg"
    Image.new("RGB", (4, 4)).save(picture)
    write_official(model, [Prediction(item_id=name, category=name, prediction="Mug", image=picture)])
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != picture]
    assert len(written) == 2
    assert all(model in path.parents for path in written)
    assert [row.category for row in read_official_titles(model, set_aside=[])] == [name]
    assert list(read_official_images(model)) == [name]


@pytest.mark.parametrize("name", ["", "x" * 300, "é" * 150])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EvaluationError, match="cannot be a file name"):
        write_official(tmp_path, [Prediction(item_id="a", category=name, prediction="Mug")])


@settings(max_examples=60, deadline=None)
@given(
    title=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60).map(lambda t: " ".join(t.split())),
    category=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip),
)
def test_any_title_and_category_come_back(tmp_path_factory: pytest.TempPathFactory, title: str, category: str) -> None:
    folder = tmp_path_factory.mktemp("model")
    write_official(folder, [Prediction(item_id="a", category=category, prediction=title)])
    (row,) = read_official_titles(folder, set_aside=[])
    assert row.category == category
    assert row.prediction == (None if title in ("", "error") else title)
