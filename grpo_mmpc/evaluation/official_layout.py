"""The file layout of the official benchmark, read and written, so that results travel both ways.

A model's folder holds ``titles/<category>.tsv`` and ``<category>/<item_id>.jpg``: images of a
category "titles" lie beside the title files. A title file has one line per item, quoted as in CSV:
the item's id, then its title, or columns of these names. A title ``error`` stands for a completion
that does not parse. Characters that no file name should hold are written as ``%2F`` and the like,
and so is the end ``_gpu0`` of a category, which is how the official files name their shards.
"""

import csv
import filecmp
import io
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.predictions import Prediction
from grpo_mmpc.metrics.official.text import ERROR_TEXT
from grpo_mmpc.utils.files import build_folder, open_own

TITLES_FOLDER = "titles"
_MADE = ".export"
_NAN = re.compile(r"|#N/A( N/A)?|#NA|-?1\.#IND|-?1\.#QNAN|-?(NaN|nan)|<NA>|NA|N/A|n/a|NULL|null|None")
"""Cells that pandas, and so the official script, reads as a missing value; the empty cell is one of
them."""

_ID_COLUMNS = ("item_id", "id", "asin", "parent_asin", "image")
_TITLE_COLUMNS = ("title", "text", "prediction")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # where an item has several, the first counts
_UNSAFE = re.compile(r'[\x00-\x1f\x7f%/\\:*?"<>|]|^\.|[. ]$|_(?=gpu\d+$)')
_MAX_NAME_BYTES = 200
_JPEG_QUALITY = 95


def is_official(folder: Path) -> bool:
    """Return whether a folder is a model's folder in the official layout, with titles or images."""
    return (folder / TITLES_FOLDER).is_dir() or any(read_official_images(folder, webp=True).values())


def read_official_titles(folder: Path, *, set_aside: list[str]) -> list[Prediction]:
    """Return the titles of ``titles/*.tsv``; ``<category>_gpu0.tsv`` counts to its category.

    Rows that lack an id or a title, or repeat an item, are added to ``set_aside`` with the reason.

    Raises:
        EvaluationError: A file cannot be read.
    """
    answers: dict[str, Prediction] = {}
    places: dict[str, str] = {}
    for path in sorted((folder / TITLES_FOLDER).glob("*.tsv")):
        category = _name_of(re.sub(r"_gpu\d+$", "", path.stem))
        for cells, columns, where in _read_rows(path):
            try:
                answer = _title(cells, columns, category=category, where=where)
                if answer.item_id in answers:
                    raise EvaluationError(
                        f"{where}: item {answer.item_id!r} appears twice, first in {places[answer.item_id]}, which "
                        "counts; keep one of the rows"
                    )
            except EvaluationError as error:
                set_aside.append(str(error))
            else:
                answers[answer.item_id], places[answer.item_id] = answer, where
    return list(answers.values())


def read_official_images(folder: Path, *, webp: bool = False) -> dict[str, dict[str, Path]]:
    """Return image files by category and item, with WebP ones only if ``webp``.

    The official script passes over WebP files.
    """
    suffixes = (*_IMAGE_SUFFIXES, ".webp") if webp else _IMAGE_SUFFIXES
    images: dict[str, dict[str, Path]] = {}
    for sub_folder in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not sub_folder.is_dir():
            continue
        files = [path for path in sorted(sub_folder.iterdir()) if path.suffix.lower() in suffixes and path.is_file()]
        if files:
            files.sort(key=lambda path: suffixes.index(path.suffix.lower()), reverse=True)
            images[_name_of(sub_folder.name)] = {_name_of(path.stem): path for path in files}
    return images


def write_official(folder: Path, answers: Sequence[Prediction], *, titles: bool = True) -> int:
    """Write predictions, each with its category, and return the number of files.

    Given again, or after it was killed, it writes what is missing. Titles lose tabs and line
    breaks. Images that are no JPEG are converted (quality 95), since the official script matches
    ``<item_id>.jpg`` by name: pixel metrics of the copy differ slightly. Without ``titles``,
    predictions are prompts.

    Raises:
        EvaluationError: The folder holds other titles (images) than these, an id or a category is
            empty or too long for a file name, or an image cannot be read.
    """
    shutil.rmtree(folder / _MADE, ignore_errors=True)  # of one that was killed at its end
    with build_folder(folder / _MADE) as made:
        names = _write(made, answers, titles=titles)
        there = {path.relative_to(folder) for path in (folder / TITLES_FOLDER).glob("*.tsv")} if titles else set()
        if any(name.suffix != ".tsv" for name in names):
            images = read_official_images(folder, webp=True).values()
            there |= {path.relative_to(folder) for files in images for path in files.values()}
        for name in sorted(there):
            if name not in names or not filecmp.cmp(made / name, folder / name, shallow=False):
                raise EvaluationError(
                    f"--export-official: {folder} already holds {name}, which would be mixed with these answers, and "
                    "is none of them; remove it or name another folder"
                )
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (made / name).replace(folder / name)
    shutil.rmtree(folder / _MADE)
    return len(names)


