"""The evaluator: it runs the suite of a recipe, and its controls, on any number of policies."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.controls import CONTROLS, MAX_POOL, NoTitleBesideError, changed_rows, known_answers
from grpo_mmpc.evaluation.evaluation_folder import finished, headline
from grpo_mmpc.evaluation.runner import run_suite
from grpo_mmpc.evaluation.scorers import Scorers, load_scorers
from grpo_mmpc.evaluation.suite import Suite
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.console import Progress, printer
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.files import remove_partial
from grpo_mmpc.utils.locks import hold, in_use

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer
    from grpo_mmpc.rollout.engine import Engine

LOCK = ".evaluate.lock"

OpenEngine = Callable[[], AbstractContextManager["Engine"]]
"""Opens the policy that is evaluated."""


@dataclass
class Evaluator:
    """Run the suite of one recipe, and its controls, into a folder of evaluations."""

    config: RunConfig
    data: RunData
    suite: Suite
    _: KW_ONLY
    evaluations: Path
    progress: Progress | None = None
    ranks: Ranks = ONE
    num_run: int = 0
    """Suites and controls that were run, not found finished."""

    def say(self, text: str) -> None:
        """Print a line on the main process."""
        printer(self.ranks.is_main)(text)

    @cached_property
    def scorers(self) -> Scorers:
        """The encoders and the renderer of the recipe, loaded at their first use."""
        return load_scorers(self.config)

    def run(self, engine: OpenEngine, *, folder: Path, name: str, policy: str, suite: Suite | None = None) -> None:
        """Run the suite, or another one, into a folder, unless this policy's result is there.

        A collective. ``name`` is that of the checkpoint; for ``policy`` see ``policy_identity``.
        """
        suite = suite or self.suite
        if self.ranks.on_main(lambda: self._is_finished(folder, name=name, key=suite.key, policy=policy)):
            self.say(f"{name}: already evaluated with these items and settings")
            return
        began = time.monotonic()
        self.num_run += 1
        with ExitStack() as stack:
            self.ranks.on_main(partial(self._hold, folder, name, stack))
            opened = stack.enter_context(engine())
            run_suite(
                suite,
                opened,
                folder=folder,
                checkpoint=name,
                policy=policy,
                scorers=lambda: self.scorers,
                ranks=self.ranks,
                progress=self.progress,
            )
        if self.ranks.is_main:
            self.say(f"evaluated {name} in {time.monotonic() - began:.0f} s: {headline(folder)}")

    def _hold(self, folder: Path, name: str, stack: ExitStack) -> None:
        refuse = in_use(folder, EvaluationError, command=f"evaluation of {name}", instead="take another --out")
        stack.enter_context(hold(folder / LOCK, refuse=refuse))
        stack.callback((folder / LOCK).unlink, missing_ok=True)
        remove_partial(folder)

    def _is_finished(self, folder: Path, *, name: str, key: str, policy: str) -> bool:
        """Return whether nothing is to do; removes the lock that a kill at the end has left."""
        is_done = finished(folder, key=key, policy=policy)
        if is_done and (folder / LOCK).exists():
            with suppress(EvaluationError), ExitStack() as stack:
                self._hold(folder, name, stack)
        return is_done

    def run_controls(self, engine: OpenEngine, *, name: str, policy: str) -> None:
        """Run the recipe's controls beside a policy. A collective.

        Those that ask the policy are named after it too; a checkpoint that is the final policy of
        its run has them there. A control that cannot be had is reported and left out; one that the
        catalogue has nothing for is reported only if some controls are chosen.
        """
        # First those that all ranks take part in.
        for control in sorted(self.config.evaluation.controls, key=lambda n: not CONTROLS[n].asks_policy):
            rows = [row for row in self.suite.rows if CONTROLS[control].suits(self.suite.known_tasks[row.task])]
            if rows and CONTROLS[control].asks_policy:
                self._run_on_policy(control, rows, engine, name=name, policy=policy)
            elif rows:
                self.ranks.on_main(partial(self._run_alone, control, rows))

    def renderer(self) -> "Renderer | None":
        """Return the renderer of the recipe, loaded at its first use; None where it names none."""
        return self.scorers.renderer

    def _run_on_policy(
        self, control: str, rows: Sequence[PromptRow], engine: OpenEngine, *, name: str, policy: str
    ) -> None:
        title, final = f"control-{control}-{name}", f"control-{control}-final"
        folders = {one: self.evaluations / one / self.suite.name for one in (title, final)}
        key = replace(self.suite, rows=tuple(rows)).key
        if title != final and self.ranks.on_main(lambda: finished(folders[final], key=key, policy=f"{policy} {final}")):
            self.say(f"{title}: already evaluated as {final}")
            return
        shown = replace(self.suite, rows=tuple(changed_rows(control, rows, folder=folders[title] / "shown")))
        self.run(engine, folder=folders[title], name=title, policy=f"{policy} {title}", suite=shown)

    def _run_alone(self, control: str, rows: Sequence[PromptRow]) -> None:
        suite, title = replace(self.suite, rows=tuple(rows)), f"control-{control}"
        folder = self.evaluations / title / suite.name
        # Retrieved answers depend on encoders and catalogue too: the suite's key holds both.
        policy = f"{title} {suite.key}"
        if self._is_finished(folder, name=title, key=suite.key, policy=policy):
            return
        pool = partial(self.data.training_rows, at_most=MAX_POOL)
        try:
            answers, scorers = known_answers(
                control,
                rows,
                pool=pool,
                beside=self.data.titles_beside,
                scorers=self.scorers,
                known_tasks=suite.known_tasks,
            )
        except EvaluationError as error:
            # Of all controls, which is the default, nobody has asked for this one.
            if not isinstance(error, NoTitleBesideError) or len(self.config.evaluation.controls) < len(CONTROLS):
                self.say(f"left out: {error}")
            return
        alone = replace(self, ranks=ONE)
        alone.scorers = scorers
        self.num_run += 1
        alone.run(lambda: nullcontext(answers), folder=folder, name=title, policy=policy, suite=suite)
