"""Page templates that lie in packages, and the styles that go into their pages."""

from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from grpo_mmpc.reports.common.labels import number, signed, words

if TYPE_CHECKING:
    import jinja2

_FILTERS: dict[str, Callable[..., Any]] = {"number": number, "signed": signed, "words": words}


@cache
def template(name: str) -> "jinja2.Template":
    """Return the template ``FOLDER/NAME`` of this package, which escapes every value and refuses names that it is not given."""
    import jinja2  # heavy: imported on use

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("grpo_mmpc", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    return environment.get_template(name)


def style(*names: str) -> str:
    """Return the style sheets ``FOLDER/NAME`` of this package, one after the other."""
    return "\n".join(resources.files("grpo_mmpc").joinpath(name).read_text(encoding="utf-8") for name in names)
