"""Completing by parts: nothing is asked twice, shares meet, and the result shows none of it."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.completion.plan import Plan
from grpo_mmpc.completion.proposal import read_proposals
from grpo_mmpc.errors import CatalogueError
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.pipelines.complete import Workers
from grpo_mmpc.rendering.registry import renderer_identity
from grpo_mmpc.tasks import IMAGE_TO_TEXT, TASKS, TEXT_TO_IMAGE
from tests.pipelines.writer import Writer, rows_of


@pytest.fixture
def part_size(monkeypatch):
    def set_size(gaps: int) -> None:
        monkeypatch.setattr("grpo_mmpc.completion.plan._PART_SIZE", gaps)

    return set_size


def write_rows(folder: Path, rows: list[dict]) -> None:
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def artefacts(folder: Path) -> dict[str, bytes]:
    """Everything but the files that parts keep for the next time."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "parts" not in path.relative_to(folder).parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "renders.jsonl"}


def test_each_gap_has_a_record_of_what_its_value_depends_on(fill, make_config, gappy):
    broken = rows_of(gappy)[0]["item_id"]
    out = fill(Writer(lambda row: "oops" if row.item_id == broken else TASKS[row.task].answer("mug")))
    failed, image, title, *others = read_proposals(out)
    policy = policy_identity(make_config(), adapter=None)
    assert len(others) == 3
    assert (failed.item_id, failed.value, failed.status) == (broken, None, "failed")
    assert failed.reasons == ["malformed completion", "oops"]
    assert (title.field, title.value, title.source, title.status, title.reasons) == (
        "title",
        "mug",
        "model",
        "accepted",
        [],
    )
    assert (title.policy, title.model, title.adapter) == (policy, "nano:qwen2_5_vl", None)
    assert (title.prompt, image.prompt) == (IMAGE_TO_TEXT.version, TEXT_TO_IMAGE.version)
    greedy = {"max_tokens": 12, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 0, "schema": None}
    assert title.sampling == greedy
    assert image.sampling == greedy | {"renderer": renderer_identity("nano", {})}
    assert (out / image.value).is_file()
    assert [one.item_id for one in [failed, image, title, *others]] == [
        row["item_id"] for i, row in enumerate(rows_of(gappy)) if i % 3 != 2
    ]


def test_the_number_of_parts_shows_in_nothing_but_the_names_of_images(fill, part_size, tmp_path):
    fill(Writer())
    (tmp_path / "filled").rename(tmp_path / "one")
    part_size(1)
    many = fill(Writer())
    assert json.loads((many / "completion.json").read_text())["parts"] == 8  # 6 gaps, one a part, a power of two
    titles = [[row["title"] for row in rows_of(folder)] for folder in (tmp_path / "one", many)]
    assert titles[0] == titles[1]
    assert [row["item_id"] for row in rows_of(many)] == [row["item_id"] for row in rows_of(tmp_path / "one")]
    assert load_catalogue(many).quarantined == []


def test_of_a_catalogue_that_grew_shrank_and_was_sorted_anew_only_new_and_changed_items_are_asked(
    fill, gappy, small_catalogue, part_size
):
    part_size(4)
    fill(Writer())
    rows = rows_of(gappy)
    more = [json.loads(line) | {"title": None} for line in (small_catalogue / "items.jsonl").read_text().splitlines()]
    new = more[20:28]
    for row in new:
        (gappy / row["image"]).parent.mkdir(parents=True, exist_ok=True)
        (gappy / row["image"]).write_bytes((small_catalogue / row["image"]).read_bytes())
    rows[1]["title"] = "Another Mug"  # its image is missing, and drawn from the title
    rows[4]["description"] = "Of no interest to the prompt."
    gone = rows.pop(3)  # its title was missing
    write_rows(gappy, [*reversed(rows), *new])
    writer = Writer()
    out = fill(writer)
    assert json.loads((out / "completion.json").read_text())["parts"] == 4  # there were two
    assert sorted(writer.asked) == sorted(
        [f"text_to_image:{rows[1]['item_id']}", *(f"image_to_text:{row['item_id']}" for row in new)]
    )
    after = rows_of(out)
    assert [row["item_id"] for row in after] == [row["item_id"] for row in [*reversed(rows), *new]]
    assert all(row["title"] and row["image"] for row in after) and gone["item_id"] not in str(after)
    images = {path.relative_to(out).as_posix() for path in (out / "images/generated").rglob("*.png")}
    assert images == {row["image"] for row in after if row["completed"] == "image"}
    fill(idle := Writer())
    assert idle.asked == []


