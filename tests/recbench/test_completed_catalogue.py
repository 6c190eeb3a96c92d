"""What of a completed catalogue counts as completion, and what is said of the rest."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grpo_mmpc.errors import CatalogueError, RecBenchError
from grpo_mmpc.recbench.completed_catalogue import read_completed
from grpo_mmpc.tasks import TASKS

IDS = ["a", "b", "c", "d"]
TITLES = ["red mug", "blue bag", "green hat", "black pen"]
MISSING = np.array([False, True, True, True])


def catalogue(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A catalogue folder whose items have an image of their own unless said otherwise."""
    (folder / "images").mkdir(parents=True)
    for row in rows:
        Image.new("RGB", (8, 8), (len(folder.name), *row["item_id"].encode()[:1], 7)).save(
            folder / "images" / f"{row['item_id']}.png"
        )
    lines = [{"category": "all", "title": None, "image": f"images/{row['item_id']}.png"} | row for row in rows]
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def original(tmp_path: Path) -> Path:
    return catalogue(
        tmp_path / "original", [{"item_id": i, "title": title} for i, title in zip(IDS, TITLES, strict=True)]
    )


def truth_images(tmp_path: Path) -> list[Path | None]:
    folder = original(tmp_path)
    return [folder / "images" / f"{i}.png" for i in IDS]


def read(folder: Path, **changes: Any) -> Any:
    return read_completed(folder, "text", **{"item_ids": IDS, "missing": MISSING, "truth": TITLES} | changes)


def test_titles_of_missing_items_count_and_each_gap_has_its_reason(tmp_path: Path) -> None:
    folder = catalogue(
        tmp_path / "theirs",
        [
            {"item_id": "c", "title": "  a hat\n"},
            {"item_id": "a", "title": "whatever"},
            {"item_id": "x", "title": "unknown"},
            {"item_id": "b", "title": " "},
        ],
    )
    field = read(folder)
    assert field.values == (None, None, "a hat", None)
    assert field.lacking == (None, "its title is empty", None, "it is not in the completed catalogue")
    assert (field.equals_truth.sum(), field.extra_items) == (0, 1)


def test_where_our_column_exists_only_what_it_names_counts(tmp_path: Path) -> None:
    """An item of the original whose title was never taken away must not pass for a completion."""
    folder = catalogue(
        tmp_path / "ours",
        [
            {"item_id": "b", "title": "blue bag", "completed": "title"},
            {"item_id": "c", "title": "green hat", "completed": None},
            {"item_id": "d", "title": "black pen", "completed": "image"},
        ],
    )
    field = read(folder)
    assert field.values == (None, "blue bag", None, None)
    assert field.lacking == (None, None, *["its title is not marked as completed"] * 2)
    assert field.equals_truth.tolist() == [False, True, False, False]  # a lucky guess, and allowed to be the truth


@pytest.mark.parametrize("mark", ["title,image", "image, title", ["title", "image"]])
def test_the_column_may_name_several_fields(tmp_path: Path, mark: object) -> None:
    folder = catalogue(tmp_path / "ours", [{"item_id": "b", "title": "a bag", "completed": mark}])
    assert read(folder).values[1] == "a bag"


def test_a_column_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = catalogue(tmp_path / "theirs", [{"item_id": "b", "title": "a bag", "completed": True}])
    with pytest.raises(RecBenchError, match=r"column completed of item b holds True, expected title, image or nothing"):
        read(folder)


