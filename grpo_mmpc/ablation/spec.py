"""The ablation file: base recipe, axes, seeds, reference."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from grpo_mmpc.config import nearest, read_yaml, schema_problems
from grpo_mmpc.config.section import Section
from grpo_mmpc.errors import ConfigError

BASE = "base"
"""The value of ``reference`` that means the model before training."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class AxisValue(Section):
    """One named value of an axis: what it changes in the base recipe."""

    files: list[str] = Field(default_factory=list)
    """YAML files, merged over the base in this order."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys and their values, applied last of all."""
    after: str | None = None
    """The combination from whose last checkpoint, of the same seed, runs start
    (``model.init_from``)."""


class AblationSpec(Section):
    """The content of an ablation file."""

    name: str
    """The name of the folder, ``runs/ablations/NAME``, and of the page."""
    base: Annotated[list[str], Field(min_length=1)]
    """Recipe files, merged left to right."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys and values for every run, applied after all files and before an axis value's
    ``set``."""
    axes: Annotated[dict[str, dict[str, AxisValue]], Field(min_length=1)]
    """By axis, its values by name. Runs are all combinations; a combination is called by its
    values, ``bleu+low``."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Runs of one seed see the same data in the same order, whatever the combination."""
    reference: str
    """The combination that others are compared with, or ``base``: the model before training."""
    metrics: list[str] | None = None
    """``TASK.METRIC`` that verdicts are given for; p-values are corrected for all of them together.
    Null means every metric that was evaluated with a value per item."""
    pareto: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    """Two of ``TASK.METRIC``: the axes of the Pareto plot."""
    launcher: str = ""
    """The command that starts a run on several processes, such as ``accelerate launch --config_file
    FILE``; empty: one process."""


def load_ablation(path: Path) -> AblationSpec:
    """Read and check an ablation file, without the recipes in it.

    Raises:
        ConfigError: With every problem of the file.
    """
    content = read_yaml(path)
    problems = [f"{key}: {message}" for key, message in schema_problems(content, AblationSpec)]
    if not problems:
        spec = AblationSpec.model_validate(content)
        problems = _problems(spec)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return spec


def is_among(name: str, metrics: Sequence[str] | None) -> bool:
    """Return whether a file's ``metrics`` name one; ``TASK.attribute_recall_*`` names many."""
    return metrics is None or any(fnmatchcase(name, pattern) for pattern in metrics)


def find_file(name: str, *, ablation: Path) -> Path:
    """Find a recipe of an ablation file, from the working directory or else from that file."""
    return next((path for path in (Path(name), ablation.parent / name) if path.is_file()), Path(name))


def _problems(spec: AblationSpec) -> list[str]:
    names = [("name", spec.name), *(("axes", axis) for axis in spec.axes)]
    names += [(f"axes.{axis}", value) for axis, values in spec.axes.items() for value in values]
    problems = [
        f"{key}: {name!r} becomes part of a path; use letters, digits, '.', '_' and '-', not first"
        for key, name in names
        if not _NAME.fullmatch(name)
    ]
    problems += [f"axes.{axis}: has no values" for axis, values in spec.axes.items() if not values]
    if len(set(spec.seeds)) < len(spec.seeds):
        problems.append(f"seeds: a seed appears twice in {spec.seeds}")
    problems += _successions(spec)
    if BASE in combinations(spec):
        problems.append(f"axes: {BASE!r} is the model before training; choose another name")
    elif spec.reference not in {BASE, *combinations(spec)}:
        problems.append(f"reference: no run {spec.reference!r}; {nearest(spec.reference, [BASE, *combinations(spec)])}")
    return problems


def combinations(spec: AblationSpec) -> dict[str, list[AxisValue]]:
    """Return every combination of axis values by its name, the last axis changing fastest."""
    return {
        "+".join(names): [values[name] for values, name in zip(spec.axes.values(), names, strict=True)]
        for names in product(*spec.axes.values())
    }


def predecessor(chosen: Sequence[AxisValue]) -> str | None:
    """Return the combination that runs of these values start from, if there is one."""
    return next((value.after for value in chosen if value.after is not None), None)


def _successions(spec: AblationSpec) -> list[str]:
    known, problems = combinations(spec), []
    for name, chosen in known.items():
        before = predecessor(chosen)
        if before is not None and before not in known:
            problems.append(f"axes: {name} starts after {before!r}, which is no run; {nearest(before, known)}")
        elif before is not None and predecessor(known[before]) is not None:
            problems.append(f"axes: {name} starts after {before}, which starts after another run; one step is possible")
    return problems


def to_yaml(spec: AblationSpec) -> str:
    """Return the ablation as it was read, defaults included."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
