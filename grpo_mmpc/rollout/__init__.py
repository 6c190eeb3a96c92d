"""Where completions come from: one protocol, one module per back end."""

from collections.abc import Sequence
from typing import Protocol

from grpo_mmpc.types import PromptRow, SamplingConfig


class Engine(Protocol):
    """Generates completions for prompt rows with the policy, a checkpoint of it, or its base model."""

    @property
    def rows_at_once(self) -> int:
        """How many rows are worth handing over together; an evaluation keeps what it has after each such piece."""
        ...

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        """One completion per row, in the order of the rows, without special tokens.

        On several ranks every rank passes the same rows, and every rank receives all completions.
        """
        ...
