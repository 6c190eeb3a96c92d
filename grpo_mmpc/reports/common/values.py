"""Values of JSON files that may hold anything: a run may be interrupted, edited or old."""

import math
from collections.abc import Mapping
from typing import Any


def section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a sub-mapping, empty where there is none."""
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}


def finite(value: Any) -> float | None:
    """Return a JSON value as a number; None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
