"""Recipes, their bases and ``key=value`` overrides, merged into one configuration.

Files merge left to right, each after the files that its key ``base`` names; mappings key by key,
everything else replaced.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from grpo_mmpc.config.problems import MISSING, origin_of, schema_problems
from grpo_mmpc.config.rewards import reward_key
from grpo_mmpc.config.sections import RunConfig
from grpo_mmpc.config.yaml_files import of_the_checkout, parse_yaml, read_yaml
from grpo_mmpc.errors import ConfigError

Schema = TypeVar("Schema", bound=BaseModel)

Check = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
"""A further check on the merged mapping: yields (dotted key, what is wrong and what to do)."""

COMMAND_LINE = "command line"
"""The origin of values that overrides set."""


@dataclass(slots=True)
class Layers:
    """Files and overrides, merged but not yet validated."""

    merged: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """By dotted key, the file that set its value, or ``COMMAND_LINE``."""
    problems: list[str] = field(default_factory=list)
    is_partial: bool = False
    """A file could not be read, so that what is missing says nothing."""


def load_config(
    files: Sequence[Path | str], overrides: Sequence[str] = (), *, checks: Sequence[Check] = ()
) -> RunConfig:
    """Load a run's configuration; see ``load_as``."""
    return load_as(RunConfig, files, overrides, checks=checks)


def load_as(
    schema: type[Schema], files: Sequence[Path | str], overrides: Sequence[str] = (), *, checks: Sequence[Check] = ()
) -> Schema:
    """Merge files and overrides, validate, and report every problem at once.

    Args:
        schema: The model they must satisfy.
        files: YAML files, merged left to right.
        overrides: ``dotted.key=value`` strings, applied last; the value is read as YAML. A number
            addresses an element of a list, and so does its name: ``rewards.mix.0.weight=0.5``,
            ``rewards.mix.bleu.weight=0.5``.
        checks: Further checks run on the merged mapping, their problems reported together with the
            schema's.

    Raises:
        ConfigError: With all problems: where each comes from, what is wrong, the nearest known
            name.
    """
    return validate(schema, merge_layers(files, overrides), checks=checks)


def merge_layers(files: Sequence[Path | str], overrides: Sequence[str] = (), *, onto: Layers | None = None) -> Layers:
    """Read and merge files, each after its bases, then apply overrides, ``onto`` what is given.

    Problems are collected, not raised.
    """
    layers = Layers() if onto is None else onto
    for file in files:
        try:
            _merge_file(layers, Path(file), ())
        except ConfigError as error:
            layers.problems += error.problems
            layers.is_partial = True
    for override in overrides:
        try:
            _apply_override(layers.merged, override, layers.origins)
        except ConfigError as error:
            layers.problems += error.problems
    return layers


def validate(schema: type[Schema], layers: Layers, *, checks: Sequence[Check] = ()) -> Schema:
    """Validate merged layers against a schema and further checks.

    Without a file that could not be read the further checks are left out: they would judge another
    recipe, and may have to load PyTorch first.

    Raises:
        ConfigError: With all problems, those of reading included.
    """
    problems = [
        (key, message)
        for key, message in schema_problems(layers.merged, schema)
        if message != MISSING or not layers.is_partial
    ]
    config = None if problems or layers.problems else schema.model_validate(layers.merged)
    for check in () if layers.is_partial else checks:
        problems += check(layers.merged)
    told = list(layers.problems)
    for key, message in problems:
        told.append(": ".join(part for part in (origin_of(key, layers.origins), key, message) if part))
    if told or config is None:
        raise ConfigError(list(dict.fromkeys(told)))
    return config


def is_file(argument: str) -> bool:
    """Return whether an argument is a file rather than an override.

    A path may hold a ``=`` too, as runs of a grid do.
    """
    # Path.is_file raises where an override, such as a whole mix, is longer than a file's name may
    # be.
    return "=" not in argument or os.path.isfile(argument)  # noqa: PTH113


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files and the overrides among a command's words."""
    return [word for word in words if is_file(word)], [word for word in words if not is_file(word)]


