"""A cell of the benchmark: a recommender trained on one category, fill and seed, and its scores.

A cell is known by everything its result depends on, inputs by content: finished cells are found
again after a kill, by other rates and by other checkpoints, and cells of different runs share a
folder.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import BadZipFile

import numpy as np

from grpo_mmpc.errors import RecBenchError, first_line
from grpo_mmpc.recbench.records import MONITOR, Floats, ItemFeatures, Mode, Pairs, Split, TrainingSettings
from grpo_mmpc.utils.console import Say
from grpo_mmpc.utils.files import read_own, replace_atomically, write_json
from grpo_mmpc.utils.hashing import hex_digest, json_digest
from grpo_mmpc.utils.parquet import open_parquet

VERSION = 3
"""Raised whenever the same cell would be scored differently."""

SPLITS, FEATURES, CELLS = "splits", "features", "cells"
"""Folders of the benchmark's work folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommenderCell:
    """The inputs of one training; paths are names inside the work folder."""

    category: str
    recommender: str
    split: str
    text: str | None
    """Features of the items; None where the recommender does not get them."""
    image: str | None
    seed: int
    mode: Mode
    """In paper mode the grid point is chosen on the test part, validation items are ranked in the
    test, and recommenders are built with the flaws of the official code."""
    grid: tuple[Mapping[str, Any], ...]
    """Arguments of the recommender, one mapping for each point."""
    training: TrainingSettings

    @property
    def key(self) -> str:
        """The hash of everything that the result depends on."""
        content = {"version": VERSION, **asdict(self)}
        return json_digest(content, size=10)


