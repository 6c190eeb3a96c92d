"""YAML as recipes are written: YAML 1.2's words and numbers, and no key twice."""

import difflib
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from grpo_mmpc.errors import ConfigError

MAX_VALUES = 100_000
"""Values of a configuration, those that anchors repeat counted each time."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-5`` is a number, ``no`` is a word and a repeated key an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, "a key is a list or a mapping", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"the key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_date(self, node: Any) -> Any:
        return self.construct_yaml_timestamp(node)


# YAML 1.1 reads yes, no, on and off as booleans, which would turn save_strategy=no into False; YAML
# 1.2 does not.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
# vLLM imports a package that makes texts of dates for everybody (lm-format-enforcer).
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_date)
# YAML 1.1 reads 1e-5 as a string for want of a dot, which would reach the optimizer as text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def of_the_checkout(path: Path) -> Path | None:
    """Return a file of the repository, named as seen from there; None where there is none."""
    file = Path(__file__).parents[2] / path
    return file if file.is_file() else None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        ConfigError: No such file, no UTF-8, no valid YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        files = [str(file) for file in path.parent.glob("*.y*ml")]
        close = difflib.get_close_matches(str(path), files, n=1, cutoff=0.8)
        hint = f"; did you mean {close[0]}?" if close else ""
        if (checkout := of_the_checkout(path)) is not None:
            hint = f"; start from {Path(__file__).parents[2]}, where it lies, or give {checkout}"
        raise ConfigError([f"{path}: no such file (working directory {Path.cwd()}){hint}"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: is a folder; a recipe is a YAML file"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"]) from error
    content = parse_yaml(text, source=str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: expected a mapping of sections, found {type(content).__name__}"])
    return content


def parse_yaml(text: str, *, source: str) -> Any:
    """Parse YAML text; ``source`` says in errors where it stands.

    Raises:
        ConfigError: The text is no valid YAML, or grows without measure by its anchors.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MAX_VALUES:
            raise ConfigError([f"{source}: its anchors unfold to more than {MAX_VALUES:,} values; write them out"])
        return loader.construct_document(node)
    except RecursionError:
        raise ConfigError([f"{source}: not valid YAML: it is nested too deep, or an anchor holds itself"]) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that there is not
        raise ConfigError([f"{source}: not valid YAML: {' '.join(str(error).split())}"]) from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node as often as anchors repeat them; each node is visited once."""
    if id(node) not in known:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]