def _merge_file(layers: Layers, path: Path, including: tuple[Path, ...]) -> None:
    """Merge the bases of a file, then the file; ``including`` led here, outermost first."""
    if path.resolve() in [file.resolve() for file in including]:
        chain = " -> ".join(str(file) for file in (*including, path))
        raise ConfigError([f"{including[-1]}: base: goes in a circle: {chain}; take one of them out"])
    content = read_yaml(path)
    bases = content.pop("base", [])
    names = bases if isinstance(bases, list) else [bases]
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError([f"{path}: base: expected a file or a list of files, found {bases!r}"])
        base = path.parent / name
        if not base.is_file():
            checkout = of_the_checkout(Path(name))
            hint = "paths are relative to the recipe" if checkout is None else f"of the repository give {checkout}"
            raise ConfigError([f"{path}: base: no file {name!r} beside it ({base}); {hint}"])
        _merge_file(layers, base, (*including, path))
    _read_tasks(content, folder=path.parent, source=str(path))
    _merge(layers.merged, content, layers.origins, source=str(path))


def _read_tasks(content: dict[str, Any], *, folder: Path, source: str) -> None:
    """Put the content of task files in the place of their names: a recipe is whole by itself."""
    names = content.get("tasks")
    if not isinstance(names, list):
        return
    content["tasks"] = [Path(name).stem if is_task_file(name) else name for name in names]
    for name in filter(is_task_file, names):
        file, own = folder / name, content.setdefault("own_tasks", {})
        if not isinstance(own, dict) or file.stem in own:
            raise ConfigError([f"{source}: tasks: {name} and own_tasks both say what {file.stem} is; keep one of them"])
        own[file.stem] = read_yaml(file)


def is_task_file(name: Any) -> bool:
    """Return whether an entry of ``tasks`` is a file rather than a name."""
    return isinstance(name, str) and name.endswith((".yaml", ".yml"))


def _merge(
    target: dict[str, Any], update: Mapping[str, Any], origins: dict[str, str], *, source: str, prefix: str = ""
) -> None:
    for key, value in update.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            origins.setdefault(dotted, source)
            if not isinstance(target.get(key), dict):
                target[key] = {}
            _merge(target[key], value, origins, source=source, prefix=f"{dotted}.")
        else:
            _forget_below(dotted, origins)
            target[key] = value
            origins[dotted] = source


def _forget_below(dotted: str, origins: dict[str, str]) -> None:
    """Drop the origins of what stood under a key that is replaced as a whole."""
    for key in [key for key in origins if key.startswith(f"{dotted}.")]:
        del origins[key]


def _apply_override(merged: dict[str, Any], override: str, origins: dict[str, str]) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            [f"{override!r}: neither a recipe file nor an override; overrides look like trainer.max_steps=500"]
        )
    if key == "base":
        raise ConfigError([f"{override!r}: base belongs into a file; on the command line name the file itself"])
    value = parse_yaml(text, source=f"the value of {override!r}")
    if key == "tasks":
        given = {key: value}
        _read_tasks(given, folder=Path(), source=repr(override))
        value = given["tasks"]
        _merge(merged, {"own_tasks": given.get("own_tasks", {})}, origins, source=COMMAND_LINE)
    *parents, last = key.split(".")
    node: Any = merged
    path: list[str] = []
    for part in parents:
        if isinstance(node, list):
            index = _index(part, node, override)
            node = node[index]
            path.append(str(index))
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            path.append(part)
        if not isinstance(node, dict | list):
            raise ConfigError([f"{override!r}: {part!r} is a {type(node).__name__}, it has no keys"])
    if isinstance(node, list):
        index = _index(last, node, override)
        node[index] = value
        path.append(str(index))
    else:
        node[last] = value
        path.append(last)
    dotted = ".".join(path)
    _forget_below(dotted, origins)
    origins[dotted] = COMMAND_LINE


def _index(part: str, items: list[Any], override: str) -> int:
    """Return a position in a list, given as a number or as the ``name`` of one of its mappings.

    A factory's own name will do: ``brand_match`` for ``my_rewards.py:brand_match``.
    """
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [reward_key(str(item["name"])) for item in items if isinstance(item, dict) and "name" in item]
    if len(names) == len(items) and names.count(part) == 1:
        return names.index(part)
    known = f" or a name ({', '.join(names)})" if names else ""
    raise ConfigError([f"{override!r}: {part!r} addresses a list of {len(items)}; use 0 to {len(items) - 1}{known}"])
