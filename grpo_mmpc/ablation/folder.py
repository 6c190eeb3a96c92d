"""The folder of an ablation: one command at a time, one recipe per run, one shared base model."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from grpo_mmpc.ablation.jobs import Job, State, state_of
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.problems import first_difference
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.files import copy_folder, write_text
from grpo_mmpc.utils.locks import hold, in_use


def only_one(folder: Path) -> AbstractContextManager[str]:
    """Hold the folder for the duration of a block, or until this process ends in whatever way.

    Raises:
        ConfigError: Another process holds it.
    """
    refuse = in_use(folder, lambda text: ConfigError([text]), command="ablate", instead="take another with --out DIR")
    return hold(folder / "ablation.lock", refuse=refuse)


def write_recipes(jobs: Sequence[Job], *, overwrite: bool) -> None:
    """Write every job's recipe beside its folder, unless one that was already started had another.

    ``overwrite`` deletes what jobs with another recipe have left, and starts those again.

    Raises:
        ConfigError: Which runs have changed, and in what.
    """
    changed = [(job, difference) for job in jobs if (difference := _change(job))]
    # The untrained model is cheap to evaluate again, and nothing is lost with it.
    lines = [f"{job.name}: {difference}" for job, difference in changed if not job.is_base]
    if lines and not overwrite:
        raise ConfigError(
            [*lines, "these runs were started with another recipe; --overwrite starts them again, --out DIR keeps both"]
        )
    for job, _ in changed:
        shutil.rmtree(job.folder)
        job.attempts.unlink(missing_ok=True)
    for job in jobs:
        if _text_of(job.config) != job.recipe:  # a run that still lives may be reading it
            write_text(job.config, job.recipe)


def check_recipes(jobs: Sequence[Job]) -> None:
    """Refuse results of another recipe; write nothing.

    Raises:
        ConfigError: Which runs have another recipe, and in what.
    """
    lines = [f"{job.name}: {difference}" for job in jobs if (difference := _change(job))]
    if lines:
        raise ConfigError(
            [
                *lines,
                "these results are of another recipe and would be shown as if they were of this one; name the same "
                "ablation file and overrides as when they were made, or run without --report-only",
            ]
        )


def share_base(jobs: Sequence[Job]) -> None:
    """Copy the untrained model's evaluation into every finished run, for ``grpo-mmpc report``."""
    by_name = {job.name: job for job in jobs}
    for job in jobs:
        if job.base is None or job.after is not None:  # of such a run, "before" is where it started
            continue
        base, target = by_name[job.base], job.folder / "evaluations" / "base" / job.suite
        if state_of(job) == state_of(base) == State.FINISHED and not target.exists():
            copy_folder(base.final, target)


def _change(job: Job) -> str:
    if not job.folder.exists():
        return ""
    old = _text_of(job.config)
    if old is None:
        return "its recipe is missing"
    return "" if old == job.recipe else first_difference(_settings(old), _settings(job.recipe))


def _settings(text: str) -> dict[str, Any]:
    """Read a recipe, however it is written; a key that it does not have means its default."""
    recipe: dict[str, Any] = yaml.safe_load(text) or {}
    with suppress(ValidationError):  # damaged: compared as it stands
        return RunConfig.model_validate(recipe).settings()
    return recipe


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
