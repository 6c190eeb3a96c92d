"""A catalogue with gaps, and its completion by a stand-in for a policy."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from grpo_mmpc.pipelines.complete import ONE_A_DEVICE, Workers, complete_catalogue
from tests.pipelines.writer import Writer


@pytest.fixture
def gappy(small_catalogue, tmp_path) -> Path:
    """Nine items of the nano catalogue: three without title, three without image, three whole."""
    folder = tmp_path / "gappy"
    folder.mkdir()
    rows = [json.loads(line) for line in (small_catalogue / "items.jsonl").read_text().splitlines()[:9]]
    for i, row in enumerate(rows):
        (folder / row["image"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["image"]).write_bytes((small_catalogue / row["image"]).read_bytes())
        row["shelf"] = f"A{i}"
        if i % 3 == 0:
            row["title"] = None
        if i % 3 == 1:
            row["image"] = None
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "interactions.jsonl").write_text('{"user_id": "u", "item_id": "i", "timestamp": 1, "rating": 5}\n')
    return folder


@pytest.fixture
def fill(make_config, gappy, tmp_path, monkeypatch):
    def run(
        writer: Writer,
        *,
        workers: Workers = ONE_A_DEVICE,
        model=None,
        siblings: bool = True,
        samples: int = 0,
        gate=None,
        overwrite: bool = False,
        **evaluation,
    ) -> Path:
        @contextmanager
        def engine(config, *, checkpoint):
            yield writer

        monkeypatch.setattr("grpo_mmpc.rollout.engines.offline_engine", engine)
        config = make_config(evaluation=evaluation, model=model or {}, gate=gate or {})
        out = tmp_path / "filled"
        complete_catalogue(
            config,
            catalogue=gappy,
            out=out,
            checkpoint=None,
            workers=workers,
            siblings=siblings,
            samples=samples,
            overwrite=overwrite,
        )
        return tmp_path / "filled"

    return run
