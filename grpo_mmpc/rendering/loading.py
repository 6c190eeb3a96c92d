"""Renderers by name: ``nano``, or ``module:factory`` for one's own."""

import importlib
from typing import TYPE_CHECKING

from grpo_mmpc.errors import EvaluationError

if TYPE_CHECKING:
    from grpo_mmpc.rendering import Renderer


def load_renderer(reference: str) -> "Renderer":
    """The renderer a recipe names.

    Args:
        reference: ``nano``, or ``module:factory`` where the factory takes no arguments and returns a ``Renderer``.

    Raises:
        EvaluationError: There is no such renderer.
    """
    target = {"nano": "grpo_mmpc.rendering.nano:NanoRenderer"}.get(reference, reference)
    module, separator, attribute = target.partition(":")
    if not separator:
        raise EvaluationError(f"unknown renderer {reference!r}; known: nano, or write module:factory")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise EvaluationError(f"renderer {reference!r} cannot be loaded: {error}") from error
    renderer: Renderer = factory()
    return renderer
