"""Completing a catalogue: every gap is filled or named, nothing else changes, no kill costs."""

import json
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import save_file

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.cli import main
from grpo_mmpc.completion.plan import Plan
from grpo_mmpc.completion.proposal import read_proposals
from grpo_mmpc.errors import CatalogueError, ConfigError
from grpo_mmpc.nano.catalogue import build_catalogue
from grpo_mmpc.nano.hard import UNSEEN
from grpo_mmpc.pipelines import complete as module
from grpo_mmpc.pipelines.complete import audit_catalogue, complete_catalogue
from grpo_mmpc.pipelines.known_titles import calibrate
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.locks import hold
from tests.pipelines.writer import Writer, rows_of


def test_every_gap_is_filled_and_nothing_else_changes(fill, gappy):
    out = fill(Writer())
    for i, (before, after) in enumerate(zip(rows_of(gappy), rows_of(out), strict=True)):
        field = ("title", "image", None)[i % 3]
        assert after["completed"] == field
        assert {k: v for k, v in after.items() if k not in ("completed", field)} == {
            k: v for k, v in before.items() if k != field
        }
        if field == "title":
            assert after["title"] == f"red mug {before['item_id']}"
    completed = load_catalogue(out)
    assert len(completed) == 9 and completed.quarantined == []
    assert all(record.title and record.image for record in completed.records())
    assert (out / "interactions.jsonl").read_bytes() == (gappy / "interactions.jsonl").read_bytes()
    assert "Nano images are drawings" in (out / "completion.html").read_text("utf-8")


