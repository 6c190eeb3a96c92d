"""Pages made from templates: each extends base.html, which brings the one style sheet."""

import base64
import hashlib
from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from grpo_mmpc.reports.common.difference import difference_of, glyph, interval_text
from grpo_mmpc.reports.common.figures import axis, track
from grpo_mmpc.reports.common.labels import metric_label, number, partly_scored, plural, signed, words

if TYPE_CHECKING:
    import jinja2

_FILTERS: dict[str, Callable[..., Any]] = {
    **{"number": number, "signed": signed, "words": words, "plural": plural},
    **{"metric": metric_label, "partly_scored": partly_scored, "difference": difference_of},
    **{"axis": axis, "track": track},
    **{"glyph": glyph, "level_interval": partial(interval_text, write=number), "change_interval": interval_text},
}


def render_page(name: str, /, **content: Any) -> str:
    """Render a template that extends ``reports/common/base.html`` as a page on its own.

    All values are escaped. A ``script`` is the only one that the page may run, by its hash.

    Raises:
        jinja2.UndefinedError: The template names a value that it is not given.
    """
    if "script" in content:
        content["script_hash"] = base64.b64encode(hashlib.sha256(content["script"].encode()).digest()).decode()
    style = resources.files("grpo_mmpc").joinpath("reports/common/style.css").read_text(encoding="utf-8")
    return render_part(name, style=style, **content)


def render_part(name: str, /, **content: Any) -> str:
    """Render a template that is no page on its own; all values are escaped.

    Raises:
        jinja2.UndefinedError: The template names a value that it is not given.
    """
    return _environment().get_template(name).render(**content)


@cache
def _environment() -> "jinja2.Environment":
    import jinja2  # heavy: imported on use

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("grpo_mmpc", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    return environment
