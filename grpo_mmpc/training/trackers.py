"""Evaluations in the trackers of ``trainer.report_to``: TensorBoard, W&B, trackio and the others.

TRL and Transformers report what is logged in training, and know nothing of our evaluations.
"""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

_TABLES = ("wandb", "trackio")
"""Trackers with tables and images of one kind, ``Table(dataframe=...)`` and ``Image``."""
_PX = 192
"""The longer side of an image at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTable:
    """Answers to show beside an evaluation's numbers, a row each."""

    name: str
    """Under which a tracker shows it, the same at every step."""
    rows: Sequence[Mapping[str, str | float | None]]
    images: Mapping[str, Sequence[Path | None]]
    """By column, one image for each row; None = none."""


def report(trainer: Any, scalars: Mapping[str, float], tables: Sequence[SampleTable], *, step: int) -> None:
    """Send numbers and tables to every tracker of the run; nothing where it has none.

    Numbers whose names begin with ``eval_`` are shown under ``eval/``. Only for the main process.

    Args:
        trainer: That of the run, whose callbacks hold the trackers.
        scalars: Finite numbers by name.
        tables: TensorBoard shows them as text with images beside, W&B and trackio as tables; other
            trackers get none.
        step: The optimiser step that they belong to.
    """
    from transformers.integrations import (  # heavy: imported on use
        TensorBoardCallback,
        get_reporting_integration_callbacks,
    )

    kinds = tuple(get_reporting_integration_callbacks(trainer.args.report_to))
    state = copy.copy(trainer.state)
    state.global_step = step
    shown = {"model": trainer.model, "processing_class": trainer.processing_class}
    for callback in [one for one in trainer.callback_handler.callbacks if kinds and isinstance(one, kinds)]:
        callback.on_log(trainer.args, state, trainer.control, logs=dict(scalars), **shown)
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            for table in tables:
                _to_tensorboard(callback.tb_writer, table, step=step)
    for name in _TABLES:
        if name in trainer.args.report_to:
            tracker = importlib.import_module(name)
            shown_tables = {f"eval/{table.name}": _table(tracker, table) for table in tables}
            tracker.log({**shown_tables, "train/global_step": step})


def _to_tensorboard(writer: Any, table: SampleTable, *, step: int) -> None:
    import numpy as np  # heavy: imported on use

    names = list(dict.fromkeys(name for row in table.rows for name in row))
    lines = [names, ["---"] * len(names), *([_cell(row.get(name)) for name in names] for row in table.rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    writer.add_text(f"eval/{table.name}", text, step)
    for column, paths in table.images.items():
        for row, path in enumerate(paths):
            if (image := _image(path)) is not None:
                pixels = np.asarray(image)  # [H, W, 3]
                writer.add_image(f"eval/{table.name}/{row + 1} {column}", pixels, step, dataformats="HWC")
    writer.flush()


def _table(tracker: Any, table: SampleTable) -> Any:
    import pandas as pd  # type: ignore[import-untyped]  # heavy: imported on use

    frame = pd.DataFrame(list(table.rows))
    for column, paths in table.images.items():
        images = [_image(path) for path in paths]
        frame[column] = [None if image is None else tracker.Image(image) for image in images]
    return tracker.Table(dataframe=frame)


def _image(path: Path | None) -> "Image | None":
    from grpo_mmpc.catalogue.images import decode_image  # heavy: imported on use

    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            image = decode_image(stream, name=path.name, shrink_to_px=2 * _PX).convert("RGB")
    except (ImageError, OSError):  # a table without it says enough
        return None
    image.thumbnail((_PX, _PX))
    return image


def _cell(value: str | float | None) -> str:
    text = "" if value is None else value if isinstance(value, str) else f"{value:.3f}"
    return " ".join(text.replace("|", "\\|").split())
