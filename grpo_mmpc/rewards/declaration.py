"""The reward with its declarations: what a mix must know of a reward besides its scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.errors import RewardError
from grpo_mmpc.types import TARGET_KINDS, RewardFn, TargetKind

NEEDS = ("reference", "image", "attributes", "renderer", "encoder", "tokenizer", "corpus", "server")
"""Words for what a reward cannot score without: the true title, the real image, the catalogue's
known facts, a renderer, a neural encoder, a tokenizer, the reference titles or images of the
training split, a server that the recipe names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A batch reward function with its declarations; called like any ``RewardFn``.

    A plain function with the same attributes does as well. A reward whose parts are module-level
    functions, partials of them, or frozen dataclasses can be pickled.

    Raises:
        RewardError: ``needs`` holds a word that is not in ``NEEDS``.
    """

    score: RewardFn
    value_range: tuple[float, float]
    """Least and greatest value."""
    targets: tuple[TargetKind, ...] = TARGET_KINDS
    """Kinds of answers it can score; completions of tasks that ask for others are unscored."""
    language: str | None = None
    """The only language of answers that it can score, as tasks name it; None = any."""
    worst_score: float = 0.0
    """Value of a malformed completion; never above a well-formed one's."""
    needs: tuple[str, ...] = ()
    """Words of ``NEEDS``: what it cannot score without, besides the completion."""
    fit: Callable[[Sequence[str]], None] | None = None
    """Called once before the first batch with the reference titles of the training split, the same
    on every rank. A reward with ``fit`` that was not fitted raises a RewardError when it is asked
    to score."""
    fit_images: Callable[[Sequence[str]], None] | None = None
    """The same with the paths of the training items' images."""
    prepare: Callable[..., None] | None = None
    """Called with the keyword lists of ``score`` except ``completions`` and ``predictions``, before
    those exist, to encode what is known already while the policy still writes. It only warms
    caches: ``score`` needs no preparation, and may be called early with completions that are done
    before others."""

    def __post_init__(self) -> None:
        unknown = [word for word in self.needs if word not in NEEDS]
        if unknown:
            raise RewardError(f"a reward's needs must be among {', '.join(NEEDS)}; found {unknown[0]!r}")

    def __call__(self, **columns: list[Any]) -> list[float | None]:
        """Score N well-formed completions given as keyword lists."""
        return self.score(**columns)
