"""A part of a configuration or a summary that nobody has validated yet."""

from collections.abc import Mapping
from typing import Any


def section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a sub-mapping, empty where there is none: a wrong type is for a schema to report."""
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}
