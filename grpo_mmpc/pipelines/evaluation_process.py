"""Evaluations of checkpoints in a process of their own, on the run's servers, beside training."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.evaluation.evaluator import Evaluator
from grpo_mmpc.evaluation.suite import build_suite
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.rollout.engines import LateEngine
from grpo_mmpc.utils.console import printer
from grpo_mmpc.utils.jobs import Lost, Running, threads, worker_processes

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """The end of an evaluation in the other process."""

    said: str
    """What it would have printed."""
    is_new: bool
    """It was not there before."""
    failure: str = ""


Begin = Callable[[str], Running[Outcome | Lost]]
"""Begins the evaluation of a checkpoint by its name."""


@contextmanager
def evaluation_process(config: RunConfig) -> Iterator[Begin]:
    """Yield what evaluates checkpoints of a run, one after another, in one process beside this one.

    The process starts with the first checkpoint, takes half of the cores, and ends with the block;
    if that raises, at once.
    """
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    with worker_processes([threads(cores)]) as submit:
        yield lambda name: submit(0, _evaluate, config, name)


# --- In the other process

_EVALUATORS: list[Evaluator] = []


def _evaluate(config: RunConfig, name: str) -> Outcome:
    """Run the suite on a checkpoint into the folder that an evaluation in training would fill."""
    run_dir, said = Path(config.run_dir), StringIO()
    checkpoint = run_dir / "checkpoints" / name
    try:
        with redirect_stdout(said), ExitStack() as stack:
            if not _EVALUATORS:
                data = RunData(config)
                suite = build_suite(config, data)
                _EVALUATORS.append(Evaluator(config, data, suite, evaluations=run_dir / "evaluations"))
            evaluator = _EVALUATORS[0]
            before = evaluator.num_run
            engine = LateEngine(config, checkpoint=checkpoint, stack=stack, say=printer(False))
            evaluator.run(
                lambda: nullcontext(engine),
                folder=evaluator.evaluations / name / evaluator.suite.name,
                name=name,
                policy=policy_identity(config, adapter=checkpoint),
            )
        return Outcome(said=said.getvalue().strip(), is_new=evaluator.num_run > before)
    except Exception as error:  # whatever it is, the training decides what follows
        logger.exception("the evaluation of %s failed", name)
        return Outcome(said="", is_new=False, failure=f"{type(error).__name__}: {error}")
