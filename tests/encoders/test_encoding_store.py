"""Encodings on disk: found by content, bounded, shared by processes, and never in the way."""

import logging
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_mmpc.encoders import store as module
from grpo_mmpc.encoders.bertscore import BertScoreEncoder, bertscore_encoder
from grpo_mmpc.encoders.clip import ClipEncoder
from grpo_mmpc.encoders.sentence import SentenceEncoder
from grpo_mmpc.encoders.store import EncodingStore, encoder_identity, encoding_store
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()

GB = 2**30
REFERENCES = ["Acme Cotton Tote Bag, Red", "Steel Water Bottle 12oz", "Café Naïve Größe حقيبة", ""]
PREDICTIONS = ["a red bag", "a bottle", "size", "nothing"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "encodings.sqlite"


def open_store(path: Path, *, max_bytes: int = GB) -> EncodingStore:
    return EncodingStore(path=path, max_bytes=max_bytes)


def rows_in(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        count: int = connection.execute("SELECT count(*) FROM encodings").fetchone()[0]
    return count


def bertscore(path: Path, **options: Any) -> BertScoreEncoder:
    return BertScoreEncoder(model="nano:minilm", num_layers=2, store=open_store(path), **options)


def test_a_later_process_finds_what_an_earlier_one_wrote_bit_for_bit(path: Path) -> None:
    rows = {f"text {i}".encode(): torch.randn(3, 5) for i in range(1200)}  # more keys than one query takes
    open_store(path).of(b"encoder").write(rows)
    found = open_store(path).of(b"encoder").read([*rows, b"unknown"])
    assert found[-1] is None
    for row, expected in zip(found, rows.values(), strict=False):
        assert row is not None
        assert torch.equal(row.view(3, 5), expected)


def test_encoders_do_not_see_each_others_encodings(path: Path) -> None:
    store = open_store(path)
    store.of(b"one").write({b"text": torch.ones(2)})
    assert store.of(b"other").read([b"text"]) == [None]


def test_the_least_recently_used_go_first_when_the_file_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = 86_400
    monkeypatch.setattr(module.time, "time", lambda: 10.0 * day)
    stored = open_store(path, max_bytes=2**20).of(b"encoder")
    stored.write({b"%d" % i: torch.zeros(25_000) for i in range(9)})  # 9 x 100 kB in 1 MiB
    monkeypatch.setattr(module.time, "time", lambda: 12.0 * day)
    assert stored.read([b"0"])[0] is not None  # used today
    stored.write({b"new %d" % i: torch.zeros(25_000) for i in range(4)})
    assert (
        path.stat().st_size < 2**20 + 4 * 100_000 + 2**16
    )  # one write above the limit at most; its room is used again
    first, second, new = stored.read([b"0", b"1", b"new 3"])
    assert first is not None
    assert second is None
    assert new is not None
    size = path.stat().st_size
    for batch in range(10):
        stored.write({b"batch %d %d" % (batch, i): torch.zeros(25_000) for i in range(4)})
    assert path.stat().st_size <= size + 2**16


def test_a_value_larger_than_the_file_may_be_is_not_kept(path: Path) -> None:
    stored = open_store(path, max_bytes=2**16).of(b"encoder")
    stored.write({b"huge": torch.zeros(100_000)})
    assert stored.read([b"huge"]) == [None]


def test_a_damaged_value_is_taken_for_absent_and_written_again(path: Path) -> None:
    open_store(path).of(b"encoder").write({b"a": torch.ones(4), b"b": torch.ones(4)})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE encodings SET value = zeroblob(16) WHERE rowid = 1")
    connection.close()
    stored = open_store(path).of(b"encoder")
    first, second = stored.read([b"a", b"b"])
    assert (first is None, second is None) == (True, False)
    stored.write({b"a": torch.ones(4)})
    assert all(row is not None for row in stored.read([b"a", b"b"]))


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file_is_started_anew(path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(damage)
    stored = open_store(path).of(b"encoder")
    with caplog.at_level(logging.WARNING, logger="grpo_mmpc"):
        assert stored.read([b"a"]) == [None]
        stored.write({b"a": torch.ones(4)})
    assert stored.read([b"a"])[0] is not None
    assert ["is damaged" in record.getMessage() for record in caplog.records] == [True]


def test_a_file_that_cannot_be_opened_is_done_without_after_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    stored = open_store(tmp_path / "folder").of(b"encoder")
    with caplog.at_level(logging.WARNING, logger="grpo_mmpc"):
        for _ in range(3):
            stored.write({b"a": torch.ones(4)})
            assert stored.read([b"a"]) == [None]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["encodings are not kept on disk"]


def test_threads_and_processes_write_at_the_same_time(path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from grpo_mmpc.encoders.store import EncodingStore\n"
        "stored = EncodingStore(path=Path(sys.argv[1]), max_bytes=2**30).of(b'encoder')\n"
        "for i in range(40): stored.write({b'%s %d' % (sys.argv[2].encode(), i): torch.full((1000,), float(i))})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in ("a", "b")]
    stored = open_store(path).of(b"encoder")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: stored.write({b"c %d" % i: torch.full((1000,), float(i))}), range(40)))
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for name in (b"a", b"b", b"c"):
        rows = stored.read([b"%s %d" % (name, i) for i in range(40)])
        assert [row is not None and row[999].item() for row in rows] == list(range(40))


def test_identity_changes_with_weights_and_options_and_with_nothing_else() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    same = torch.nn.Linear(3, 2)
    same.load_state_dict(layer.state_dict())
    identity = encoder_identity(layer, dtype="float32")
    assert encoder_identity(same, dtype="float32") == identity
    assert encoder_identity(same, dtype="bfloat16") != identity
    with torch.no_grad():
        same.bias[0] += 1e-6
    assert encoder_identity(same, dtype="float32") != identity


def test_references_come_back_from_disk_with_equal_scores_and_completions_are_never_written(path: Path) -> None:
    first = bertscore(path)
    expected = first.score(predictions=PREDICTIONS, references=REFERENCES)
    assert rows_in(path) == len(REFERENCES)
    second = bertscore(path)
    assert second.score(predictions=PREDICTIONS, references=REFERENCES) == expected
    assert (first.encoded_texts, second.encoded_texts) == (8, 4)
    assert bertscore(path, dtype="bfloat16").score(predictions=["a"], references=REFERENCES[:1]) != expected
    assert rows_in(path) == len(REFERENCES) + 1  # another precision is another encoder


def test_another_layer_is_another_encoder(path: Path) -> None:
    bertscore(path).encode_references(REFERENCES)
    other = BertScoreEncoder(model="nano:minilm", num_layers=1, store=open_store(path))
    other.encode_references(REFERENCES)
    assert other.encoded_texts == len(REFERENCES)


def test_sentence_embeddings_of_references_come_back(path: Path) -> None:
    encoders = [SentenceEncoder(model="nano:minilm", store=open_store(path)) for _ in range(2)]
    cosines = [e.cosine(predictions=PREDICTIONS, references=REFERENCES) for e in encoders]
    assert cosines[0] == cosines[1]
    assert [e._texts.encoded_texts for e in encoders] == [8, 4]


def test_image_files_are_known_by_their_bytes_and_renders_are_never_written(path: Path, tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.fromarray(np.full((40, 40, 3), 255, np.uint8)).convert("RGB").save(tmp_path / name)
        Image.new("RGB", (30, 30), colour).save(tmp_path / name)
    real = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    first = ClipEncoder(model="nano:clip", store=open_store(path))
    expected = first.image_text(image_paths=real, texts=["red bag", "blue mug"])
    first.image_image(image_paths=real, other_paths=[Image.new("RGB", (30, 30), "green")] * 2)
    assert rows_in(path) == 2
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    second = ClipEncoder(model="nano:clip", store=open_store(path))
    second._images._encode = None  # type: ignore[assignment]  # nothing is left to encode
    moved = [str(tmp_path / "copy.png"), real[1]]
    assert second.image_text(image_paths=moved, texts=["red bag", "blue mug"]) == expected


def test_the_store_lies_in_the_cache_folder_and_one_variable_switches_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path))
    monkeypatch.setenv("GRPO_MMPC_ENCODINGS_GB", "0")
    assert encoding_store() is None
    monkeypatch.setenv("GRPO_MMPC_ENCODINGS_GB", "two")
    with pytest.raises(ScoringError, match="GRPO_MMPC_ENCODINGS_GB='two' is not a number"):
        encoding_store()
    monkeypatch.delenv("GRPO_MMPC_ENCODINGS_GB")
    store = encoding_store()
    assert store is not None
    assert store is encoding_store()
    bertscore_encoder(model="nano:minilm", num_layers=1, device="cpu").encode_references(REFERENCES)
    assert rows_in(tmp_path / "encodings" / "encodings.sqlite") == len(REFERENCES)
