"""Problems of a configuration in words: dotted keys, messages and the nearest known name."""

import difflib
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

MISSING = "is required and missing"
"""What is wrong with a key that stands nowhere."""
Problems = Iterable[tuple[str, str]]
"""(dotted key, what is wrong and what to do)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest known name, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def unknown_option(name: str, known: Iterable[str], *, owner: str) -> str:
    """Explain a key that a library does not take: the nearest of its names, or whose it is not."""
    close = nearest(name, known)
    return f"unknown key; {close if close.startswith('did you mean') else f'it is not a field of {owner}'}"


def unknown_options(section: str, options: Mapping[str, Any], known: Collection[str] | None, *, owner: str) -> Problems:
    """Yield the keys of a kwargs dictionary that its receiver does not take, with the nearest name.

    Args:
        section: Dotted key of the dictionary.
        options: The dictionary.
        known: Names that the receiver takes; None if it cannot be known, which yields nothing.
        owner: The receiver, for messages.
    """
    if known is not None:
        for name in options:
            if name not in known:
                yield f"{section}.{name}", unknown_option(str(name), known, owner=owner)


def parameters_of(function: Callable[..., Any], *, without: Collection[str] = ()) -> frozenset[str] | None:
    """Return the names that a function takes by keyword; None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind is not p.VAR_POSITIONAL) - frozenset(without)


def schema_problems(content: Any, schema: type[BaseModel], *, key: str = "") -> Iterable[tuple[str, str]]:
    """Explain everything that a schema refuses of some content, with the nearest known names.

    Yields (dotted key, what is wrong and what to do); ``key`` is where the content stands in the
    configuration, empty for the whole of it.
    """
    try:
        schema.model_validate(content)
    except ValidationError as error:
        for detail in error.errors():
            inner, message = _explain(detail, schema)
            yield ".".join(part for part in (key, inner) if part), message


def origin_of(key: str, origins: Mapping[str, str]) -> str | None:
    """Return where a dotted key was set, by the deepest part of it that is known.

    None if nowhere.
    """
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        source = origins.get(".".join(parts[:end]))
        if source is not None:
            return source
    return None


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "") -> str:
    """Return the first key in which two configurations differ, with both values; empty if none."""
    for key in dict.fromkeys([*old, *new]):
        ours, theirs = old.get(key), new.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            if inner := first_difference(ours, theirs, prefix=f"{prefix}{key}."):
                return inner
        elif ours != theirs:
            return f"{prefix}{key} was {short(ours)}, is now {short(theirs)}"
    return ""


def short(value: Any) -> str:
    """Return a configured value in at most 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _explain(detail: Any, schema: type[BaseModel]) -> tuple[str, str]:
    """Turn one error of pydantic into (dotted key, message)."""
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return key, f"unknown key; {nearest(path[-1], _section_of(path, schema).model_fields)}"
    if detail["type"] == "missing":
        return key, MISSING
    if detail["type"] == "value_error":  # a check of ours, which says what was found
        return key, str(detail["ctx"]["error"])
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return key, f"{message}, found {detail['input']!r}"


def _section_of(location: Sequence[str], schema: type[BaseModel]) -> type[BaseModel]:
    """Return the section that holds the last key of a location."""
    section = schema
    for part in location[:-1]:
        if part in section.model_fields:
            section = next(iter(_sections_in(section.model_fields[part].annotation)), section)
    return section


def _sections_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _sections_in(argument)
