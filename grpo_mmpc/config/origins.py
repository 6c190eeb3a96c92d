"""A resolved configuration as YAML in which every value says where it was set."""

from collections.abc import Mapping
from typing import Any

import yaml

from grpo_mmpc.config.problems import origin_of

DEFAULT = "default"
"""The origin of a value that neither file nor override sets."""


def with_origins(text: str, *, given: Mapping[str, Any], origins: Mapping[str, str], columns: int = 120) -> str:
    """Append the origin of each value as a comment; the YAML means the same.

    ``text`` is a mapping in block style, one value a line; ``given`` is it before defaults were
    filled in; ``origins`` say by dotted key which file or command line set it. Comments begin in
    one column, further to the left where their ends would lie beyond ``columns``.
    """
    lines = text.splitlines()
    notes = {
        line: next((origin for key in keys if _is_given(key, given) and (origin := origin_of(key, origins))), DEFAULT)
        for line, keys in _values_by_line(yaml.compose(text)).items()
    }
    room = columns - 1 - max((len(f"  # {origin}") for origin in notes.values()), default=0)
    width = max(min(max((len(lines[line]) for line in notes), default=0), 72, room), 0)
    for line, origin in notes.items():
        lines[line] = f"{lines[line]:<{width}}  # {origin}"
    return "\n".join(lines) + "\n"


def _is_given(key: str, given: Any) -> bool:
    for part in key.split("."):
        if isinstance(given, list):
            given = {str(index): value for index, value in enumerate(given)}
        if not isinstance(given, Mapping) or part not in given:
            return False
        given = given[part]
    return True


def _values_by_line(node: yaml.Node | None, path: str = "") -> dict[int, list[str]]:
    """Return, for each line on which a value ends, the dotted keys of the values there."""
    children: list[tuple[str, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(index), value) for index, value in enumerate(node.value)]
    if node is None:
        return {}
    if not children:
        return {node.end_mark.line - (1 if node.end_mark.column == 0 else 0): [path]}
    by_line: dict[int, list[str]] = {}
    for name, child in children:
        for line, keys in _values_by_line(child, f"{path}.{name}" if path else name).items():
            by_line.setdefault(line, []).extend(keys)
    return by_line
