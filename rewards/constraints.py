"""The reward for keeping what a seller demands of every title."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from grpo_mmpc.errors import RewardError
from grpo_mmpc.metrics.constraints import Constraints, LetterCase
from grpo_mmpc.rewards.declaration import Reward


def constraints(
    *,
    length: Sequence[int] = (1, 200),
    banned: Sequence[str] = (),
    brands: Sequence[str] = (),
    required: Sequence[str] = (),
    letter_case: str | None = None,
    language: str | None = None,
) -> Reward:
    """Score the share of a seller's demands that a title keeps.

    The demands are the list that the gate of ``grpo-mmpc complete`` checks, ``gate.constraints``;
    see ``grpo_mmpc.metrics.constraints``. Without any, a title of 1 to 200 characters.

    Range: [0, 1]. Needs: nothing; ``attributes`` where they are known. Cost: 30 ms for 64
    completions with every demand, 14 ms more with a language.

    Gamed by: any text that keeps the form; the values of ``required`` in a bare list.

    Args:
        length: The least and the greatest number of characters.
        banned: Words and phrases that it must not contain.
        brands: Brands of which it must name one; the item's own, if that is among them.
        required: Kinds of attributes that it must state, where the item has them.
        letter_case: ``title`` or ``no_capitals``; null leaves it free.
        language: ``english``; null leaves it free.

    Raises:
        RewardError: A demand is impossible.

    Example:
        >>> constraints(length=[5, 20], banned=["sale"])(predictions=["Red Mug", "SALE: Red Mug"])
        [1.0, 0.5]
    """
    try:
        demands = Constraints(
            length=length,
            banned=banned,
            brands=brands,
            required=required,
            letter_case=cast("LetterCase | None", letter_case),
            language=cast('Literal["english"] | None', language),
        )
    except ValueError as error:
        raise RewardError(f"constraints: {error}") from error
    return Reward(score=_Kept(demands), value_range=(0.0, 1.0), targets=("text",))


@dataclass(frozen=True, slots=True)
class _Kept:
    constraints: Constraints

    def __call__(
        self,
        *,
        predictions: list[str],
        attributes: list[Mapping[str, str] | None] | None = None,
        **_columns: list[Any],
    ) -> list[float | None]:
        facts = attributes or [None] * len(predictions)
        return [
            1.0 - len(self.constraints.check(text, known or {})) / len(self.constraints)
            for text, known in zip(predictions, facts, strict=True)
        ]
