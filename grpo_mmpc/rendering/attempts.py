"""Render in batches, and single out the images of a failing batch that fail, with the reason."""

import sys
from collections.abc import Callable, Sequence

from grpo_mmpc.errors import EvaluationError, first_line
from grpo_mmpc.rendering.renderer import Rendered

FAILURES = (RuntimeError, ValueError, MemoryError)
"""Exceptions that count as the failure of an image; others are bugs or interruptions."""


RenderBatch = Callable[[list[str], list[int]], list[Rendered]]


def attempt(
    render_batch: RenderBatch, prompts: Sequence[str], *, seeds: Sequence[int], batch_size: int
) -> list[Rendered]:
    """Render N prompts in batches; a batch that fails is halved until what fails stands alone.

    Halving also is the answer to a batch that does not fit into memory.

    Returns:
        N results in the order of the prompts.

    Raises:
        EvaluationError: The fault is not a prompt's: a single image does not fit into memory, or
            different prompts all raise the very same error. Recording that would score the model
            for a broken renderer.
        ValueError: There are not as many seeds as prompts.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"found {len(prompts)} prompts and {len(seeds)} seeds; give one seed per prompt")
    results: list[Rendered] = []
    for start in range(0, len(prompts), batch_size):
        batch = slice(start, start + batch_size)
        results += _halving(render_batch, list(prompts[batch]), list(seeds[batch]))
    if len(set(prompts)) > 1 and all(r.raised for r in results) and len({r.reason for r in results}) == 1:
        raise EvaluationError(
            f"the renderer failed in the same way on all of {len(prompts)} images, so the prompts are not to blame: "
            f"{results[0].reason}. A prompt that cannot be rendered should give None, not an error"
        )
    return results


def _halving(render_batch: RenderBatch, prompts: list[str], seeds: list[int]) -> list[Rendered]:
    try:
        return render_batch(prompts, seeds)
    except FAILURES as error:
        # The device is lost for this process: whatever follows would fail, too.
        if _is_torch_error(error, "AcceleratorError"):
            raise
        out_of_memory = is_out_of_memory(error)
        if len(prompts) == 1:
            if out_of_memory:
                raise EvaluationError(
                    f"not even one image fits into memory: {first_line(error)}. Make it smaller (height, width), "
                    "load the model in float16, leave a text encoder out, or free the device"
                ) from error
            return [Rendered(reason=f"{type(error).__name__}: {first_line(error)}", raised=True)]
    # Outside the except block, because the error's traceback keeps the tensors of the failed batch
    # alive.
    if out_of_memory:
        _free_memory()
    half = len(prompts) // 2
    return [
        *_halving(render_batch, prompts[:half], seeds[:half]),
        *_halving(render_batch, prompts[half:], seeds[half:]),
    ]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is Python's or torch's for a full memory."""
    return isinstance(error, MemoryError) or _is_torch_error(error, "OutOfMemoryError")


def _is_torch_error(error: BaseException, name: str) -> bool:
    # A torch error means that torch is imported; a renderer without torch must not pay for
    # importing it.
    kind = getattr(sys.modules.get("torch"), name, None)
    return kind is not None and isinstance(error, kind)


def _free_memory() -> None:
    # Without the attribute, torch is being imported by another thread.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_available():
        cuda.empty_cache()
