"""Render into a folder so that it can be interrupted: what is there is not rendered again.

The folder holds one PNG per item and ``renders.jsonl`` with one line per item, written in this
order: an image counts as done once its line is there. Its name contains the hash of all that it
depends on, so that the image of another prompt, seed or renderer can never be taken for it. The
last line of an item counts.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from grpo_mmpc.rendering.renderer import CountsTokens, Renderer, render
from grpo_mmpc.utils import hashing
from grpo_mmpc.utils.files import append_json_lines, place_file, read_json_lines, replace_atomically
from grpo_mmpc.utils.single_out import Failure

logger = logging.getLogger(__name__)

RECORDS_NAME = "renders.jsonl"
_LEAST_BATCH = 16
"""Images between two writings, at least: all that a kill can cost."""

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

Progress = Callable[[int, int], None]
"""Called with (items done, items in total)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRecord:
    """One line of ``renders.jsonl``."""

    item_id: str
    file: str | None
    """Name of the image in the folder; None if the render failed."""
    reason: str | None
    """The reason of a failure."""
    prompt_tokens: int | None
    """None if the renderer does not count tokens."""
    hash: str
    """The hash of item, prompt, seed and renderer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderResult:
    """The result of every item, in the order of the prompts."""

    paths: Mapping[str, Path | None]
    records: Mapping[str, RenderRecord]
    failures: Mapping[str, int]
    """Items without an image by reason, whether they failed now or before."""
    num_over_limit: int | None
    """Prompts longer than ``token_limit``; None if the renderer does not count tokens."""
    token_limit: int | None
    """Tokens of a prompt that the renderer reads; None if it has no limit."""


def render_seed(item_id: str) -> int:
    """Return the seed of an item's image, in [0, 2^31): the same in every run."""
    return hashing.seed(item_id)


def render_into(
    folder: Path,
    renderer: Renderer,
    prompts: Mapping[str, str],
    *,
    identity: str,
    earlier: Sequence[Path] = (),
    progress: Progress | None = None,
) -> RenderResult:
    """Render what the folder does not hold yet.

    Args:
        folder: Made if absent. One process at a time may render into it.
        renderer: Any ``Renderer``; prompt tokens are recorded where it counts them.
        prompts: Prompts by item id; the seed of an image is ``render_seed`` of its item.
        identity: ``renderer_identity``; another one renders everything again.
        earlier: Folders that were rendered into before: what they hold is taken from there.
        progress: Called first with what is there already, then after each batch.

    Raises:
        EvaluationError: See ``renderer.render``. What was rendered before that stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = _read_records(folder)
    hashes = {
        item_id: hashing.hex_digest(json.dumps([item_id, prompt, render_seed(item_id), identity]), size=12)
        for item_id, prompt in prompts.items()
    }

    def is_done(item_id: str) -> bool:
        return _holds(folder, held.get(item_id), hashes[item_id])

    for other in earlier:
        theirs = _read_records(other)
        taken = [
            theirs[item_id]
            for item_id in prompts
            if not is_done(item_id) and _holds(other, theirs.get(item_id), hashes[item_id])
        ]
        for record in taken:
            if record.file is not None:
                place_file(other / record.file, folder / record.file)
        if taken:
            append_json_lines(folder / RECORDS_NAME, map(asdict, taken))
        held |= {record.item_id: record for record in taken}
    to_do = [item_id for item_id in prompts if not is_done(item_id)]
    num_done = len(prompts) - len(to_do)
    if progress is not None:
        progress(num_done, len(prompts))
    # A renderer with larger batches gets them whole.
    batch_size = max(_LEAST_BATCH, getattr(renderer, "batch_size", 0))
    for start in range(0, len(to_do), batch_size):
        batch = to_do[start : start + batch_size]
        records = _render_batch(folder, renderer, {item_id: prompts[item_id] for item_id in batch}, hashes)
        append_json_lines(folder / RECORDS_NAME, map(asdict, records))
        for record in records:
            old = held.get(record.item_id)
            if old is not None and old.file is not None and old.file != record.file:
                (folder / old.file).unlink(missing_ok=True)
            held[record.item_id] = record
        num_done += len(batch)
        if progress is not None:
            progress(num_done, len(prompts))
    return _result(folder, renderer, [held[item_id] for item_id in prompts])


def _render_batch(
    folder: Path, renderer: Renderer, prompts: Mapping[str, str], hashes: Mapping[str, str]
) -> list[RenderRecord]:
    """Render and save the images of a batch; the records are not written yet."""
    texts = list(prompts.values())
    results = render(renderer, texts, seeds=[render_seed(item_id) for item_id in prompts])
    tokens = renderer.prompt_tokens(texts) if isinstance(renderer, CountsTokens) else [None] * len(texts)
    records = []
    for item_id, result, num_tokens in zip(prompts, results, tokens, strict=True):
        name, reason = None, None
        if isinstance(result, Failure):
            reason = result.reason
        else:
            name = _file_name(item_id, hashes[item_id])
            with replace_atomically(folder / name) as temporary:
                # Level 1 is lossless like the others; the default one takes as long as the GPU.
                result.convert("RGB").save(temporary, format="PNG", compress_level=1)
        records.append(
            RenderRecord(item_id=item_id, file=name, reason=reason, prompt_tokens=num_tokens, hash=hashes[item_id])
        )
    return records


def _file_name(item_id: str, key: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', item_id)[:60]}-{key}.png"


def _holds(folder: Path, record: RenderRecord | None, key: str) -> bool:
    """Return whether a folder holds the result of that hash, whole, be it a failure."""
    if record is None or record.hash != key:
        return False
    return record.file is None or is_whole(folder / record.file)


def is_whole(file: Path) -> bool:
    """Return whether a file is an image to its end: a full disk or a lost machine leaves less."""
    if file.is_symlink() or not file.is_file() or file.stat().st_size < len(_PNG_END):
        return False
    with file.open("rb") as stream:
        stream.seek(-len(_PNG_END), os.SEEK_END)
        return stream.read() == _PNG_END


def _read_records(folder: Path) -> dict[str, RenderRecord]:
    """Return the last record of every item; a line that a kill cut short is rendered again.

    The file may be a stranger's: a name that is not the one of this item's image is not followed.

    Raises:
        OSError: The file cannot be read; see ``check_own``.
    """
    path = folder / RECORDS_NAME
    records = {}
    for line in read_json_lines(path, skip_broken=True) if os.path.lexists(path) else []:
        with suppress(TypeError, KeyError):  # fields of another version
            record = RenderRecord(**line)
            if isinstance(record.item_id, str) and record.file in (None, _file_name(record.item_id, str(record.hash))):
                records[record.item_id] = record
    return records


def _result(folder: Path, renderer: Renderer, records: Sequence[RenderRecord]) -> RenderResult:
    limit, over = None, None
    if isinstance(renderer, CountsTokens):
        limit = renderer.token_limit
        over = sum(limit is not None and (record.prompt_tokens or 0) > limit for record in records)
    if over:
        logger.warning("%d of %d prompts are longer than the %d tokens the renderer reads", over, len(records), limit)
    failures = Counter(record.reason or "no reason given" for record in records if record.file is None)
    return RenderResult(
        paths={record.item_id: None if record.file is None else folder / record.file for record in records},
        records={record.item_id: record for record in records},
        failures=dict(failures.most_common()),
        num_over_limit=over,
        token_limit=limit,
    )
