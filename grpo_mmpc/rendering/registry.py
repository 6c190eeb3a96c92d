"""Renderers by name: ``nano``, ``diffusers``, ``images_api``, or one's own ``module:factory``."""

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from grpo_mmpc.config import nearest
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.utils.content import content_identity, content_of_file
from grpo_mmpc.utils.secrets import without_secrets

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer

RENDERERS = {
    "nano": "grpo_mmpc.nano.renderer:NanoRenderer",
    "diffusers": "grpo_mmpc.rendering.diffusers:DiffusersRenderer",
    "images_api": "grpo_mmpc.rendering.images_api:ImagesApiRenderer",
}
_SAME_IMAGES = ("batch_size", "device", "urls", "timeout_s")
"""Arguments of our own renderers that change speed and memory, not images."""


def load_renderer(reference: str, /, **kwargs: Any) -> "Renderer":
    """Return the renderer that a recipe names.

    Args:
        reference: ``nano``, ``diffusers``, ``images_api``, or ``module:factory``: a class with
            ``render``, or a function that says it returns a ``Renderer``.
        **kwargs: Arguments of the factory, the recipe's ``renderer_kwargs``.

    Raises:
        EvaluationError: There is no such renderer, its factory does not take the arguments, or it
            cannot be loaded.
    """
    factory = _find_factory(reference)
    _check_arguments(reference, factory, kwargs)
    renderer = factory(**kwargs)
    if not callable(getattr(renderer, "render", None)):
        raise EvaluationError(
            f"renderer {reference!r} gave a {type(renderer).__name__}, which has no render(prompts, *, seeds)"
        )
    return renderer  # type: ignore[no-any-return]


def check_renderer(reference: str, kwargs: Mapping[str, Any]) -> None:
    """Check a recipe's renderer without loading a model.

    Raises:
        EvaluationError: As ``load_renderer``, but for the model itself.
    """
    factory = _find_factory(reference)
    _check_arguments(reference, factory, kwargs)
    if reference == "images_api":
        factory(**kwargs)  # sends nothing yet
    if reference == "diffusers":
        from grpo_mmpc.rendering.diffusers import check_pipeline_options

        check_pipeline_options(**kwargs)


def renderer_identity(reference: str, kwargs: Mapping[str, Any] | None = None) -> str:
    """Return what a renderer's images depend on besides prompt and seed, as JSON for hashes.

    The batch size, device and addresses of our own renderers are left out, so that a run that was
    cut off by a full memory can go on with smaller batches without rendering anything again. A
    model is known by its files, a factory of one's own by its source.
    """
    ignored = _SAME_IMAGES if reference in RENDERERS else ()
    relevant = without_secrets({name: value for name, value in (kwargs or {}).items() if name not in ignored})
    if isinstance(relevant.get("model"), str) and (content := content_identity(relevant["model"])) is not None:
        relevant["model"] = content
    source = None if reference in RENDERERS else _source_of(reference)
    own = [] if source is None else [content_of_file(source)]
    return json.dumps([reference, relevant, *own], sort_keys=True, default=str)


def _source_of(reference: str) -> Path | None:
    try:
        found = importlib.util.find_spec(reference.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found is not None and found.origin and Path(found.origin).is_file() else None


def _find_factory(reference: str) -> Callable[..., Any]:
    module, separator, attribute = RENDERERS.get(reference, reference).partition(":")
    if not separator:
        raise EvaluationError(
            f"unknown renderer {reference!r} ({nearest(reference, RENDERERS)}); for your own write module:factory"
        )
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way while being imported
        raise EvaluationError(f"renderer {reference!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise EvaluationError(f"renderer {reference!r} is a {type(factory).__name__}; expected a class or function")
    if not _makes_renderer(factory):
        raise EvaluationError(
            f"renderer {reference!r} is not known to make one, and is not called: it must be a class with render, or "
            "say what it returns (-> Renderer, from grpo_mmpc.rendering.renderer import Renderer)"
        )
    return factory  # type: ignore[no-any-return]


def _makes_renderer(factory: Callable[..., Any]) -> bool:
    """Return whether a target is a class of renderers, or says that it returns one."""
    made: Any = factory
    if not isinstance(factory, type):
        try:
            made = get_type_hints(factory).get("return")
        except (NameError, TypeError, AttributeError):  # a name that only type checkers import
            made = getattr(factory, "__annotations__", {}).get("return")
    name = made if isinstance(made, str) else ""
    return callable(getattr(made, "render", None)) or name.strip("'\"").rpartition(".")[2] == "Renderer"


def _check_arguments(reference: str, factory: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters.values()
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = {p.name for p in by_name}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in kwargs:
            if name not in known:
                takes = nearest(name, known) if known else "it takes none"
                raise EvaluationError(f"renderer {reference!r} takes no argument {name!r}; {takes}")
    absent = [p.name for p in by_name if p.default is p.empty and p.name not in kwargs]
    if absent:
        raise EvaluationError(f"renderer {reference!r} needs the argument {', '.join(absent)} in renderer_kwargs")
