"""The engines of a recipe on this machine, one a device, behind one ``Engine``."""

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError, first_line
from grpo_mmpc.rollout.offline import engine_shares, offline_engine
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.jobs import Lost, Running, run_queue, worker_processes
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from grpo_mmpc.rollout.engine import Engine


@contextmanager
def engines_of_this_machine(config: RunConfig, *, checkpoint: Path | None, workers: int | None) -> Iterator["Engine"]:
    """Start the recipe's engine as often as this machine has devices for it.

    A single one is started in this process. Each of several answers the batches that a single one
    would, so that all completions are the same.

    Args:
        config: The recipe.
        checkpoint: See ``offline_engine``.
        workers: See ``engine_shares``.

    Raises:
        GrpoMmpcError: The engine cannot start.
    """
    shares = engine_shares(config, workers=workers)
    if len(shares) == 1:
        with offline_engine(config, checkpoint=checkpoint) as engine:
            yield engine
        return
    with worker_processes(shares) as submit:
        engines = Engines(submit, config, checkpoint, len(shares), rows_each=0)
        started = engines.call(_start, [()] * len(shares))
        yield Engines(submit, config, checkpoint, len(shares), rows_each=started[0])


class LateEngine:
    """The recipe's engines, started by the first prompt: none where all is known."""

    def __init__(
        self,
        config: RunConfig,
        *,
        checkpoint: Path | None,
        stack: ExitStack,
        say: Callable[[str], None],
        workers: int | None = 1,
    ) -> None:
        self._config, self._checkpoint, self._stack, self._say = config, checkpoint, stack, say
        self._workers = workers

    @cached_property
    def _engine(self) -> "Engine":
        adapter = "" if self._checkpoint is None else f" with adapter {self._checkpoint}"
        self._say(f"loading {self._config.model.name_or_path}{adapter} ...")
        engines = engines_of_this_machine(self._config, checkpoint=self._checkpoint, workers=self._workers)
        return self._stack.enter_context(engines)

    @property
    def rows_at_once(self) -> int:
        """See ``Engine``."""
        return self._engine.rows_at_once

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> "Sequence[str | Failure]":
        """See ``Engine``."""
        return self._engine.generate(rows, sampling)


@dataclass(frozen=True)
class Engines:
    """Implements ``Engine`` by one engine in each of several processes."""

    submit: Callable[..., Running[Any]]
    """Of ``worker_processes``."""
    config: RunConfig
    checkpoint: Path | None
    count: int
    rows_each: int
    """``rows_at_once`` of one of them."""

    @property
    def rows_at_once(self) -> int:
        """Those of all engines."""
        return self.rows_each * self.count

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str | Failure]:
        """See ``Engine.generate``."""
        batches = [(rows[start : start + self.rows_each], sampling) for start in range(0, len(rows), self.rows_each)]
        return [completion for batch in self.call(_generate, batches) for completion in batch]

    def call(self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a function for each job in the process of an engine.

        Raises:
            RolloutError: A process was killed.
        """

        def start(job: int, process: int) -> Running[Any]:
            return self.submit(process, function, self.config, self.checkpoint, *jobs[job])

        results = dict(run_queue(range(len(jobs)), start, slots=range(self.count), ended=_refuse_lost))
        return [results[job] for job in range(len(jobs))]


def _refuse_lost(job: int, result: Any, again: bool) -> None:
    if isinstance(result, Lost):
        raise RolloutError(
            "the process of an engine was killed, as the system does when memory runs out "
            f"({first_line(result.error)}); what is completed is kept: give the command again, with fewer --workers "
            "or a smaller evaluation.batch_size"
        )


# --- In the processes

_ENGINE: "list[Engine]" = []


def _start(config: RunConfig, checkpoint: Path | None) -> int:
    """Start the engine of this process, if that is still to do; return its ``rows_at_once``."""
    if not _ENGINE:
        stack = ExitStack()
        atexit.register(stack.close)
        _ENGINE.append(stack.enter_context(offline_engine(config, checkpoint=checkpoint)))
    return _ENGINE[0].rows_at_once


def _generate(
    config: RunConfig, checkpoint: Path | None, rows: Sequence[PromptRow], sampling: SamplingConfig
) -> list[str | Failure]:
    _start(config, checkpoint)
    return list(_ENGINE[0].generate(rows, sampling))
