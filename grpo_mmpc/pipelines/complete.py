"""Fill the missing titles and images of a catalogue: one catalogue folder in, another one out.

The plan deals what is missing over parts, workers fill one part after another, each into one file,
and the merge writes the completed catalogue from them. See ``grpo_mmpc.completion``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from grpo_mmpc.catalogue import Catalogue, load_catalogue
from grpo_mmpc.completion.calibration import CALIBRATION_FILE, read_calibration
from grpo_mmpc.completion.merge import all_there, is_merged, mark_merged, merge
from grpo_mmpc.completion.part import parts_of
from grpo_mmpc.completion.plan import LOCK, Plan, claim, completing_tasks, make_plan
from grpo_mmpc.completion.worker import Share, fill_shares
from grpo_mmpc.completion.workers import fill_by_ray, fill_here
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import CatalogueError, ConfigError
from grpo_mmpc.pipelines.known_titles import AUDIT, FOLDER, audit, calibrate
from grpo_mmpc.reports.catalogue.completion_page import nano_notes, report_completion
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.utils.console import Progress, next_command, printer
from grpo_mmpc.utils.files import names_in
from grpo_mmpc.utils.locks import hold, in_use

say = printer(True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who fills the parts of a completion."""

    engine: Literal["local", "ray"] = "local"
    """Processes of this machine, or tasks of a Ray cluster."""
    count: int | None = None
    """None is one a device, or a single one where there is none."""
    ray_address: str | None = None
    """See ``ray_cluster``."""
    share: tuple[int, int] | None = None
    """``(i, n)``: this process fills the i-th of n shares, counted from 1, beside n - 1 others that
    somebody else starts, on any machine; who sees that all parts are there merges them."""


ONE_A_DEVICE = Workers()


def complete_catalogue(
    config: RunConfig,
    *,
    catalogue: Path,
    out: Path,
    checkpoint: Path | None,
    workers: Workers = ONE_A_DEVICE,
    siblings: bool = True,
    samples: int = 0,
    calibrate_on: int = 0,
    overwrite: bool = False,
) -> None:
    """Complete every item that lacks a title or an image, or what the recipe's own tasks ask for.

    Of an item that lacks several of these the first is filled that it has everything for, in the
    order of ``tasks``. The result holds every item that has a title or a good image; a column
    ``completed`` names the field that was filled, null elsewhere, and ``proposals.jsonl`` says of
    each what it depends on.

    What could not be filled stays missing and is listed in ``incomplete.jsonl`` with the reason,
    rows that are no items in ``quarantine.jsonl``. Killed and started again, it goes on with the
    items that are missing; of a catalogue that has changed, new and changed items are asked.

    Args:
        config: The recipe.
        catalogue: Catalogue folder.
        out: Folder of the completed catalogue.
        checkpoint: Folder of the adapter; None completes with the policy before training.
        workers: Who fills the parts.
        siblings: Take a title that the catalogue itself gives before the policy is asked; see
            ``grpo_mmpc.catalogue.siblings``.
        samples: Titles to sample beside each greedy one, by whose agreement it is judged.
        calibrate_on: Items with a known title, at most, that are answered to learn what the
            agreement is worth; 0 takes the calibration that ``out`` has, if there is one.
        overwrite: Take over the completion by another policy, and ask this one for everything.

    Raises:
        CatalogueError: The catalogue cannot be read, or ``out`` is the catalogue itself, is in use,
            or holds something else, the completion of another catalogue or by another policy among
            them.
    """
    if out.resolve() == catalogue.resolve():
        raise CatalogueError(f"--out is the catalogue itself ({catalogue}); give another folder")
    checkpoint = config.asked(checkpoint)
    if calibrate_on:
        _check_titles_are_asked(config, what="--calibrate")
    begin = partial(
        _begin,
        config,
        catalogue=catalogue,
        out=out,
        checkpoint=checkpoint,
        siblings=siblings,
        samples=samples,
        overwrite=overwrite,
    )
    if workers.share is not None:
        number, count = workers.share
        _do_share(begin, config, number, count, out=out)
        return
    with hold(out / LOCK, refuse=in_use(out, CatalogueError, command="complete")):
        source, share = begin()
        if share.plan.gaps or calibrate_on:
            _warn(config, source)
        if calibrate_on:  # the same policy fills beside it
            answer = partial(_answer, config, checkpoint=checkpoint, workers=workers, samples=samples, beside=[share])
            calibrate(source, share.plan, out=out, items=calibrate_on, checkpoint=checkpoint, answer=answer, say=say)
        else:
            _fill([share], workers)
        _merge(source, share)


def audit_catalogue(
    config: RunConfig,
    *,
    catalogue: Path,
    out: Path,
    checkpoint: Path | None,
    workers: Workers = ONE_A_DEVICE,
    samples: int,
) -> None:
    """List existing titles that contradict their image or attributes; see ``known_titles.audit``.

    The arguments are those of ``complete_catalogue``. The catalogue is only read.

    Raises:
        CatalogueError: See ``complete_catalogue``; or ``out`` holds something else than an audit.
    """
    checkpoint = config.asked(checkpoint)
    _check_titles_are_asked(config, what="--audit")
    if names_in(out) - {LOCK, FOLDER, AUDIT}:
        raise CatalogueError(f"--out {out} holds something else than an audit; give another folder")
    with hold(out / LOCK, refuse=in_use(out, CatalogueError, command="complete")):
        source = load_catalogue(catalogue, check_images=True, keep_titled=True)
        _warn(config, source)
        answer = partial(_answer, config, checkpoint=checkpoint, workers=workers, samples=samples)
        audit(source, out=out, answer=answer, gate=config.gate, say=say)


