"""Render into a folder so that it can be interrupted: what is there is not rendered again.

The folder holds one PNG per item and ``renders.jsonl`` with one line per item, written in this
order: an image counts as done once its line is there. Its name contains the hash of all that it
depends on, so that the image of another prompt, seed or renderer can never be taken for it. The
last line of an item counts.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.rendering.attempts import attempt
from grpo_mmpc.rendering.renderer import CountsTokens, ExplainsFailures, Rendered, Renderer, render_checked
from grpo_mmpc.utils import hashing
from grpo_mmpc.utils.files import append_json_lines, read_json_lines, replace_atomically

logger = logging.getLogger(__name__)

RECORDS_NAME = "renders.jsonl"
_LEAST_BATCH = 16
"""Images between two writings, at least: all that a kill can cost."""

Progress = Callable[[int, int], None]
"""Called with (items done, items in total)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderJob:
    """One image to render."""

    item_id: str
    prompt: str
    seed: int
    """``render_seed(item_id)``, unless several images of an item are wanted."""


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
class RenderSummary:
    """Counts that add up to the jobs: rendered, reused, and failures by reason."""

    num_rendered: int
    """Images rendered by this call."""
    num_reused: int
    """Images that were there."""
    failures: Mapping[str, int]
    """Jobs without an image by reason, whether they failed now or before."""
    num_over_limit: int | None
    """Prompts longer than ``token_limit``; None if the renderer does not count tokens."""
    token_limit: int | None
    """Tokens of a prompt that the renderer reads; None if it has no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderResult:
    """The result of every job, by item id, in the order of the jobs."""

    paths: Mapping[str, Path | None]
    records: Mapping[str, RenderRecord]
    summary: RenderSummary


def render_seed(item_id: str) -> int:
    """Return the seed of an item's image, in [0, 2^31): the same in every run."""
    return hashing.seed(item_id)


def render_into(
    folder: Path,
    renderer: Renderer,
    jobs: Sequence[RenderJob],
    *,
    identity: str,
    progress: Progress | None = None,
) -> RenderResult:
    """Render what the folder does not hold yet.

    Args:
        folder: Made if absent. One process at a time may render into it.
        renderer: Any ``Renderer``; prompt tokens and reasons are recorded where it offers them.
        jobs: N images, at most one per item.
        identity: ``renderer_identity``; another one renders everything again.
        progress: Called first with what is there already, then after each batch.

    Raises:
        EvaluationError: Two jobs have one item id, or the renderer breaks its contract, fails on
            everything or finds no memory. What was rendered before that stays.
    """
    repeated = [item_id for item_id, count in Counter(job.item_id for job in jobs).items() if count > 1]
    if repeated:
        raise EvaluationError(f"{len(repeated)} items would be rendered twice into {folder}, such as {repeated[0]!r}")
    folder.mkdir(parents=True, exist_ok=True)
    held = _read_records(folder)
    hashes = {
        job.item_id: hashing.hex_digest(json.dumps([job.item_id, job.prompt, job.seed, identity]), size=12)
        for job in jobs
    }

    def is_done(job: RenderJob) -> bool:
        record = held.get(job.item_id)
        if record is None or record.hash != hashes[job.item_id]:
            return False
        return record.file is None or (folder / record.file).is_file()

    to_do = [job for job in jobs if not is_done(job)]
    new = {job.item_id for job in to_do}
    num_done = len(jobs) - len(to_do)
    if progress is not None:
        progress(num_done, len(jobs))
    # A renderer with larger batches gets them whole.
    batch_size = max(_LEAST_BATCH, getattr(renderer, "batch_size", 0))
    for start in range(0, len(to_do), batch_size):
        batch = to_do[start : start + batch_size]
        records = _render_batch(folder, renderer, batch, hashes)
        append_json_lines(folder / RECORDS_NAME, map(asdict, records))
        for record in records:
            old = held.get(record.item_id)
            if old is not None and old.file is not None and old.file != record.file:
                (folder / old.file).unlink(missing_ok=True)
            held[record.item_id] = record
        num_done += len(batch)
        if progress is not None:
            progress(num_done, len(jobs))
    return _result(folder, renderer, [held[job.item_id] for job in jobs], new=new)


def _render_batch(
    folder: Path, renderer: Renderer, jobs: Sequence[RenderJob], hashes: Mapping[str, str]
) -> list[RenderRecord]:
    """Render and save the images of a batch; the records are not written yet."""
    prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
    if isinstance(renderer, ExplainsFailures):
        rendered = renderer.attempt(prompts, seeds=seeds)
    else:
        rendered = attempt(partial(_render_unexplained, renderer), prompts, seeds=seeds, batch_size=len(jobs))
    tokens = renderer.prompt_tokens(prompts) if isinstance(renderer, CountsTokens) else [None] * len(jobs)
    records = []
    for job, outcome, num_tokens in zip(jobs, rendered, tokens, strict=True):
        key = hashes[job.item_id]
        name = None
        if outcome.image is not None:
            name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', job.item_id)[:60]}-{key}.png"
            with replace_atomically(folder / name) as temporary:
                # Level 1 is lossless like the others; the default one takes as long as the GPU.
                outcome.image.convert("RGB").save(temporary, format="PNG", compress_level=1)
        records.append(
            RenderRecord(item_id=job.item_id, file=name, reason=outcome.reason, prompt_tokens=num_tokens, hash=key)
        )
    return records


def _render_unexplained(renderer: Renderer, prompts: list[str], seeds: list[int]) -> list[Rendered]:
    return [
        Rendered(image=image, reason=None if image is not None else "the renderer gave no image")
        for image in render_checked(renderer, prompts, seeds=seeds)
    ]


def _read_records(folder: Path) -> dict[str, RenderRecord]:
    """Return the last record of every item; a line that a kill cut short is rendered again."""
    path = folder / RECORDS_NAME
    records = {}
    for line in read_json_lines(path, skip_broken=True) if path.is_file() else []:
        with suppress(TypeError):  # fields of another version
            records[line["item_id"]] = RenderRecord(**line)
    return records


def _result(folder: Path, renderer: Renderer, records: Sequence[RenderRecord], *, new: Collection[str]) -> RenderResult:
    rendered = [record for record in records if record.file is not None]
    failures = Counter(record.reason or "no reason given" for record in records if record.file is None)
    limit, over = None, None
    if isinstance(renderer, CountsTokens):
        limit = renderer.token_limit
        over = sum(limit is not None and (record.prompt_tokens or 0) > limit for record in records)
    if over:
        logger.warning("%d of %d prompts are longer than the %d tokens the renderer reads", over, len(records), limit)
    return RenderResult(
        paths={record.item_id: None if record.file is None else folder / record.file for record in records},
        records={record.item_id: record for record in records},
        summary=RenderSummary(
            num_rendered=sum(record.item_id in new for record in rendered),
            num_reused=sum(record.item_id not in new for record in rendered),
            failures=dict(failures.most_common()),
            num_over_limit=over,
            token_limit=limit,
        ),
    )