def test_images_are_taken_over_by_the_parts_of_a_larger_plan_and_not_rendered_again(fill, part_size, monkeypatch):
    before = {row["item_id"]: row["image"] for row in rows_of(fill(Writer()))}
    part_size(1)
    monkeypatch.setattr("grpo_mmpc.rendering.store._render_batch", lambda *_: pytest.fail("rendered again"))
    out = fill(Writer(dies_after=0))
    after = {row["item_id"]: row["image"] for row in rows_of(out) if row["completed"] == "image"}
    assert [Path(before[item]).name for item in after] == [Path(image).name for image in after.values()]
    assert all(before[item] != image and (out / image).is_file() for item, image in after.items())
    assert not (out / "parts" / "0000-of-0001").exists()


@pytest.mark.parametrize("change", ["prompt", "limit", "policy"])
def test_another_prompt_limit_or_policy_asks_everything_again(fill, change, monkeypatch):
    fill(Writer())
    writer, options = Writer(), {}
    if change == "prompt":
        monkeypatch.setattr("grpo_mmpc.tasks.parser.__file__", __file__)
    elif change == "limit":
        options = {"max_tokens": {"image_to_text": 13, "text_to_image": 13}}
    else:
        with pytest.raises(CatalogueError, match="by another policy; give another folder, or --overwrite"):
            fill(Writer(), model={"init_kwargs": {"dtype": "bfloat16"}})
        options = {"model": {"init_kwargs": {"dtype": "bfloat16"}}, "overwrite": True}
    fill(writer, **options)
    assert len(writer.asked) == 6


def test_another_renderer_draws_again_and_asks_nothing(fill):
    first = fill(Writer())
    before = [row["image"] for row in rows_of(first)]
    out = fill(Writer(dies_after=0), renderer_kwargs={"size": 64})
    assert [a == b for a, b in zip(before, [row["image"] for row in rows_of(out)], strict=True)].count(False) == 3


def test_shares_fill_their_own_parts_and_the_last_one_merges(fill, part_size, tmp_path, capsys):
    part_size(1)
    whole = artefacts(fill(Writer()))
    (tmp_path / "filled").rename(tmp_path / "whole")
    first, second, third = Writer(), Writer(), Writer()
    out = fill(first, workers=Workers(share=(1, 2)))
    assert "share 1 of 2 is filled; the last of the others merges" in capsys.readouterr().out
    assert not (out / "items.jsonl").exists()
    fill(second, workers=Workers(share=(2, 2)))
    assert "completed catalogue" in capsys.readouterr().out
    fill(third, workers=Workers(share=(1, 2)))
    assert "share 1 of 2 is filled, and all of them are merged" in capsys.readouterr().out
    assert len(first.asked) + len(second.asked) == 6 and first.asked and second.asked and not third.asked
    assert artefacts(out) == whole


def test_a_share_that_a_kill_ended_in_the_middle_of_a_part_leaves_nothing_over(fill, tmp_path):
    whole = {path.relative_to(tmp_path / "filled") for path in fill(Writer()).rglob("*")}
    (tmp_path / "filled").rename(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fill(Writer(dies_after=4))
    out = tmp_path / "filled"
    (out / "parts/0000-of-0001/.answers.jsonl.1.partial").write_text("{")
    (out / "images/generated/0000-of-0001").mkdir(parents=True, exist_ok=True)
    (out / "images/generated/0000-of-0001/.x.png.1.partial").write_text("half")
    (out / ".items.jsonl.1.partial").write_text("{")
    fill(writer := Writer())
    assert len(writer.asked) == 2
    assert {path.relative_to(out) for path in out.rglob("*")} == whole


def test_a_kill_while_the_first_file_is_written_is_not_in_the_way(fill, tmp_path):
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled/.completion.json.1.partial").write_text("{")
    assert not list(fill(Writer()).rglob("*.partial"))


def test_an_item_stays_in_its_part_or_goes_to_one_of_the_two_that_take_its_place():
    common = {"catalogue": "", "fingerprint": "", "policy": "", "model": "", "adapter": None, "renderer": None}
    common |= {"prompts": {}, "shown": {}, "sampling": {}, "siblings": False, "samples": 0, "gaps": 0}
    small, large = (Plan(**common, parts=parts) for parts in (8, 16))
    for item in map(str, range(100)):
        assert large.part_of(item) in (small.part_of(item), small.part_of(item) + 8)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--part", "3/2"], "expected I/N with I from 1 to N, such as 2/8, got 3/2"),
        (["--part", "1/2", "--workers", "2"], "--part fills its share in one process"),
        (["--part", "1/2", "--engine", "ray"], "--part fills its share in one process"),
        (["--ray-address", "auto"], "--ray-address needs --engine ray"),
    ],
)
def test_options_without_effect_are_refused(gappy, tmp_path, capsys, options, problem):
    command = ["complete", str(gappy), "--out", str(tmp_path / "out"), "--base", *options]
    try:
        assert main(command) == 2
    except SystemExit as end:
        assert end.code == 2
    assert problem in capsys.readouterr().err
