"""How YAML files and ``key=value`` overrides become one ``RunConfig``, or another section.

Files merge left to right, mappings key by key, everything else replaced.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from grpo_mmpc.config.sections import RunConfig
from grpo_mmpc.errors import ConfigError

Schema = TypeVar("Schema", bound=BaseModel)

Check = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
"""A further check on the merged raw mapping: yields (dotted key, what is wrong and what to do)."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-5`` is a number, ``no`` and ``on`` are words, and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"the key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads yes, no, on and off as booleans, which would turn save_strategy=no into False; YAML
# 1.2 does not.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
# YAML 1.1 reads 1e-5 as a string for want of a dot, which would reach the optimizer as text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def load_config(
    files: Sequence[Path | str], overrides: Sequence[str] = (), *, checks: Sequence[Check] = ()
) -> RunConfig:
    """A run's configuration; see ``load_as``."""
    return load_as(RunConfig, files, overrides, checks=checks)


def load_as(
    schema: type[Schema], files: Sequence[Path | str], overrides: Sequence[str] = (), *, checks: Sequence[Check] = ()
) -> Schema:
    """Merge files and overrides, validate, and report every problem at once.

    Args:
        schema: What they must be.
        files: YAML files, merged left to right.
        overrides: ``dotted.key=value`` strings, applied last; the value is read as YAML. A number
            addresses an element of a list, and so does its name: ``rewards.mix.0.weight=0.5``,
            ``rewards.mix.bleu.weight=0.5``.
        checks: Further checks run on the merged mapping, their findings reported together with the
            schema's.

    Raises:
        ConfigError: With all problems: where each comes from, what is wrong, the nearest known
            name.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for file in files:
        try:
            _merge(merged, read_yaml(Path(file)), origins, source=str(file))
        except ConfigError as error:
            problems += error.problems
    for override in overrides:
        try:
            _apply_override(merged, override, origins)
        except ConfigError as error:
            problems += error.problems

    found = list(schema_problems(merged, schema))
    config = None if found else schema.model_validate(merged)
    for check in checks:
        found += check(merged)
    problems += [f"{_origin(key, origins)}{key}: {message}" for key, message in found]
    if problems or config is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    return config


def schema_problems(content: Any, schema: type[BaseModel], *, key: str = "") -> Iterable[tuple[str, str]]:
    """Explain everything that a schema refuses of some content, with the nearest known names.

    Args:
        content: A mapping as read from YAML.
        schema: What it must be.
        key: Where in the configuration it stands; empty for the whole of it.

    Returns:
        (dotted key, what is wrong and what to do); nothing where the schema accepts it.
    """
    try:
        schema.model_validate(content)
    except ValidationError as error:
        for detail in error.errors():
            inner, message = _explain(detail, schema)
            yield ".".join(part for part in (key, inner) if part), message


def is_file(argument: str) -> bool:
    """Return whether an argument names a recipe: no override, or a path that holds a ``=``, as runs of a grid do."""
    # Path.is_file raises where an override, such as a whole mix, is longer than a file's name may
    # be.
    return "=" not in argument or os.path.isfile(argument)  # noqa: PTH113


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known name, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read as recipes are.

    Raises:
        ConfigError: No such file, no UTF-8, no valid YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file (working directory {Path.cwd()})"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: is a folder; a recipe is a YAML file"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"]) from error
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: expected a mapping of sections, found {type(content).__name__}"])
    return content


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
            target[key] = value
            origins[dotted] = source


def _apply_override(merged: dict[str, Any], override: str, origins: dict[str, str]) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            [f"{override!r}: neither a recipe file nor an override; overrides look like trainer.max_steps=500"]
        )
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([f"{override!r}: the value is not valid YAML: {' '.join(str(error).split())}"]) from error
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
    origins[".".join(path)] = "command line"


def _index(part: str, items: list[Any], override: str) -> int:
    """Position in a list, given as a number or as the ``name`` of one of its mappings (a factory's own name will do)."""
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [str(item["name"]).rpartition(":")[2] for item in items if isinstance(item, dict) and "name" in item]
    if len(names) == len(items) and names.count(part) == 1:
        return names.index(part)
    known = f" or a name ({', '.join(names)})" if names else ""
    raise ConfigError([f"{override!r}: {part!r} addresses a list of {len(items)}; use 0 to {len(items) - 1}{known}"])


def _explain(detail: Any, schema: type[BaseModel]) -> tuple[str, str]:
    """One pydantic finding as (dotted key, message)."""
    path, section = _follow([str(part) for part in detail["loc"]], schema)
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return key, f"unknown key; {nearest(path[-1], section.model_fields)}"
    if detail["type"] == "missing":
        return key, "is required and missing"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return key, f"{message}, found {detail['input']!r}"


def _follow(location: Sequence[str], schema: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """Where pydantic found something, as people write it, and the section that holds its last key."""
    path: list[str] = []
    section = schema
    kinds: dict[str, type[BaseModel]] = {}
    for part in location:
        if part in kinds:  # pydantic's own: which of several sections was meant
            section, kinds = kinds[part], {}
            continue
        path.append(part)
        if part in section.model_fields and part != location[-1]:
            options = list(_sections_in(section.model_fields[part].annotation))
            kinds = {kind: option for option in options for kind in _kinds_of(option)}
            section = options[0] if options else section
    return path, section


def _kinds_of(section: type[BaseModel]) -> tuple[str, ...]:
    return get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()


def _sections_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _sections_in(argument)


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """``file: `` of the deepest part of the key whose origin is known."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        source = origins.get(".".join(parts[:end]))
        if source is not None:
            return f"{source}: "
    return ""