def _write(folder: Path, answers: Sequence[Prediction], *, titles: bool) -> list[Path]:
    """Write all files into an empty folder; return their names in it."""
    by_category: dict[str, list[Prediction]] = defaultdict(list)
    for answer in answers:
        by_category[answer.category or ""].append(answer)
    written = []
    for category, members in by_category.items():
        name = safe_name(category, what="category")
        if titles:
            written.append(Path(TITLES_FOLDER, f"{name}.tsv"))
            (folder / TITLES_FOLDER).mkdir(exist_ok=True)
            _write_titles(folder / written[-1], members)
        for answer in members:
            if answer.image is not None:
                written.append(Path(name, f"{safe_name(answer.item_id, what='item_id')}.jpg"))
                (folder / name).mkdir(exist_ok=True)
                _write_image(answer.image, folder / written[-1])
    return written


def _read_rows(path: Path) -> Iterator[tuple[list[str], tuple[int, int], str]]:
    columns = (0, 1)
    with io.TextIOWrapper(open_own(path.resolve()), encoding="utf-8-sig", newline="") as stream:
        first = True
        line = 1
        try:
            for line, text in enumerate(stream, start=1):
                # each line for itself, so that an open quote costs its own row and none behind it
                cells = next(csv.reader([text.rstrip("\r\n") + "\n"], delimiter="\t"))
                if not any(cell.strip() for cell in cells):
                    continue
                if first:
                    first = False
                    header = _header(cells)
                    if header is not None:
                        columns = header
                        continue
                yield cells, columns, f"{path}, line {line}"
        except (csv.Error, UnicodeDecodeError) as error:
            raise EvaluationError(
                f"{path}, line {line}: cannot be read as tab-separated UTF-8 text ({error}); correct the file"
            ) from error


def _header(cells: list[str]) -> tuple[int, int] | None:
    names = [cell.strip().lower() for cell in cells]
    ids = [names.index(name) for name in _ID_COLUMNS if name in names]
    titles = [names.index(name) for name in _TITLE_COLUMNS if name in names]
    return (ids[0], titles[0]) if ids and titles else None


def _title(cells: list[str], columns: tuple[int, int], *, category: str, where: str) -> Prediction:
    if len(cells) <= max(columns):
        raise EvaluationError(
            f"{where}: found {len(cells)} cell(s), expected an item_id, a tab and a title; correct the row"
        )
    item_id, cell = (cells[column].strip() for column in columns)
    if not item_id:
        raise EvaluationError(f"{where}: the item_id is empty; every row needs one")
    if "\t" in cell or "\n" in cells[columns[1]]:
        raise EvaluationError(
            f"{where}: the quote at its start is never closed in its line; put the title in quotes, on one line, and "
            'double the quotes inside it ("")'
        )
    return Prediction(
        item_id=item_id,
        category=category,
        prediction=None if cell in ("", ERROR_TEXT) else cell,
        is_nan=_NAN.fullmatch(cell) is not None,
    )


def _write_titles(path: Path, answers: Sequence[Prediction]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["item_id", "title"])
        for answer in answers:
            title = ERROR_TEXT if answer.prediction is None else answer.prediction
            writer.writerow([answer.item_id, re.sub(r"[\t\r\n]+", " ", title)])


def _write_image(source: Path, target: Path) -> None:
    from grpo_mmpc.encoders.images import open_image
    from grpo_mmpc.errors import ImageError

    if source.suffix.lower() in (".jpg", ".jpeg"):
        shutil.copyfile(source, target)
        return
    try:
        open_image(source).save(target, quality=_JPEG_QUALITY, subsampling=0)
    except ImageError as error:
        raise EvaluationError(f"cannot export {source}: {error}") from error


def safe_name(name: str, *, what: str) -> str:
    """Return a name that stays inside its folder anywhere; ``_name_of`` reads it back."""
    safe = _UNSAFE.sub(lambda match: f"%{ord(match.group()):02X}", name)
    if not name or len(safe.encode("utf-8", errors="replace")) > _MAX_NAME_BYTES:
        raise EvaluationError(
            f"the {what} {name[:60]!r} cannot be a file name: expected 1 to {_MAX_NAME_BYTES} bytes, "
            f"found {len(safe.encode('utf-8', errors='replace'))}; shorten it"
        )
    return safe


def _name_of(file_name: str) -> str:
    return re.sub(r"%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), file_name)