def test_further_images_of_an_item_come_along(fill, gappy):
    rows = rows_of(gappy)
    (gappy / "images/back.png").write_bytes((gappy / rows[0]["image"]).read_bytes())
    rows[0]["images"] = [rows[0]["image"], "images/back.png", "images/lost.png"]
    (gappy / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = fill(Writer())
    assert load_catalogue(out).record(0).images == ("images/back.png", "images/lost.png")
    assert (out / "images/back.png").read_bytes() == (gappy / "images/back.png").read_bytes()
    assert not (out / "images/lost.png").exists()


def test_an_answer_without_an_end_is_said_to_be_unfinished(fill, gappy):
    cut = rows_of(gappy)[0]["item_id"]
    out = fill(Writer(lambda row: '{"title": "a mug of' if row.item_id == cut else TASKS[row.task].answer("mug")))
    [lacking] = map(json.loads, (out / "incomplete.jsonl").read_text().splitlines())
    assert lacking == {"item_id": cut, "reason": "unfinished completion", "detail": '{"title": "a mug of'}


def test_what_cannot_be_filled_stays_missing_and_is_listed_with_its_reason(fill, gappy, capsys):
    broken = rows_of(gappy)[0]["item_id"]
    out = fill(Writer(lambda row: "oops" if row.item_id == broken else TASKS[row.task].answer("mug")))
    assert rows_of(out)[0]["title"] is None and rows_of(out)[0]["completed"] is None
    assert [json.loads(line) for line in (out / "incomplete.jsonl").read_text().splitlines()] == [
        {"item_id": broken, "reason": "malformed completion", "detail": "oops"}
    ]
    assert "1 x malformed completion" in capsys.readouterr().out


def test_a_killed_completion_goes_on_with_the_items_that_are_missing(fill):
    first = Writer(dies_after=4)
    with pytest.raises(KeyboardInterrupt):
        fill(first)
    second = Writer()
    out = fill(second)
    assert len(first.asked) == 4 and len(second.asked) == 2
    assert not set(first.asked) & set(second.asked)
    assert sum(row["completed"] is not None for row in rows_of(out)) == 6


def test_without_a_renderer_titles_are_filled_and_images_listed(fill, capsys):
    out = fill(Writer(), renderer=None)
    assert [row["completed"] for row in rows_of(out)] == ["title", None, None] * 3
    listed = [json.loads(line) for line in (out / "incomplete.jsonl").read_text().splitlines()]
    assert [entry["reason"] for entry in listed] == ["no renderer"] * 3
    assert "evaluation.renderer=diffusers" in capsys.readouterr().out


def test_a_folder_belongs_to_one_catalogue_and_one_policy(fill, make_config, small_catalogue, tmp_path, monkeypatch):
    out = fill(Writer())
    with pytest.raises(CatalogueError, match="holds the completion of"):
        complete_catalogue(make_config(), catalogue=small_catalogue, out=out, checkpoint=None)
    other = make_config(model={"init_kwargs": {"dtype": "bfloat16"}})
    with pytest.raises(CatalogueError, match="by another policy"):
        complete_catalogue(other, catalogue=tmp_path / "gappy", out=out, checkpoint=None)


def test_neither_the_catalogue_nor_a_strangers_folder_is_written_into(make_config, gappy, tmp_path):
    with pytest.raises(CatalogueError, match="the catalogue itself"):
        complete_catalogue(make_config(), catalogue=gappy, out=gappy, checkpoint=None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(CatalogueError, match="not empty"):
        complete_catalogue(make_config(), catalogue=gappy, out=tmp_path / "mine", checkpoint=None)


def test_the_embedded_policy_completes_a_catalogue_from_the_command_line(gappy, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["complete", str(gappy), "--out", str(out), "--base", "--recipe", "recipes/nano.yaml"]
    assert main(command) == 0
    assert "filled 3 titles and 3 images" in capsys.readouterr().out
    assert len(load_catalogue(out)) == 9


def test_no_bar_is_drawn_before_the_policy_is_there(gappy, make_config, tmp_path, monkeypatch):
    """That of its weights would stand beside it; no title is missing, which are asked first."""
    drawn: list[str] = []
    rows = [row | {"title": row["title"] or "Mug"} for row in rows_of(gappy)]
    (gappy / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    @contextmanager
    def engine(config, *, checkpoint):
        assert "filling" not in drawn
        yield Writer()

    monkeypatch.setattr("grpo_mmpc.rollout.engines.offline_engine", engine)
    monkeypatch.setattr(module.Progress, "__call__", lambda self, what, done, total=None, **detail: drawn.append(what))
    complete_catalogue(make_config(), catalogue=gappy, out=tmp_path / "out", checkpoint=None)
    assert "filling" in drawn


def test_where_nothing_is_missing_nothing_is_offered_for_review(fill, small_catalogue, make_config, tmp_path, capsys):
    complete_catalogue(make_config(), catalogue=small_catalogue, out=tmp_path / "whole", checkpoint=None)
    lines = capsys.readouterr().out.splitlines()
    assert "nothing was missing; 0 existing values changed" in "\n".join(lines)
    assert lines[-1] == f"next: grpo-mmpc data validate {tmp_path / 'whole'}"


def test_no_row_is_lost_whatever_is_wrong_with_it(fill, gappy):
    rows = rows_of(gappy)
    (gappy / rows[0]["image"]).write_bytes(b"not an image")  # without title: no item at all
    (gappy / rows[2]["image"]).write_bytes(b"not an image")  # with title: its image is missing
    rows += [rows[3], rows[4] | {"item_id": "long", "title": "x" * 10**6}]
    (gappy / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = fill(Writer(), renderer=None)
    written = {row["item_id"]: row for row in rows_of(out)}
    set_aside = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert len(written) + len(set_aside) == 11
    assert [(row["row"], row["reason"].split(";")[0]) for row in set_aside] == [
        (1, f"image {rows[0]['image']} is not an image: it starts with b'not an i'"),
        (10, f"item_id {rows[3]['item_id']} already names row 4, which is kept"),
        (11, "title has 1,000,000 characters, the limit is 5,000"),
    ]
    assert written[rows[2]["item_id"]]["image"] is None
    assert written[rows[2]["item_id"]]["title"] == rows[2]["title"]
    listed = [json.loads(line) for line in (out / "incomplete.jsonl").read_text().splitlines()]
    [entry] = [entry for entry in listed if entry["item_id"] == rows[2]["item_id"]]
    assert "is not an image" in entry["detail"]
    assert load_catalogue(out).quarantined == []


def test_a_broken_image_of_an_item_with_a_title_is_rendered_anew(fill, gappy):
    broken = rows_of(gappy)[2]
    (gappy / broken["image"]).write_bytes(b"not an image")
    out = fill(Writer())
    row = rows_of(out)[2]
    assert row["completed"] == "image" and row["image"].startswith("images/generated/")


def test_started_again_when_all_is_done_it_says_so_and_asks_no_model(fill, capsys):
    out = fill(Writer())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    capsys.readouterr()
    fill(Writer(dies_after=0))
    said = capsys.readouterr().out
    assert "all of them had been filled before" in said and "loading" not in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before


def test_changed_images_are_taken_again_and_empty_ones_of_a_full_disk_made_whole(fill, gappy):
    from PIL import Image

    out = fill(Writer())
    first, last = rows_of(gappy)[0], rows_of(out)[7]
    (gappy / first["image"]).unlink()
    Image.new("RGB", (84, 84), "red").save(gappy / first["image"])
    (out / last["image"]).write_bytes(b"")
    writer = Writer(lambda row: TASKS[row.task].answer("seen again"))
    fill(writer)
    assert (out / first["image"]).read_bytes() == (gappy / first["image"]).read_bytes()
    assert writer.asked == [f"image_to_text:{first['item_id']}"]
    assert rows_of(out)[0]["title"] == "seen again"
    assert (out / last["image"]).stat().st_size > 0


def test_two_processes_do_not_share_a_folder(fill, tmp_path):
    lock = tmp_path / "filled" / ".lock"
    with hold(lock, refuse=CatalogueError), pytest.raises(CatalogueError, match="filled is in use by another complete"):
        fill(Writer())


@pytest.mark.parametrize("name", ["items.jsonl", "interactions.jsonl"])
def test_files_outside_the_catalogue_are_not_read_through_links(fill, gappy, tmp_path, name):
    (gappy / name).rename(tmp_path / "elsewhere.jsonl")
    (gappy / name).symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(CatalogueError, match=r"is a link to .*elsewhere\.jsonl, outside the folder"):
        fill(Writer())


def test_the_run_of_a_checkpoint_is_data_and_executes_nothing(gappy, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    adapter = run / "checkpoints" / "checkpoint-1"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"r": 1}')
    save_file({"base_model.model.q_proj.lora_A.weight": np.zeros((1, 1))}, adapter / "adapter_model.safetensors")
    (run / "config.yaml").write_text(
        "run_dir: x\nmodel:\n  name_or_path: nano:qwen2_5_vl\n"
        "  init_kwargs: {trust_remote_code: true, dtype: float32, attn_implementation: some/kernel}\n"
        "  processor_kwargs: {trust_remote_code: true, max_pixels: 7056}\n"
        "rewards:\n  mix:\n    - {name: 'os:system', kwargs: {command: 'touch executed'}}\n"
        "evaluation:\n  max_tokens: {image_to_text: 9}\n"
        "  renderer: 'os:system'\n  renderer_kwargs: {command: touch executed}\n"
        "rollout: {backend: vllm, servers: ['http://elsewhere']}\n"
    )
    seen = []
    monkeypatch.setattr(module, "complete_catalogue", lambda config, **_: seen.append(config))
    monkeypatch.chdir(tmp_path)
    command = ["complete", str(gappy), "--out", "out", "--checkpoint"]
    assert main([*command, str(run)]) == 2
    assert "is a run folder; give one of its checkpoints, such as" in capsys.readouterr().err
    assert main([*command, str(adapter), "--recipe", "evaluation.renderer=nano"]) == 0
    [config] = seen
    assert config.model.init_kwargs == {"dtype": "float32"} and config.model.processor_kwargs == {"max_pixels": 7056}
    assert (config.evaluation.renderer, config.evaluation.max_tokens) == ("nano", {"image_to_text": 9})
    assert config.rollout.backend == "transformers" and [spec.name for spec in config.rewards.mix] == ["json_format"]
    said = " ".join(capsys.readouterr().out.split())
    assert "not taken from" in said and said.endswith("to use its whole recipe, name that file behind --recipe")
    assert not (tmp_path / "executed").exists()
    assert main([*command, str(adapter)]) == 0  # of a renderer only a catalogue with missing images would hear
    assert "renderer" not in capsys.readouterr().out


def test_a_nano_policy_says_that_it_knows_no_other_products(fill, gappy, capsys):
    fill(Writer())
    assert "knows only the products of the nano catalogue" not in capsys.readouterr().out
    rows = [row | {"item_id": f"shop-{i}"} for i, row in enumerate(rows_of(gappy))]
    (gappy / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fill(Writer())
    assert "! nano:qwen2_5_vl knows only the products of the nano catalogue" in capsys.readouterr().out


def test_the_base_model_needs_a_recipe(gappy, tmp_path, capsys):
    assert main(["complete", str(gappy), "--out", str(tmp_path / "out"), "--base"]) == 2
    assert "a recipe is needed, named behind --recipe" in capsys.readouterr().err


def test_a_variants_title_is_taken_with_its_source_and_the_policy_is_not_asked(fill, gappy, capsys):
    rows = rows_of(gappy)
    for row in rows:
        row["parent_id"] = "p" if row in rows[1:4] else None
    rows[1]["title"], rows[2]["title"] = "Acme Mug", None
    rows[2]["image"] = None
    del rows[2]
    (gappy / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    writer = Writer()
    taken = next(one for one in read_proposals(fill(writer)) if one.item_id == rows[2]["item_id"])
    assert (taken.value, taken.source, taken.source_item) == ("Acme Mug", "sibling", rows[1]["item_id"])
    assert (taken.policy, taken.status) == (None, "accepted")
    assert f"image_to_text:{taken.item_id}" not in writer.asked
    assert "taken from beside: 1 from a variant" in capsys.readouterr().out
    asked = Writer()
    fill(asked, siblings=False)
    assert asked.asked == [f"image_to_text:{taken.item_id}"]


class Sampler(Writer):
    """Answers greedily with one title, and with others by the seed of the sample."""

    def generate(self, rows, sampling) -> list[str]:
        self.asked += [f"{row.item_id} {sampling.temperature:g} {sampling.seed}" for row in rows]
        color = "blue" if sampling.seed == 2 else "red"
        return [TASKS[row.task].answer(f"{color} mug {row.item_id}") for row in rows]


def test_samples_become_signals_and_the_gate_lets_confident_titles_pass(fill, gappy, capsys):
    rows = rows_of(gappy)
    for row in rows:
        row["attributes"] = {"color": "red"} if row["title"] is None else {"color": "blue"}
    rows[0]["attributes"] = {"color": "blue"}
    (gappy / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sampler = Sampler()
    gate = {"confidence": 0.6, "constraints": {"length": [1, 100], "banned": ["mug"]}}
    first, second, _ = (one for one in read_proposals(fill(sampler, samples=3)) if one.field == "title")
    assert [asked for asked in sampler.asked if asked.startswith(first.item_id)] == [
        f"{first.item_id} {how}" for how in ("0 0", "1 1", "1 2", "1 3")
    ]
    assert first.signals == {"agreement.color": pytest.approx(2 / 3), "conflict.color": 1.0}
    assert (first.status, first.reasons) == ("review", ["color is not what the item's attributes say"])
    assert (second.status, second.confidence) == ("accepted", pytest.approx(2 / 3))
    assert "gate: 5 accepted, 1 waiting for review, 0 failed; 0 existing values changed" in capsys.readouterr().out
    again = Sampler()
    _, second, _ = (one for one in read_proposals(fill(again, samples=3, gate=gate)) if one.field == "title")
    assert again.asked == []  # another gate asks no model
    assert second.reasons == ["banned: mug"]


def test_a_calibration_answers_titled_items_as_if_they_had_no_title_and_the_gate_uses_it(
    make_config, small_catalogue, tmp_path, monkeypatch, capsys
):
    rows = [row | {"item_id": f"shop-{i}"} for i, row in enumerate(rows_of(small_catalogue))]
    types = {row["item_id"]: row["attributes"]["type"] for row in rows}
    items = [row | {"title": None} if i % 4 == 0 else row for i, row in enumerate(rows)]
    folder = tmp_path / "partly"
    shutil.copytree(small_catalogue / "images", folder / "images")
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))

    class Sure(Writer):
        """Agrees with itself on every type, and on none of the colours."""

        def generate(self, rows, sampling) -> list[str]:
            self.asked += [row.item_id for row in rows]
            color = ("red", "blue", "green")[sampling.seed]
            return [TASKS[row.task].answer(f"{color} {types[row.item_id]}") for row in rows]

    writer = Sure()
    loaded = Mock(side_effect=lambda *_, **__: nullcontext(writer))
    monkeypatch.setattr("grpo_mmpc.rollout.engines.offline_engine", loaded)
    out = tmp_path / "out"
    complete_catalogue(make_config(), catalogue=folder, out=out, checkpoint=None, samples=2, calibrate_on=40)
    assert loaded.call_count == 1  # for what is known and what is missing
    titled = {row["item_id"] for row in items if row["title"]}
    assert len(titled & set(writer.asked)) == 40
    curves = json.loads((out / "calibration.json").read_text())["curves"]
    assert curves["type"][1][-1] > 0.95 and curves["color"][1][0] < 0.6
    [first, *_] = read_proposals(out)
    assert set(first.signals) >= {"agreement.type", "agreement.color"}
    assert first.confidence == pytest.approx(curves["color"][1][0])
    assert "At confidence 0.8, " in (out / "calibration.html").read_text()
    said = capsys.readouterr().out
    assert "what a confidence is worth" in said
    assert said.count("! nano:qwen2_5_vl knows only the products of the nano catalogue") == 1


def test_of_the_variants_of_one_product_one_is_asked_to_calibrate(small_catalogue, tmp_path):
    folder = shutil.copytree(small_catalogue, tmp_path / "variants")
    rows = [row | {"parent_id": f"product-{i % 5}"} for i, row in enumerate(rows_of(folder))]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    untitled: list[Path] = []

    def answer(catalogue: Path, answers: Path) -> Plan:
        untitled.append(catalogue)
        raise InterruptedError

    source, said = load_catalogue(folder, check_images=True), []
    with pytest.raises(InterruptedError):
        calibrate(source, Mock(), out=tmp_path / "out", items=40, checkpoint=None, answer=answer, say=said.append)
    parents = {row["item_id"]: row["parent_id"] for row in rows}
    assert sorted(parents[row["item_id"]] for row in rows_of(untitled[0])) == [f"product-{i}" for i in range(5)]
    assert said == ["calibrating on 5 products with a known title"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("null", "data.catalogue: is required and missing"),
        ("[]", "data.catalogue: is required and missing"),
        ("{catalogue: [a]}", r"data.catalogue: input should be a valid string, found \['a'\]"),
        ("{catalogue: shop, held_out: x}", "data.held_out: input should be a valid number, found 'x'"),
        ("{catalogue: shop, held_out: .nan}", "data.held_out: input should be less than 1, found nan"),
    ],
)
def test_which_items_a_run_trained_on_is_read_from_its_configuration_or_refused_in_words(
    small_catalogue, tmp_path, data, problem
):
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(f"data: {data}\n")
    source = load_catalogue(small_catalogue, check_images=True)
    with pytest.raises(ConfigError, match=f"run/config.yaml: {problem}"):
        calibrate(source, Mock(), out=tmp_path, items=3, checkpoint=checkpoint, answer=Mock(), say=print)


def test_on_the_hard_catalogue_a_calibrated_gate_holds_back_the_types_that_no_policy_has_seen(
    make_config, tmp_path, monkeypatch
):
    folder = build_catalogue(tmp_path / "hard", num_items=90, seed=3, hard=True)
    rows = rows_of(folder)
    types = {row["item_id"]: row["attributes"]["type"] for row in rows}
    untitled = [row | {"title": None, "attributes": None} if i % 4 == 0 else row for i, row in enumerate(rows)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in untitled))

    class Knows(Writer):
        """Right and sure of all types, but of those it has never seen half sure and wrong."""

        def generate(self, rows, sampling) -> list[str]:
            guess = ("drum", "drum", "camera")[sampling.seed]
            seen = [guess if types[row.item_id] in UNSEEN["type"] else types[row.item_id] for row in rows]
            return [TASKS[row.task].answer(f"{what} {row.item_id}") for row, what in zip(rows, seen, strict=True)]

    monkeypatch.setattr("grpo_mmpc.rollout.engines.offline_engine", lambda *_, **__: nullcontext(Knows()))
    config, out = make_config(gate={"confidence": 0.4}), tmp_path / "out"  # lets half pass, but not what it is worth
    complete_catalogue(config, catalogue=folder, out=out, checkpoint=None, samples=2, calibrate_on=60)
    proposals = list(read_proposals(out))
    held = [one.value for one in proposals if one.status == "review"]
    assert held == [f"drum {one.item_id}" for one in proposals if types[one.item_id] in UNSEEN["type"]]
    assert (len(proposals), len(held)) == (23, 6)
    # Of 60 items 11 are wrong. With half an answer more at both ends: .5 / 12 and 49.5 / 50.
    curve = json.loads((out / "calibration.json").read_text())["curves"]["type"]
    assert curve == [[0.0, 0.5, 1.0], pytest.approx([0.5 / 12, 0.5 / 12, 49.5 / 50])]


def test_an_audit_lists_titles_that_the_image_denies_and_changes_nothing(
    make_config, gappy, tmp_path, monkeypatch, capsys
):
    before = (gappy / "items.jsonl").read_bytes()
    both = [row for row in rows_of(gappy) if row["title"] and row["image"]]
    color = both[0]["attributes"]["color"]
    other = next(row["attributes"]["color"] for row in rows_of(gappy) if row["attributes"]["color"] != color)

    class Reader(Writer):
        def generate(self, rows, sampling) -> list[str]:
            self.asked += [row.item_id for row in rows]
            wrong = rows[0].item_id == both[0]["item_id"]
            return [TASKS[row.task].answer(f"{other} thing" if wrong else "thing") for row in rows]

    reader = Reader()
    monkeypatch.setattr("grpo_mmpc.rollout.engines.offline_engine", lambda *_, **__: nullcontext(reader))
    out = tmp_path / "audit"
    audit_catalogue(make_config(), catalogue=gappy, out=out, checkpoint=None, samples=2)
    assert set(reader.asked) == {row["item_id"] for row in both}
    [line] = map(json.loads, (out / "audit.jsonl").read_text().splitlines())
    assert (line["item_id"], line["title_says"], line["image_says"]) == (both[0]["item_id"], [color], [other])
    assert line["confidence"] == 1.0
    assert "titles that contradict something: 1" in capsys.readouterr().out
    assert (gappy / "items.jsonl").read_bytes() == before
    again = Reader(dies_after=0)
    (out / f".audit.jsonl.{2**30}-0.partial").touch()  # of a process that was killed
    audit_catalogue(make_config(), catalogue=gappy, out=out, checkpoint=None, samples=2)
    assert again.asked == [] and not list(out.glob(".audit.*"))
    with pytest.raises(CatalogueError, match="holds something else than an audit"):
        audit_catalogue(make_config(), catalogue=gappy, out=gappy, checkpoint=None, samples=2)


def test_a_calibration_of_other_samples_is_not_used_and_that_is_said(fill, capsys):
    fill(Sampler(), samples=1)
    out = fill(Sampler(), samples=2)
    (out / "calibration.json").write_text(
        json.dumps({"policy": "another", "samples": 2, "items": 1, "curves": {"": [[0.0], [0.1]]}})
    )
    capsys.readouterr()
    [first, *_] = read_proposals(fill(Sampler(), samples=2))
    assert first.confidence == 0.5  # of the two samples one is blue
    assert "is of another policy" in capsys.readouterr().out
