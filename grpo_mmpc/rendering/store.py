"""Render into a folder so that it can be interrupted: what is there is not rendered again.

The folder holds one PNG per item and ``renders.jsonl`` with one line per item, written in this
order: a picture counts as done once its line is there. A picture's name contains the hash of all
that it depends on, so that the picture of another prompt, seed or renderer can never be taken for
it. The last line of an item counts.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.rendering import CountsTokens, ExplainsFailures
from grpo_mmpc.rendering.attempts import Rendered, attempt

if TYPE_CHECKING:
    from PIL.Image import Image

    from grpo_mmpc.rendering import Renderer

logger = logging.getLogger(__name__)

RECORDS_NAME = "renders.jsonl"
_LEAST_BATCH = 16
"""Pictures between two writings, at least: all that a kill can cost."""

Progress = Callable[[int, int], None]
"""Called with (items done, items in total)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderJob:
    """One picture to render."""

    item_id: str
    prompt: str
    seed: int
    """``render_seed(item_id)``, unless several pictures of an item are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRecord:
    """One line of ``renders.jsonl``."""

    item_id: str
    file: str | None
    """Name of the picture in the folder; None if the render failed."""
    reason: str | None
    """Why it failed."""
    prompt_tokens: int | None
    """None if the renderer does not count tokens."""
    hash: str
    """Of item, prompt, seed and renderer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSummary:
    """Counts over the jobs: ``num_rendered + num_reused + sum(failures.values())`` is their number."""

    num_rendered: int
    """Pictures rendered by this call."""
    num_reused: int
    """Pictures that were there."""
    failures: Mapping[str, int]
    """Jobs without a picture by reason, whether they failed now or before."""
    num_over_limit: int | None
    """Prompts longer than ``token_limit``; None if the renderer does not count tokens."""
    token_limit: int | None
    """Tokens of a prompt that the renderer reads; None if it has no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderResult:
    """What became of every job, by item id, in the order of the jobs."""

    paths: Mapping[str, Path | None]
    records: Mapping[str, RenderRecord]
    summary: RenderSummary


def render_seed(item_id: str) -> int:
    """The seed of an item's picture, in [0, 2^31): the same in every run, whatever other items there are."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=4).digest()) >> 1


def render_into(
    folder: Path,
    renderer: "Renderer",
    jobs: Sequence[RenderJob],
    *,
    identity: str,
    retry_failures: bool = False,
    progress: Progress | None = None,
) -> RenderResult:
    """Render what the folder does not hold yet.

    Args:
        folder: Made if absent. One process at a time may render into it.
        renderer: Any ``Renderer``; prompt tokens and reasons are recorded where it offers them.
        jobs: N pictures, at most one per item.
        identity: ``renderer_identity``; another one renders everything again.
        retry_failures: Try again what is recorded as failed.
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
    hashes = {job.item_id: _job_hash(job, identity) for job in jobs}

    def is_done(job: RenderJob) -> bool:
        record = held.get(job.item_id)
        if record is None or record.hash != hashes[job.item_id]:
            return False
        return not retry_failures if record.file is None else (folder / record.file).is_file()

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
        _append_records(folder, records)
        for record in records:
            _remove_superseded(folder, held.get(record.item_id), by=record)
            held[record.item_id] = record
        num_done += len(batch)
        if progress is not None:
            progress(num_done, len(jobs))
    return _result(folder, renderer, [held[job.item_id] for job in jobs], new=new)


def _render_batch(
    folder: Path, renderer: "Renderer", jobs: Sequence[RenderJob], hashes: Mapping[str, str]
) -> list[RenderRecord]:
    """Render and save the pictures of a batch; the records are not written yet."""
    prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
    if isinstance(renderer, ExplainsFailures):
        rendered = renderer.attempt(prompts, seeds=seeds)
    else:
        rendered = attempt(_explained(renderer), prompts, seeds=seeds, batch_size=len(jobs))
    tokens = renderer.prompt_tokens(prompts) if isinstance(renderer, CountsTokens) else [None] * len(jobs)
    records = []
    for job, picture, num_tokens in zip(jobs, rendered, tokens, strict=True):
        key = hashes[job.item_id]
        name = None
        if picture.image is not None:
            name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', job.item_id)[:60]}-{key}.png"
            _save(picture.image, folder / name)
        records.append(
            RenderRecord(item_id=job.item_id, file=name, reason=picture.reason, prompt_tokens=num_tokens, hash=key)
        )
    return records


def _explained(renderer: "Renderer") -> Callable[[list[str], list[int]], list[Rendered]]:
    """Turn ``render`` of a renderer that gives no reasons into one that does."""

    def render(prompts: list[str], seeds: list[int]) -> list[Rendered]:
        return [
            Rendered(image=image, reason=None if image is not None else "the renderer gave no picture")
            for image in render_checked(renderer, prompts, seeds=seeds)
        ]

    return render


def render_checked(renderer: "Renderer", prompts: list[str], *, seeds: list[int]) -> "list[Image | None]":
    """Render N prompts with any renderer, and hold it to its contract.

    Raises:
        EvaluationError: It did not give one image or None for each prompt.
    """
    from PIL.Image import Image  # heavy: imported on use

    images = list(renderer.render(prompts, seeds=seeds))
    kind = type(renderer).__name__
    if len(images) != len(prompts):
        raise EvaluationError(f"renderer {kind} gave {len(images)} images for {len(prompts)} prompts")
    for image in images:
        if image is not None and not isinstance(image, Image):
            raise EvaluationError(f"renderer {kind} gave a {type(image).__name__}; expected a PIL image or None")
    return images


def _save(image: "Image", path: Path) -> None:
    """Write a PNG under its name only when it is whole."""
    partial = path.with_suffix(".png.part")
    # Level 1: lossless like the others, and the default level takes as long as the GPU does for a
    # picture.
    image.convert("RGB").save(partial, format="PNG", compress_level=1)
    partial.replace(path)


def _job_hash(job: RenderJob, identity: str) -> str:
    content = json.dumps([job.item_id, job.prompt, job.seed, identity])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def _read_records(folder: Path) -> dict[str, RenderRecord]:
    """The last record of every item. A line that a kill cut short is skipped: its item is rendered again."""
    path = folder / RECORDS_NAME
    records = {}
    if path.is_file():
        for line in path.read_text("utf-8", errors="replace").splitlines():
            try:
                record = RenderRecord(**json.loads(line))
            except (json.JSONDecodeError, TypeError):
                continue
            records[record.item_id] = record
    return records


def _append_records(folder: Path, records: Sequence[RenderRecord]) -> None:
    with (folder / RECORDS_NAME).open("ab") as file:
        # A line feed in front: after a line that was cut short, the next one must not be glued to
        # it.
        file.write(b"".join(b"\n" + json.dumps(asdict(record)).encode() for record in records))
        file.write(b"\n")


def _remove_superseded(folder: Path, old: RenderRecord | None, *, by: RenderRecord) -> None:
    if old is not None and old.file is not None and old.file != by.file:
        (folder / old.file).unlink(missing_ok=True)


def _result(
    folder: Path, renderer: "Renderer", records: Sequence[RenderRecord], *, new: Collection[str]
) -> RenderResult:
    drawn = [record for record in records if record.file is not None]
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
            num_rendered=sum(record.item_id in new for record in drawn),
            num_reused=sum(record.item_id not in new for record in drawn),
            failures=dict(failures.most_common()),
            num_over_limit=over,
            token_limit=limit,
        ),
    )
