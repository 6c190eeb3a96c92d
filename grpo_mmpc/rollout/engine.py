"""The protocol of everything that answers prompts, and how rows are dealt over ranks."""

from collections.abc import Callable, Sequence
from typing import Protocol

from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import Ranks


class Engine(Protocol):
    """Answers prompts with the policy, a checkpoint of it, or its base model."""

    @property
    def rows_at_once(self) -> int:
        """Rows that are worth handing over together; evaluations save their answers in between."""

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        """Return one completion per row, in the order of the rows, without special tokens.

        On several ranks every rank passes the same rows, and every rank receives all completions.
        """


def deal_over_ranks(
    rows: Sequence[PromptRow], answer: Callable[[Sequence[PromptRow]], list[str]], ranks: Ranks
) -> list[str]:
    """Answer each row on one rank, and return all completions on every rank.

    All ranks answer equally many rows (a short one repeats a row and drops the result), because a
    forward pass can be a collective, and an uneven last piece would hang.

    Args:
        rows: The same on every rank.
        answer: Returns one completion for each of this rank's rows.
        ranks: Those that share the work.
    """
    if not rows:
        return []
    mine = list(range(ranks.rank, len(rows), ranks.count))
    num_missing = -(-len(rows) // ranks.count) - len(mine)
    completions = answer([*(rows[i] for i in mine), *[rows[0]] * num_missing])
    return [completion for _, completion in sorted(ranks.gather(list(zip(mine, completions, strict=False))))]
