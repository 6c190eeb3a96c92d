"""Predictions and references, read from the files of any system."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from grpo_mmpc.catalogue import catalogue_groups, load_catalogue
from grpo_mmpc.catalogue.images import find_moved_image
from grpo_mmpc.errors import EvaluationError, ImageError
from grpo_mmpc.evaluation.evaluation_folder import (
    FURTHER,
    SAMPLES_FILE,
    SUMMARY_FILE,
    check_columns,
    check_unique,
    find_evaluation,
    read_attributes,
)
from grpo_mmpc.evaluation.official_layout import TITLES_FOLDER, is_official, read_official_images, read_official_titles
from grpo_mmpc.evaluation.predictions import UNCATEGORISED, Prediction, Predictions, Reference
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.files import JsonLine, json_lines, read_object
from grpo_mmpc.utils.parquet import open_parquet
from grpo_mmpc.utils.sections import section

T = TypeVar("T")


def read_predictions(source: Path, *, task: str, webp: bool = True, set_aside: list[str]) -> Predictions:
    """Read predictions from JSON lines, an evaluation folder or a folder in the official layout.

    ``image_to_text`` reads titles, ``text_to_image`` prompts and images, WebP ones if ``webp``.
    Rows that cannot be used are added to ``set_aside``: file, line, reason, remedy.

    Raises:
        EvaluationError: It is none of the three, or nothing in it can be used.
    """
    if source.is_file():
        return _predictions_of_lines(source, task=task, set_aside=set_aside)
    if not source.exists():
        raise EvaluationError(f"{source} does not exist (looked from {Path.cwd()}); correct the path")
    if is_evaluation(source):  # first: an evaluation has a folder of images too
        return _predictions_of_evaluation(find_evaluation(source), task=task)
    if is_official(source):
        return _official_predictions(source, task=task, webp=webp, set_aside=set_aside)
    models = sorted(path.name for path in source.iterdir() if path.is_dir() and is_official(path))
    if models:
        raise EvaluationError(
            f"{source} holds the outputs of {len(models)} models ({', '.join(models)}); "
            f"name one, such as {source / models[0]}"
        )
    raise EvaluationError(
        f"{source} holds no predictions: expected a file of JSON lines, an evaluation folder with {SAMPLES_FILE}, or a "
        f"model's folder with {TITLES_FOLDER}/CATEGORY.tsv or CATEGORY/ITEM_ID.jpg"
    )


def is_evaluation(source: Path) -> bool:
    """Return whether a path is an evaluation folder, or one that holds evaluation folders."""
    return (source / SAMPLES_FILE).is_file() or (source.is_dir() and any(source.glob(f"*/{SAMPLES_FILE}")))


def read_references(source: Path, *, task: str, set_aside: list[str], grouped: bool = False) -> list[Reference]:
    """Read references from a file of JSON lines, a catalogue folder or an evaluation folder.

    Items of a catalogue that lack the title are left out: there is nothing to judge by. Rows that
    cannot be used are added to ``set_aside``. ``grouped`` looks for near-duplicates and variants.

    Raises:
        EvaluationError: Nothing in the file can be used.
        CatalogueError: The folder is no catalogue.
    """
    if source.is_file():
        return _references_of_lines(source, set_aside=set_aside)
    if is_evaluation(source):
        return _references_of_evaluation(find_evaluation(source), task=task)
    catalogue = load_catalogue(source, check_images=False)
    references = []
    names = catalogue_groups(catalogue) if grouped else {}
    for record in catalogue.records():
        if record.title is None:
            continue
        try:
            image = catalogue.image_path(record)
        except ImageError:
            image = None
        references.append(
            Reference(
                item_id=record.item_id,
                text=record.title,
                more=record.titles,
                category=record.category,
                attributes=record.attributes,
                image=None if image is None else str(image),
                group=names.get(record.item_id),
            )
        )
    return references


def with_images(answers: Predictions, folder: Path, *, webp: bool = True) -> Predictions:
    """Return the answers with images, ``folder/CATEGORY/ITEM_ID.jpg``, known items or not."""
    by_item = dict(answers.by_item)
    for category, files in read_official_images(folder, webp=webp).items():
        for item_id, path in files.items():
            known = by_item.get(item_id)
            if known is not None and known.image is not None and known.image.parent != path.parent:
                raise EvaluationError(
                    f"item {item_id!r} has two images, {known.image} and {path}; an item belongs to one category"
                )
            prediction = known.prediction if known is not None else None
            by_item[item_id] = Prediction(
                item_id=item_id,
                prediction=prediction,
                prompt_known=known is not None,
                category=category,
                image=path,
            )
    if not any(answer.image is not None for answer in by_item.values()):
        raise EvaluationError(f"{folder} holds no image; expected files such as {folder}/CATEGORY/ITEM_ID.jpg")
    return replace(answers, by_item=by_item, has_images=True)


# --- JSON lines


def _predictions_of_lines(path: Path, *, task: str, set_aside: list[str]) -> Predictions:
    keys: set[str] = set()

    def convert(item_id: str, row: dict[str, Any], where: str) -> Prediction:
        keys.update(row)
        prediction, completion = _text(row, "prediction", where), _text(row, "completion", where)
        if "prediction" not in row and completion is not None:
            prediction = TASKS[task].parse(completion).prediction
        return Prediction(
            item_id=item_id, prediction=prediction, completion=completion, category=_text(row, "category", where)
        )

    by_item = _rows(path, convert, set_aside)
    if not keys & {"prediction", "completion"}:
        raise EvaluationError(
            f"{path}: no row has the key prediction (found: {', '.join(sorted(keys))}); "
            'write rows such as {"item_id": "B01", "prediction": "Red Mug"}, null for a malformed completion'
        )
    return Predictions(source=path, by_item=by_item)


def _references_of_lines(path: Path, *, set_aside: list[str]) -> list[Reference]:
    def convert(item_id: str, row: dict[str, Any], where: str) -> Reference:
        if "reference" not in row:
            raise EvaluationError(
                f"{where}: the key reference is missing (found: {', '.join(sorted(row))}); "
                "give the true title, a list of titles that are all right, or null where it is unknown"
            )
        given = row["reference"] if isinstance(row["reference"], list) else [row["reference"]]
        texts = [text for one in given if (text := _text({"reference": one}, "reference", where)) is not None]
        attributes = row.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise EvaluationError(f'{where}: attributes must be an object such as {{"color": "red"}}, or null')
        return Reference(
            item_id=item_id,
            text=texts[0] if texts else None,
            more=texts[1:],
            category=_text(row, "category", where) or UNCATEGORISED,
            attributes={_encodable(kind): _encodable(str(v)) for kind, v in attributes.items() if v is not None},
            group=_text(row, "group", where),
        )

    return list(_rows(path, convert, set_aside).values())


def _rows(path: Path, convert: Callable[[str, dict[str, Any], str], T], set_aside: list[str]) -> dict[str, T]:
    if path.name == SAMPLES_FILE:
        raise EvaluationError(f"{path} is the table of an evaluation; give its folder: {path.parent}")
    by_item: dict[str, T] = {}
    first_line: dict[str, int] = {}
    problems: list[str] = []
    with path.open("rb") as file:
        for line in json_lines(file, allow_nan=False):
            where = f"{path}, line {line.number}"
            try:
                item_id, row = _item(line, where)
                if item_id in first_line:
                    raise EvaluationError(
                        f"{where}: item_id {item_id!r} appears twice, first in line {first_line[item_id]}, which "
                        "counts; keep one of the rows"
                    )
                by_item[item_id] = convert(item_id, row, where)
                first_line[item_id] = line.number
            except EvaluationError as error:
                problems.append(str(error))
    if not by_item:
        raise EvaluationError(problems[0] if problems else f"{path} holds no row; write one JSON object per line")
    set_aside += problems
    return by_item


def _item(line: JsonLine, where: str) -> tuple[str, dict[str, Any]]:
    if line.values is None:
        raise EvaluationError(f"{where}: {line.problem}")
    item_id = line.values.get("item_id")
    if isinstance(item_id, int) and not isinstance(item_id, bool):
        item_id = str(item_id)
    if not isinstance(item_id, str) or not item_id.strip():
        raise EvaluationError(
            f"{where}: the key item_id is {'missing' if item_id is None else 'no text'} "
            f"(found: {', '.join(sorted(line.values)) or 'nothing'}); every row needs the item's identifier"
        )
    return _encodable(item_id), line.values


def _text(row: Mapping[str, Any], key: str, where: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise EvaluationError(f"{where}: {key} holds {json.dumps(value)[:60]}, expected text or null")
    return None if value is None else _encodable(value)


def _encodable(text: str) -> str:
    # Half a surrogate pair is legal in JSON and nowhere else: no file and no tokenizer takes it.
    return text.encode("utf-8", "replace").decode("utf-8")


# --- evaluation folders


def _samples(folder: Path, *, task: str, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow as pa  # heavy: imported on use

    path = folder / SAMPLES_FILE
    try:
        table = open_parquet(path)
        check_columns(path, table.schema)
        known = [name for name in ("task", "item_id", "category", *columns) if name in table.schema.names]
        rows: list[dict[str, Any]] = [dict.fromkeys(columns) | row for row in table.read(known).to_pylist()]
    except (pa.ArrowException, OSError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); run the evaluation again") from error
    chosen = [row for row in rows if row["task"] == task]
    if not chosen:
        tasks = ", ".join(sorted({row["task"] for row in rows})) or "nothing"
        raise EvaluationError(f"{path} holds no rows of {task}, only of {tasks}; choose that one with --task")
    check_unique(path, [row["item_id"] for row in chosen], task=task)
    return chosen


def _predictions_of_evaluation(folder: Path, *, task: str) -> Predictions:
    rows = _samples(folder, task=task, columns=["completion", "format", "prediction", "rendered_image"])
    summary = read_object(folder / SUMMARY_FILE)
    # With a renderer, an absent image is a failed render, also where every single one failed.
    images = task in section(summary, "rendering") or any(row["rendered_image"] for row in rows)
    by_item = {
        str(row["item_id"]): Prediction(
            item_id=str(row["item_id"]),
            prediction=row["prediction"],
            category=row["category"],
            completion=row["completion"],
            format=row["format"],
            image=_inside(folder, row["rendered_image"]),
        )
        for row in rows
    }
    return Predictions(source=folder, by_item=by_item, is_whole=True, has_images=images)


def _inside(folder: Path, name: str | None) -> Path | None:
    path = folder / (name or "")
    if name and not path.resolve().is_relative_to(folder.resolve()):
        raise EvaluationError(f"{folder}/{SAMPLES_FILE} names an image outside its folder, {name!r}: it is not read")
    return path if name else None


def _references_of_evaluation(folder: Path, *, task: str) -> list[Reference]:
    run = RunFolder.of_evaluation(folder)
    places = run.image_folders if run is not None else []

    def image(recorded: str | None) -> str | None:
        moved = (find_moved_image(Path(recorded), folder=place) for place in places) if recorded else ()
        return next((str(path) for path in moved if path.exists()), recorded)

    columns = ["reference", FURTHER, "image_path", "attributes", "group"]
    return [
        Reference(
            item_id=str(row["item_id"]),
            text=row["reference"],
            more=row[FURTHER] or (),
            category=str(row["category"]),
            attributes={k: str(v) for k, v in read_attributes(row["attributes"], path=folder / SAMPLES_FILE).items()},
            image=image(row["image_path"]),
            group=row["group"],
        )
        for row in _samples(folder, task=task, columns=columns)
    ]


# --- official layout


def _official_predictions(folder: Path, *, task: str, webp: bool, set_aside: list[str]) -> Predictions:
    if task == "text_to_image":
        return with_images(Predictions(source=folder, by_item={}, has_prompts=False), folder, webp=webp)
    rows = read_official_titles(folder, set_aside=set_aside)
    if not rows:
        why = set_aside[0] if set_aside else f"expected rows in {TITLES_FOLDER}/CATEGORY.tsv"
        raise EvaluationError(f"{folder}/{TITLES_FOLDER} holds no title; {why}")
    return Predictions(source=folder, by_item={row.item_id: row for row in rows})
