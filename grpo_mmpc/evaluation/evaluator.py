"""Runs the suite of a recipe on any number of policies, and its controls, into a folder of evaluations."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.types import PromptRow
from grpo_mmpc.utils.console import Progress, printer
from grpo_mmpc.utils.distributed import ONE, Ranks

if TYPE_CHECKING:
    from grpo_mmpc.evaluation.runner import Scorers
    from grpo_mmpc.evaluation.suite import Suite
    from grpo_mmpc.rendering.renderer import Renderer
    from grpo_mmpc.rollout.engine import Engine


from grpo_mmpc.evaluation.run_data import RunData
from grpo_mmpc.evaluation.scorers import load_scorers


class Evaluator:
    """Runs the suite of one recipe on any number of policies, and its controls, into a folder of evaluations."""

    def __init__(
        self,
        config: RunConfig,
        data: RunData,
        suite: "Suite",
        *,
        evaluations: Path,
        progress: "Progress | None" = None,
        ranks: Ranks = ONE,
    ) -> None:
        """Keep references.

        Args:
            config: The recipe.
            data: Its data.
            suite: See ``build_suite``.
            evaluations: Folder of all evaluations.
            progress: Shown on the main process.
            ranks: This process among the others.
        """
        self.suite = suite
        self.config = config
        self.data = data
        self.evaluations = evaluations
        self.progress = progress
        self.ranks = ranks
        self._scorers: Callable[[], Scorers] = cache(lambda: load_scorers(config))
        self.say = printer(ranks.is_main)

    def run(
        self, engine: Callable[[], AbstractContextManager["Engine"]], *, folder: Path, name: str, policy: str
    ) -> None:
        """Run the suite into a folder, unless it was already run there on this policy. A collective.

        Args:
            engine: Opens the policy.
            folder: Where to.
            name: Of the checkpoint.
            policy: See ``policy_identity``.
        """
        self._run_suite(self.suite, engine, self._scorers, folder=folder, name=name, policy=policy)

    def run_controls(self, engine: Callable[[], AbstractContextManager["Engine"]], *, name: str, policy: str) -> None:
        """Run the recipe's controls beside a policy. A collective.

        Those that ask the policy are named after it too; a checkpoint that is the final policy of
        its run has them there. A control that cannot be had is reported and left out.
        """
        # heavy: imported on use
        from grpo_mmpc.evaluation.controls import CONTROLS, changed_rows
        from grpo_mmpc.evaluation.runner import finished

        # First those that all ranks take part in.
        for control_name in sorted(self.config.evaluation.controls, key=lambda n: not CONTROLS[n].asks_policy):
            control = CONTROLS[control_name]
            rows = self.suite.rows_of(control.task)
            if not rows:
                continue
            title = f"control-{control_name}" + (f"-{name}" if control.asks_policy else "")
            folder = self.evaluations / title / self.suite.name
            if control.asks_policy:
                final = f"control-{control_name}-final"
                same = partial(
                    finished,
                    self.evaluations / final / self.suite.name,
                    replace(self.suite, rows=tuple(rows)),
                    policy=f"{policy} {final}",
                )
                if title != final and self.ranks.on_main(same):
                    self.say(f"{title}: already evaluated as {final}")
                    continue
                shown = changed_rows(control_name, rows, folder=folder / "shown")
                suite = replace(self.suite, rows=tuple(shown))
                self._run_suite(suite, engine, self._scorers, folder=folder, name=title, policy=f"{policy} {title}")
                continue
            self.ranks.on_main(partial(self._run_alone, control_name, rows, folder=folder))

    def renderer(self) -> "Renderer | None":
        """Return the renderer of the recipe, loaded at its first use; None where it names none."""
        return self._scorers().renderer

    def _run_alone(self, name: str, rows: Sequence[PromptRow], *, folder: Path) -> None:
        """A control that asks no policy, on the main process."""
        # heavy: imported on use
        from grpo_mmpc.evaluation.controls import CONTROLS, MAX_POOL, known_answers
        from grpo_mmpc.evaluation.runner import finished

        def pool() -> list[PromptRow]:
            return self.data.training_rows(CONTROLS[name].task, at_most=MAX_POOL)

        suite = replace(self.suite, rows=tuple(rows))
        # Retrieved answers depend on encoders and catalogue too: the suite's key holds both.
        policy = f"{folder.parent.name} {suite.key}"
        if finished(folder, suite, policy=policy):
            return
        try:
            answers, scorers = known_answers(name, rows, pool=pool, scorers=self._scorers())
        except EvaluationError as error:
            self.say(f"left out: {error}")
            return
        self._run_suite(
            suite,
            lambda: nullcontext(answers),
            lambda: scorers,
            folder=folder,
            name=folder.parent.name,
            policy=policy,
            ranks=ONE,
        )

    def _run_suite(
        self,
        suite: "Suite",
        engine: Callable[[], AbstractContextManager["Engine"]],
        scorers: Callable[[], "Scorers"],
        *,
        folder: Path,
        name: str,
        policy: str,
        ranks: Ranks | None = None,
    ) -> None:
        """One suite on one engine; ``ranks`` where not all take part."""
        # heavy: imported on use
        from grpo_mmpc.evaluation.runner import finished, run_suite

        ranks = ranks or self.ranks
        if ranks.on_main(lambda: finished(folder, suite, policy=policy)):
            self.say(f"{name}: already evaluated with these items and settings")
            return
        began = time.monotonic()
        with engine() as opened:
            run_suite(
                suite,
                opened,
                folder=folder,
                checkpoint=name,
                policy=policy,
                scorers=scorers,
                ranks=ranks,
                progress=self.progress,
            )
        if ranks.is_main:
            self.say(f"evaluated {name} in {time.monotonic() - began:.0f} s: {headline(folder)}")


def headline(folder: Path) -> str:
    """One metric or two per task out of a summary."""
    tasks = json.loads((folder / "summary.json").read_text("utf-8"))["tasks"]
    shown = ("bleu", "bertscore_f1", "clip_image_image", "parse_rate")
    parts = []
    for task, result in tasks.items():
        values = [
            f"{name} {result['metrics'][name]['mean']:.3f}"
            for name in shown
            if name in result["metrics"] and result["metrics"][name]["mean"] is not None
        ]
        parts.append(f"{task}: {', '.join(values)}")
    return "; ".join(parts)
