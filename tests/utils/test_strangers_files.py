"""Files of a folder from somebody else: nothing outside it is read or written, nothing hangs."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_mmpc.ablation.results import prompts_by_step
from grpo_mmpc.analysis.replay.rollouts import COLUMNS, read_batches
from grpo_mmpc.cli import main
from grpo_mmpc.completion.apply import apply_decisions
from grpo_mmpc.completion.part import Part
from grpo_mmpc.errors import EvaluationError, GrpoMmpcError, RecBenchError
from grpo_mmpc.evaluation.completions import CompletionLog
from grpo_mmpc.evaluation.evaluation_folder import read_evaluation
from grpo_mmpc.evaluation.prediction_files import read_predictions
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.recbench.cells import read_cell
from grpo_mmpc.recbench.results import read_results
from grpo_mmpc.rendering.store import render_into
from grpo_mmpc.reports.catalogue.review_entries import Review
from grpo_mmpc.reports.common.gallery import read_items
from grpo_mmpc.reports.watch.newest import newest_groups
from grpo_mmpc.training.checkpoint import damage
from grpo_mmpc.utils import parquet
from grpo_mmpc.utils.files import append_json_lines, open_own, read_json_lines, read_object, read_own
from grpo_mmpc.utils.locks import hold
from tests.completion.completed import write_completed
from tests.evaluation.test_run_comparison import evaluate
from tests.rendering.own_renderers import PlainRenderer

SECRET = '{"token": "secret"}\n'
NO_FILE = r"which is no file of|is no regular file"


def outside(path: Path) -> Path:
    """Return the folder of the victim's file, in which the stranger's folder lies."""
    return next(folder for folder in path.parents if (folder / "victim.txt").exists())


def linked(path: Path) -> None:
    path.symlink_to(outside(path) / "victim.txt")


def linked_to_nothing(path: Path) -> None:
    path.symlink_to(outside(path) / "absent.txt")


def linked_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


WAYS_OUT = pytest.mark.parametrize("instead", [linked, linked_to_nothing, linked_to_zeros, os.mkfifo])
UNREADABLE = pytest.mark.parametrize("instead", [linked, linked_to_zeros, os.mkfifo])


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    (tmp_path / "victim.txt").write_text(SECRET)
    return tmp_path / "victim.txt"


def held(path: Path) -> None:
    with hold(path, refuse=RuntimeError):
        pass


@WAYS_OUT
@pytest.mark.parametrize(
    "use", [read_own, open_own, read_object, read_json_lines, lambda path: append_json_lines(path, [{"a": 1}]), held]
)
def test_every_reader_and_writer_refuses_what_is_no_file_of_the_folder(
    victim: Path, instead: Callable[[Path], None], use: Callable[[Path], object]
) -> None:
    folder = victim.parent / "folder"
    folder.mkdir()
    instead(folder / "file")
    with pytest.raises(OSError, match=NO_FILE):
        use(folder / "file")
    assert victim.read_text() == SECRET and not (victim.parent / "absent.txt").exists()


def test_a_link_to_another_file_of_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "same.jsonl").symlink_to("rows.jsonl")
    append_json_lines(tmp_path / "same.jsonl", [{"a": 2}])
    assert read_json_lines(tmp_path / "rows.jsonl") == [{"a": 1}, {"a": 2}]


@UNREADABLE
@pytest.mark.parametrize("name", ["items.jsonl", "proposals.jsonl", "decisions.jsonl", "reviewed.json"])
@pytest.mark.parametrize("is_review", [True, False])
def test_a_review_reads_and_writes_only_files_of_the_completed_folder(
    victim: Path, instead: Callable[[Path], None], name: str, is_review: bool
) -> None:
    folder = write_completed(victim.parent / "completed")
    (folder / name).unlink(missing_ok=True)
    instead(folder / name)
    with pytest.raises((OSError, GrpoMmpcError), match=f"{NO_FILE}|has no {name}"):
        Review(folder) if is_review else apply_decisions(folder, victim.parent / "out")
    assert victim.read_text() == SECRET


@pytest.mark.parametrize("name", ["images", "images/generated"])
def test_folders_that_lead_out_of_a_completion_are_neither_written_nor_emptied(victim: Path, name: str) -> None:
    folder, out = write_completed(victim.parent / "completed"), victim.parent / "out"
    apply_decisions(folder, out, undecided="keep")
    elsewhere = victim.parent / "elsewhere"
    (out / name).rename(elsewhere)
    (out / name).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(OSError, match=NO_FILE):
        apply_decisions(folder, out)
    with pytest.raises(OSError, match=NO_FILE), Part(out, 0, 1).alone():
        pass
    assert sorted(elsewhere.rglob("*")) == before


@WAYS_OUT
def test_renders_are_recorded_in_no_file_outside_their_folder(victim: Path, instead: Callable[[Path], None]) -> None:
    folder = victim.parent / "images"
    folder.mkdir()
    instead(folder / "renders.jsonl")
    with pytest.raises(OSError, match=NO_FILE):
        render_into(folder, PlainRenderer(), {"1": "a mug"}, identity="plain")
    assert [path.name for path in folder.iterdir()] == ["renders.jsonl"] and victim.read_text() == SECRET


JSON: dict[str, Callable[[Path], object]] = {
    "completions.jsonl": lambda folder: CompletionLog(folder / "completions.jsonl"),
    "results.json": read_results,
    "checksums.json": damage,
}


@pytest.mark.parametrize("name", JSON)
def test_other_files_that_lead_out_of_their_folder_are_refused(victim: Path, name: str) -> None:
    folder = victim.parent / "titles"
    folder.mkdir()
    linked(folder / name)
    with pytest.raises((OSError, RecBenchError), match=NO_FILE):
        JSON[name](folder)


# --- Parquet


SAMPLES: list[Callable[[Path], object]] = [
    read_evaluation,
    lambda folder: read_predictions(folder, task="image_to_text", set_aside=[]),
    lambda folder: read_items({"base": folder / "samples.parquet"}, task="image_to_text", metric="bleu"),
]


@UNREADABLE
@pytest.mark.parametrize("read", SAMPLES)
def test_samples_are_read_from_the_evaluation_alone(
    victim: Path, instead: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    folder = evaluate(victim.parent / "run", "base", 0.5)
    (folder / "samples.parquet").unlink()
    instead(folder / "samples.parquet")
    with pytest.raises((OSError, EvaluationError), match=f"{NO_FILE}|holds no predictions"):
        read(folder)


@UNREADABLE
def test_compare_refuses_in_words_what_it_would_wait_for(
    victim: Path, instead: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [evaluate(victim.parent / "run", name, 0.5).parent for name in ("base", "final")]
    (folders[1] / "cqbench" / "samples.parquet").unlink()
    instead(folders[1] / "cqbench" / "samples.parquet")
    assert main(["compare", *map(str, folders)]) == 2
    said = capsys.readouterr().err
    assert "samples.parquet" in said and ("no regular file" in said or "no file of" in said)


def cell(folder: Path) -> object:
    (folder / "cells").mkdir(exist_ok=True)
    (folder / "cells" / "key.json").write_text('{"means": {}, "parameters": {}, "device": "cpu", "users": 1}')
    (folder / "step-1.parquet").rename(folder / "cells" / "key.parquet")
    return read_cell(folder, "key")


ROLLOUTS: list[Callable[[Path], object]] = [
    lambda folder: list(read_batches([folder / "step-1.parquet"])),
    lambda folder: newest_groups(folder / "step-1.parquet"),
    lambda folder: prompts_by_step(folder.parent),
    cell,
]


@UNREADABLE
@pytest.mark.parametrize("read", ROLLOUTS)
def test_rollouts_and_cells_are_files_of_their_folder(
    victim: Path, instead: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    folder = victim.parent / "run" / "rollouts"
    folder.mkdir(parents=True)
    instead(folder / "step-1.parquet")
    with pytest.raises((OSError, EvaluationError, RecBenchError), match=NO_FILE):
        read(folder)


def test_folders_of_a_run_that_lead_out_of_it_are_not_read(victim: Path) -> None:
    run, other = victim.parent / "run", victim.parent / "other"
    evaluate(run, "base", 0.5)
    evaluate(other, "final", 0.5)
    (run / "evaluations" / "final").symlink_to(other / "evaluations" / "final")
    notes: list[str] = []
    assert list(RunFolder(run, notes=notes).evaluations) == ["base"]
    assert any("the evaluation of final is left out" in note for note in notes)
    (other / "rollouts").mkdir()
    pq.write_table(pa.table({"prompt_id": ["p"]}), other / "rollouts" / "step-1.parquet")
    (run / "rollouts").symlink_to(other / "rollouts")
    for read in (prompts_by_step, lambda run: list(read_batches(RunFolder(run).rollout_files))):
        with pytest.raises((OSError, EvaluationError), match=NO_FILE):
            read(run)


@pytest.mark.parametrize("name", ["../../x", "/etc", "..", "", "a/b"])
def test_the_best_checkpoint_is_a_name_in_the_run(tmp_path: Path, name: str) -> None:
    best = f'{{"checkpoint": "{name}", "metric": "x.y", "values": {{}}, "num_items": 2, "items": 0.5}}'
    (tmp_path / "best.json").write_text(best)
    notes: list[str] = []
    run = RunFolder(tmp_path, notes=notes)
    assert run.best is None and run.reported is None
    assert any("is not the name of a folder in the run); remove it" in note for note in notes)


ROWS = 20_000


def repeated(text: str, count: int = ROWS) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


LARGE: dict[str, pa.Array] = {
    "a text": repeated("m" * 10_000),
    "a text after none": pa.DictionaryArray.from_arrays(pa.array([None] + [0] * ROWS, pa.int32()), ["m" * 10_000]),
    "texts in lists": pa.ListArray.from_arrays(list(range(ROWS + 1)), repeated("m" * 10_000)),
    "texts in structures": pa.StructArray.from_arrays([repeated("m" * 10_000)], ["a"]),
    "texts in maps": pa.MapArray.from_arrays(list(range(ROWS + 1)), repeated("k"), repeated("m" * 10_000)),
    "one row of numbers": pa.ListArray.from_arrays([0, 2_000_000], pa.array([0.0]).take(pa.array([0] * 2_000_000))),
    "many rows": repeated("m", 2_000_000),
    "beginnings that neighbours share": pa.array(["m" * 10_000] * ROWS),
}


@pytest.mark.parametrize("kind", LARGE)
def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_FREE_BYTES", 4_000_000)
    path = tmp_path / "step-1.parquet"
    shared = {"use_dictionary": False, "column_encoding": {"cells": "DELTA_BYTE_ARRAY"}} if "share" in kind else {}
    pq.write_table(pa.table({"cells": LARGE[kind]}), path, compression="zstd", store_schema=False, **shared)
    assert path.stat().st_size < 40_000
    seen, packed, before = [0], parquet._packed, pa.total_allocated_bytes()

    def noted(columns: Iterable[pa.Array]) -> Iterator[pa.DictionaryArray]:
        seen.append(pa.total_allocated_bytes())
        return packed(columns)

    monkeypatch.setattr(parquet, "_packed", noted)
    with pytest.raises(OSError, match="unpacks to more than 100 times its size"):
        parquet.open_parquet(path).read()
    assert max(seen) - before < 40_000_000


@pytest.mark.parametrize(
    "read", [*SAMPLES[:3], lambda folder: list(read_batches([folder / "samples.parquet"])), lambda f: newest_of(f)]
)
def test_every_reader_of_samples_and_rollouts_has_that_bound(
    tmp_path: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_FREE_BYTES", 4_000_000)
    folder = evaluate(tmp_path / "run", "base", 0.5)
    texts = {name: repeated("m" * 10_000) for name in {*COLUMNS, "reference", "image_path", "rendered_image", "group"}}
    columns = texts | {"score/bleu": [0.5] * ROWS, "step": [1] * ROWS, "advantage": [0.0] * ROWS}
    columns |= {"task": repeated("image_to_text"), "item_id": [f"i{number}" for number in range(ROWS)]}
    pq.write_table(pa.table(columns), folder / "samples.parquet", store_schema=False)
    with pytest.raises((OSError, EvaluationError), match="unpacks to more than 100 times its size"):
        read(folder)


def newest_of(folder: Path) -> object:
    return newest_groups(folder / "samples.parquet")


@pytest.mark.parametrize("view", [pa.string_view(), pa.list_(pa.string_view()), pa.json_()])
def test_a_table_is_read_as_it_was_written(tmp_path: Path, view: pa.DataType) -> None:
    table = pa.table(
        {
            "s.t": ["x", None, "y"],
            "large": pa.array(["x", None, "y"], pa.large_string()),
            "bytes": [b"x", None, b"\xff"],
            "category": pa.array(["x", None, "y"]).dictionary_encode(),
            "l": [["a", None], None, []],
            "m": pa.array([[("k", "v")], None, []], pa.map_("string", "string")),
            "st": [{"a": "x", "n": 1}, None, {"a": None, "n": 2}],
            "none": pa.nulls(3, pa.string()),
            "n": [1.5, None, 2.0],
            "view": pa.array([["a"], None, []] if pa.types.is_list(view) else ["1", None, "2"], view),
        }
    )
    pq.write_table(table, tmp_path / "table.parquet")
    read = parquet.open_parquet(tmp_path / "table.parquet")
    assert read.read().to_pylist() == table.to_pylist()
    assert read.read().schema.types == pq.read_table(tmp_path / "table.parquet").schema.types
    assert read.read(["n", "s.t"]).column_names == ["n", "s.t"]
    assert [len(batch) for batch in read.batches(["m"], size=2)] == [2, 1]
    with pytest.raises(KeyError, match="no column nowhere"):
        read.read(["nowhere"])


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_are_read_in_every_encoding_and_columns_that_must_have_a_value_stay_so(tmp_path: Path, encoding) -> None:
    schema = pa.schema([pa.field("title", pa.string(), nullable=False), pa.field("n", pa.int64())])
    table = pa.table({"title": [f"mug {i}" for i in range(40)], "n": list(range(40))}, schema)
    file = tmp_path / "table.parquet"
    pq.write_table(table, file, use_dictionary=False, column_encoding={"title": encoding, "n": "PLAIN"})
    assert parquet.open_parquet(file).read().equals(table)


def test_images_inside_a_table_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_FREE_BYTES", 10_000_000)
    images = [{"bytes": bytes([i]) * 100_000, "path": f"{i}.jpg"} for i in range(200)]
    pq.write_table(pa.table({"image": images}), tmp_path / "items.parquet", compression="none")
    batches = list(parquet.open_parquet(tmp_path / "items.parquet").batches(size=256))
    assert sum(map(len, batches)) == 200 and max(map(len, batches)) <= 100


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["task", "task"])
    pq.write_table(table, tmp_path / "step-1.parquet")
    with pytest.raises(EvaluationError, match="names the column task more than once"):
        list(read_batches([tmp_path / "step-1.parquet"]))