def save_split(folder: Path, split: Split) -> str:
    """Write a split into the work folder; return its name, which is that of its content."""
    arrays = {
        "user_ids": np.array(split.user_ids, dtype=np.str_),
        "item_ids": np.array(split.item_ids, dtype=np.str_),
        **{f"{part}_{side}": getattr(getattr(split, part), side) for part in _PARTS for side in ("users", "items")},
    }
    parts = (part for name, array in arrays.items() for part in (name, array.tobytes(), str(array.dtype)))
    path = folder / SPLITS / f"{hex_digest(*parts, size=10)}.npz"
    try:
        load_split(folder, path.name)
    except RecBenchError:  # not there, or damaged
        with replace_atomically(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
    return path.name


def save_features(folder: Path, features: Floats) -> str:
    """Write features ``[I, D]`` into the work folder; return their name, that of their content.

    Raises:
        RecBenchError: They are not finite: a NaN would rank first in every neighbourhood.
    """
    if not np.isfinite(features).all():
        rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise RecBenchError(
            f"features of {len(rows)} items are not finite, the first at row {rows[0]}; fill them first"
        )
    values = np.ascontiguousarray(features, dtype=np.float32)
    path = folder / FEATURES / f"{hex_digest(f'{values.shape}', values.tobytes(), size=10)}.npy"
    try:
        np.load(path, mmap_mode="r")  # also tells a file that is too short
    except (OSError, EOFError, ValueError):
        with replace_atomically(path) as partial, partial.open("wb") as file:
            # Into a file itself NumPy writes without telling why it failed.
            np.save(SimpleNamespace(write=file.write), values)
    return path.name


def load_split(folder: Path, name: str) -> Split:
    """Read a split back."""
    with _readable(folder / SPLITS / name) as path, np.load(path) as arrays:
        parts = {part: Pairs(users=arrays[f"{part}_users"], items=arrays[f"{part}_items"]) for part in _PARTS}
        return Split(user_ids=tuple(arrays["user_ids"].tolist()), item_ids=tuple(arrays["item_ids"].tolist()), **parts)


def finished(folder: Path, key: str, *, say: Say = lambda _: None) -> bool:
    """Return whether a cell's result is there and whole; tell of one that is damaged."""
    path = folder / CELLS / f"{key}.json"
    if not path.exists():
        return False
    try:
        read_cell(folder, key)
    except RecBenchError as error:
        say(f"{error}: it is run again")
        return False
    return True


def run_cell(folder: Path, cell: RecommenderCell, *, device: str = "cpu") -> None:
    """Train, choose and test; write users' scores, ``cells/KEY.parquet``, and ``KEY.json``.

    Raises:
        RecBenchError: The recommender cannot be trained on this.
    """
    # heavy: imported on use
    import torch

    from grpo_mmpc.recbench.ranking import FullSort
    from grpo_mmpc.recbench.ranking_metrics import user_scores
    from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS
    from grpo_mmpc.recbench.training import fit

    started = time.monotonic()
    split, features = _inputs(folder, cell.split, cell.text, cell.image)
    spec = RECOMMENDERS[cell.recommender]
    seen = [split.train] if cell.mode == "paper" else [split.train, split.validation]
    tested = FullSort(
        targets=split.test, seen=seen, num_users=split.num_users, num_items=split.num_items, seed=cell.seed
    )
    tried: list[dict[str, Any]] = []
    best: tuple[float, dict[str, Any], Mapping[str, Any]] | None = None
    for point in cell.grid:
        generator = torch.Generator(device="cpu").manual_seed(cell.seed)
        model = spec.build(split, features, generator=generator, device=device, mode=cell.mode, **point)
        try:
            fitted = fit(model, split, settings=cell.training, monitor=MONITOR, seed=cell.seed, device=device)
        except RecBenchError as error:
            # One point of a grid may diverge where another does not.
            tried.append({"parameters": dict(point), "failed": str(error)})
            continue
        scores = user_scores(tested.ranks(fitted.embeddings), target_users=split.test.users)
        report: dict[str, Any] = {
            "parameters": dict(point),
            "best_epoch": fitted.best_epoch,
            "epochs": fitted.epochs,
            "validation": fitted.validation,
            "test": float(np.mean(scores[MONITOR])),
        }
        tried.append(report)
        # The flaw of the official protocol: it looks at the test part to choose what is tested.
        value = report["test"] if cell.mode == "paper" else report["validation"]
        if best is None or value > best[0]:
            best = value, report, scores
    about = {"device": device, "torch": torch.__version__, "seconds": round(time.monotonic() - started, 3)}
    if best is None:
        raise RecBenchError("; ".join(f"{one['parameters']}: {one['failed']}" for one in tried))
    _write(folder / CELLS, cell, split, best[2], report=best[1], tried=tried, about=about)


def read_cell(folder: Path, key: str, *, columns: Sequence[str] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a finished cell: its JSON, and a column ``[V]`` for each metric and for ``user_id``.

    Raises:
        RecBenchError: It is not there, or is damaged.
    """
    with _readable(folder / CELLS / f"{key}.json") as path:
        record = json.loads(read_own(path))
        lacking = {"means", "parameters", "device", "users"} - {*record}
        if lacking:
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    with _readable(path.with_suffix(".parquet")) as path:
        table = open_parquet(path).read(columns)
        if len(table) != record["users"]:
            raise ValueError(f"{len(table)} users instead of {record['users']}")
    return record, {name: table.column(name).to_numpy() for name in table.column_names}


_PARTS = ("train", "validation", "test")


@lru_cache(maxsize=4)
def _inputs(folder: Path, split: str, text: str | None, image: str | None) -> tuple[Split, ItemFeatures]:
    """Load the inputs of a cell; kept, since a worker runs many cells of a category in turn."""
    loaded: dict[str, Floats | None] = {"text": None, "image": None}
    for modality, name in (("text", text), ("image", image)):
        if name is not None:
            with _readable(folder / FEATURES / name) as path:
                loaded[modality] = np.load(path)
    return load_split(folder, split), ItemFeatures(**loaded)


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError, BadZipFile) as error:
        raise RecBenchError(f"{path}: missing or damaged ({first_line(error)})") from error


def _write(
    folder: Path,
    cell: RecommenderCell,
    split: Split,
    scores: Mapping[str, Any],
    *,
    report: Mapping[str, Any],
    tried: list[dict[str, Any]],
    about: Mapping[str, Any],
) -> None:
    import pyarrow as pa  # heavy: imported on use
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    users = np.unique(split.test.users)
    columns = {"user_id": [split.user_ids[user] for user in users]} | {
        name: np.asarray(values, dtype=np.float32) for name, values in scores.items()
    }
    with replace_atomically(folder / f"{cell.key}.parquet") as partial:
        pq.write_table(pa.table(columns), partial)
    record = {
        "cell": asdict(cell),
        **report,
        "tried": tried,
        "means": {name: float(np.mean(values)) for name, values in scores.items()},
        "users": len(users),
        **about,
    }
    # Last: a cell is finished when this file is there.
    write_json(folder / f"{cell.key}.json", record)