def test_what_the_complete_command_writes_is_read(
    small_catalogue: Path, make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap that it filled counts; one that it could not fill does not, nor what was never one."""
    from grpo_mmpc.pipelines import complete

    class Writer:
        rows_at_once = 1

        def generate(self, rows: list[Any], sampling: Any) -> list[str]:
            return ["oops" if row.item_id == ids[1] else TASKS[row.task].answer("red mug") for row in rows]

    @contextmanager
    def engine(config: Any, *, checkpoint: Any) -> Iterator[Writer]:
        yield Writer()

    rows = [json.loads(line) for line in (small_catalogue / "items.jsonl").read_text().splitlines()[:5]]
    ids, titles = [row["item_id"] for row in rows], [row["title"] for row in rows]
    truth = [small_catalogue / row["image"] for row in rows]
    gappy = catalogue(tmp_path / "gappy", [])
    for row, path in zip(rows, truth, strict=True):
        (gappy / row["image"]).parent.mkdir(parents=True, exist_ok=True)
        (gappy / row["image"]).write_bytes(path.read_bytes())
    rows[0]["title"] = rows[1]["title"] = rows[2]["image"] = None
    (gappy / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("grpo_mmpc.rollout.engines.offline_engine", engine)
    ours = tmp_path / "ours"
    complete.complete_catalogue(make_config(), catalogue=gappy, out=ours, checkpoint=None)

    missing = np.array([True, True, True, True, False])
    field = read_completed(ours, "text", item_ids=ids, missing=missing, truth=titles)
    assert field.values == ("red mug", None, None, None, None)
    assert field.lacking == (None, "its title is empty", *["its title is not marked as completed"] * 2, None)
    images = read_completed(ours, "image", item_ids=ids, missing=missing, truth=truth)
    assert [path is not None for path in images.values] == [False, False, True, False, False]


@pytest.mark.parametrize(("num_equal", "looks_original"), [(0, False), (1, False), (2, True), (3, True)])
def test_an_unmarked_catalogue_with_more_than_half_of_the_true_titles_looks_like_the_original(
    tmp_path: Path, num_equal: int, looks_original: bool
) -> None:
    titles = [*TITLES[1 : 1 + num_equal], *["something"] * (3 - num_equal)]
    folder = catalogue(
        tmp_path / "theirs", [{"item_id": i, "title": title} for i, title in zip(IDS[1:], titles, strict=True)]
    )
    field = read(folder)
    assert field.looks_original == (f"{num_equal} of 3 titles are the true ones" if looks_original else None)
    # What is unchanged is no completion, and of what looks like the original nothing is.
    assert sum(value is not None for value in field.values) == (0 if looks_original else 3 - num_equal)
    assert not field.equals_truth.any()


def test_a_title_that_was_never_taken_away_is_no_completion(tmp_path: Path) -> None:
    folder = catalogue(
        tmp_path / "theirs",
        [{"item_id": i, "title": t} for i, t in [("b", "blue bag"), ("c", "a hat"), ("d", "a pen")]],
    )
    field = read(folder)
    assert field.values == (None, None, "a hat", "a pen")
    assert field.lacking[1] == "unchanged; mark it in the column completed if it is a completion"


def test_titles_that_are_not_there_do_not_hide_the_original(tmp_path: Path) -> None:
    folder = catalogue(tmp_path / "theirs", [{"item_id": "b", "title": "blue bag"}, {"item_id": "c"}, {"item_id": "d"}])
    assert read(folder).looks_original == "1 of 1 titles are the true ones"


def test_images_of_missing_items_count_and_each_gap_has_its_reason(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"item_id": i, "title": "some title"} for i in IDS]
    rows[3]["image"] = None
    folder = catalogue(tmp_path / "theirs", rows)
    (folder / "images" / "c.png").unlink()
    field = read_completed(folder, "image", item_ids=IDS, missing=MISSING, truth=truth_images(tmp_path))
    assert field.values == (None, (folder / "images" / "b.png").resolve(), None, None)
    assert field.lacking == (None, None, "its image file is missing", "its image is empty")
    assert not field.equals_truth.any()


def test_original_image_files_are_known_by_their_bytes(tmp_path: Path) -> None:
    truth = truth_images(tmp_path)
    field = read_completed(tmp_path / "original", "image", item_ids=IDS, missing=MISSING, truth=truth)
    assert field.looks_original == "3 of 3 image files are, byte for byte, the true ones"
    copied = catalogue(tmp_path / "theirs", [{"item_id": i} for i in IDS])
    assert truth[1] is not None
    (copied / "images" / "b.png").write_bytes(truth[1].read_bytes())
    field = read_completed(copied, "image", item_ids=IDS, missing=MISSING, truth=truth)
    assert [path is not None for path in field.values] == [False, False, True, True]


def test_a_broken_picture_costs_an_item_its_picture_not_its_title(tmp_path: Path) -> None:
    folder = catalogue(tmp_path / "theirs", [{"item_id": i, "title": f"made of {i}"} for i in IDS])
    (folder / "images" / "b.png").write_bytes(b"no image")
    assert read(folder).values[1] == "made of b"


def test_an_item_whose_row_is_broken_is_not_called_absent(tmp_path: Path) -> None:
    rows = [{"item_id": "b", "title": None, "image": None}, {"item_id": "c", "title": "a hat"}]
    assert read(catalogue(tmp_path / "theirs", rows)).lacking[1] == "its row is broken"


def test_the_completion_of_another_catalogue_is_refused(tmp_path: Path) -> None:
    folder = catalogue(tmp_path / "other", [{"item_id": "x", "title": "a bag"}])
    with pytest.raises(RecBenchError, match=r"holds none of the 3 items whose title is missing \(b, \.\.\.\)"):
        read(folder)
    with pytest.raises(CatalogueError, match="does not exist"):
        read(tmp_path / "nowhere")


def test_nothing_missing_needs_no_completion(tmp_path: Path) -> None:
    field = read(original(tmp_path), missing=np.zeros(4, dtype=bool))
    assert field.values == (None,) * 4


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("/SECRET", "its row is broken"),
        ("../secret.png", "its row is broken"),
        ("images/../../secret.png", "its row is broken"),
        ("http://127.0.0.1/secret.png", "its row is broken"),
        ("images/link.png", "its image is no file inside the folder"),
        ("images/folder/secret.png", "its image is no file inside the folder"),
        ("images/loop.png", "its image is no file inside the folder"),
        ("images/pipe.png", "its image is no file inside the folder"),
        ("images", "its image is no file inside the folder"),
        ("images/gone.png", "its image file is missing"),
    ],
)
def test_a_stranger_s_catalogue_names_nothing_outside_its_folder(tmp_path: Path, image: str, said: str) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    rows: list[dict[str, Any]] = [{"item_id": i, "completed": "image"} for i in IDS]
    rows[1]["image"] = image.replace("/SECRET", str(secret))
    folder = catalogue(tmp_path / "theirs", rows)
    (folder / "images" / "link.png").symlink_to(secret)
    (folder / "images" / "folder").symlink_to(tmp_path)
    (folder / "images" / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "images" / "pipe.png")
    field = read_completed(folder, "image", item_ids=IDS, missing=MISSING, truth=[None] * 4)
    assert field.lacking == (None, said, None, None)
    assert [value is not None for value in field.values] == [False, False, True, True]


def test_an_items_file_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = catalogue(tmp_path / "theirs", [{"item_id": i, "title": f"made of {i}"} for i in IDS])
    (folder / "items.jsonl").rename(tmp_path / "items.jsonl")
    (folder / "items.jsonl").symlink_to(tmp_path / "items.jsonl")
    with pytest.raises(CatalogueError, match=r"items\.jsonl is a link to .*, outside the folder"):
        read(folder)
