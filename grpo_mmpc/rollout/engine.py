"""The protocol of everything that answers prompts, and how rows are dealt over ranks."""

from collections.abc import Callable, Sequence
from typing import Protocol

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.single_out import Failure


class Engine(Protocol):
    """Answers prompts with the policy, a checkpoint of it, or its base model."""

    @property
    def rows_at_once(self) -> int:
        """Rows that are worth handing over together; evaluations save their answers in between."""

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> Sequence[str | Failure]:
        """Return one completion per row, in the order of the rows, without special tokens.

        A row that processor, tokenizer, model or engine do not take comes back as a ``Failure``
        with the reason; it costs no other row anything.

        On several ranks every rank passes the same rows, and every rank receives all completions.
        """


def deal_over_ranks(
    rows: Sequence[PromptRow],
    answer: Callable[[Sequence[PromptRow]], list[str | Failure]],
    ranks: Ranks,
    *,
    is_collective: bool = False,
) -> list[str | Failure]:
    """Answer each row on one rank, and return all completions on every rank.

    All ranks answer equally many rows (a short one repeats a row and drops the result), because a
    forward pass can be a collective, and an uneven last piece would hang.

    Args:
        rows: The same on every rank.
        answer: Returns one completion for each of this rank's rows.
        ranks: Those that share the work.
        is_collective: Whether ranks wait for each other while they answer. Then one that raises
            leaves at once, by which the launcher ends the others.

    Raises:
        RolloutError: Another rank failed.
    """
    if not rows:
        return []
    mine = list(range(ranks.rank, len(rows), ranks.count))
    num_missing = -(-len(rows) // ranks.count) - len(mine)

    def work() -> list[tuple[int, str | Failure]]:
        return list(zip(mine, answer([*(rows[i] for i in mine), *[rows[0]] * num_missing]), strict=False))

    pieces = ranks.gather([work()]) if is_collective else ranks.on_all(work, error=RolloutError)
    by_row = dict(pair for piece in pieces for pair in piece)
    return [by_row[i] for i in range(len(rows))]