def _check_titles_are_asked(config: RunConfig, *, what: str) -> None:
    """Refuse to answer known titles by a recipe that does not ask for them, or not by the image."""
    tasks = completing_tasks(config).values()
    if not any(task.target == "title" and set(task.source) <= {"images", "category"} for task in tasks):
        names = ", ".join(task.name for task in tasks)
        raise ConfigError([f"{what} needs a task that asks images for titles; {names} does not: leave it out"])


def _warn(config: RunConfig, source: Catalogue) -> None:
    for sentence in nano_notes(config.model.name_or_path, items=source.items[:20]["item_id"]):
        say(f"! {sentence}")


def _answer(
    config: RunConfig,
    titled: Path,
    answers: Path,
    *,
    checkpoint: Path | None,
    workers: Workers,
    samples: int,
    beside: Sequence[Share] = (),
) -> Plan:
    _, share = _begin(
        config,
        catalogue=titled,
        out=answers,
        checkpoint=checkpoint,
        siblings=False,
        samples=samples,
        overwrite=True,
        announced=False,
    )
    _fill([*beside, share], workers)
    return share.plan


def _fill(shares: Sequence[Share], workers: Workers) -> None:
    shares = [share for share in shares if share.parts]
    with Progress() as progress:
        if shares and workers.engine == "ray":
            fill_by_ray(shares, address=workers.ray_address, workers=workers.count, say=say, progress=progress)
        elif shares:
            fill_here(shares, workers=workers.count, say=say, progress=progress)


def _do_share(
    begin: Callable[[], tuple[Catalogue, Share]], config: RunConfig, number: int, count: int, *, out: Path
) -> None:
    """Fill one of several shares, and merge if all parts are there then."""
    with hold(out / LOCK, refuse=None):
        source, whole = begin()
    if whole.plan.gaps:
        _warn(config, source)
    mine = [part for part in whole.parts if part.number % count == number - 1]
    with Progress() as progress:
        own = replace(whole, parts=mine, number=number - 1)
        total = own.num_gaps
        fill_shares([own], say, lambda done: progress("filling", done, total))
    with hold(out / LOCK, refuse=None):
        if not all_there(out, whole.plan):
            say(f"share {number} of {count} is filled; the last of the others merges all of them into {out}")
        elif is_merged(out, whole.plan):
            say(f"share {number} of {count} is filled, and all of them are merged: {out}")
        else:
            _merge(source, whole)


def _begin(
    config: RunConfig,
    *,
    catalogue: Path,
    out: Path,
    checkpoint: Path | None,
    siblings: bool,
    samples: int,
    overwrite: bool,
    announced: bool = True,
) -> tuple[Catalogue, Share]:
    """Read the catalogue and plan its completion; return it with the parts left to fill."""
    source = load_catalogue(catalogue, check_images=True, keep_titled=True)
    plan, missing = make_plan(config, source, checkpoint=checkpoint, siblings=siblings, samples=samples)
    tasks = completing_tasks(config)
    broken = f" ({len(source.broken_images)} of them a broken one)" if source.broken_images else ""
    gaps = [
        f"{missing[name]} without {' or '.join(task.properties) or task.target}"
        f"{broken if task.target == 'image' else ''}"
        for name, task in tasks.items()
    ]
    if announced:
        out_of = f"{catalogue}: {plural(source.rows_read, 'row')}"
        say(f"{out_of}, {', '.join(gaps)}; {len(source.quarantined)} set aside as no items")
    claim(out, plan, source, tasks=tasks, overwrite=overwrite)
    if plan.renderer is None and any(missing[name] for name, task in tasks.items() if task.target == "image"):
        say(
            "no renderer: images stay missing; to fill them add evaluation.renderer=diffusers (or nano, "
            "module:factory) to --recipe"
        )
    share = Share(
        config=config,
        checkpoint=None if checkpoint is None else checkpoint.absolute(),
        out=out.absolute(),
        plan=plan,
        parts=[part for part in parts_of(out.absolute(), plan.parts) if not part.is_done()],
        number=0,
        working_directory=Path.cwd(),
    )
    return source, share


def _merge(source: Catalogue, share: Share) -> None:
    """Write the completed catalogue, and say what is in it."""
    out, plan = share.out, share.plan
    calibration = None
    if plan.samples and (out / CALIBRATION_FILE).is_file():
        try:
            calibration = read_calibration(out / CALIBRATION_FILE, policy=plan.policy, samples=plan.samples)
        except CatalogueError as error:
            say(f"! {error}; until then the share of samples that agree is the confidence")
    tasks = completing_tasks(share.config)
    tally = merge(out, plan, source, share.config.gate, tasks=tasks, calibration=calibration)
    if plan.gaps and not share.parts and not tally.unfilled:
        say("all of them had been filled before: nothing was left to do")
    say(f"{plural(len(source), 'item')}, " + "\n".join(tally.sentences(out)))
    if source.quarantined:
        say(f"  {plural(len(source.quarantined), 'row')} set aside as no items, see {out / 'quarantine.jsonl'}")
    page = report_completion(out)
    mark_merged(out, plan)
    say(f"completed catalogue: {out}\nexamples of what was filled: {page}")
    say(next_command(*(("review", out) if tally.filled else ("data", "validate", out))))
