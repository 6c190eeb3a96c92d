"""One run from start to end: data, base evaluation, training, final evaluation, comparison, report.

Training and evaluation do not know each other: this module hands the trainer a function that
evaluates.
"""

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import write_quarantine
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluator import Evaluator
from grpo_mmpc.evaluation.suite import Suite, build_suite
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.recbench import benchmark_policy
from grpo_mmpc.rollout.run_data import RunData
from grpo_mmpc.training.checkpoint import checkpoint_folder
from grpo_mmpc.training.claim import check_claim, claim
from grpo_mmpc.utils.console import Progress, Say, printer, quiet_when_redirected
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.distributed import launched_ranks
from grpo_mmpc.utils.files import copy_folder, write_json
from grpo_mmpc.utils.manifest import command_line, environment, now

if TYPE_CHECKING:
    from grpo_mmpc.training.session import TrainingSession

PATIENCE_S = 24 * 3600
"""Seconds that ranks wait for one another, unless ``trainer.ddp_timeout`` says otherwise."""
INTERRUPTED = 130
"""Exit status of a run that was interrupted and can be continued."""


def run_recipe(recipe: Sequence[str], *, resume: bool = False, overwrite: bool = False) -> int:
    """Load and check files and ``key=value`` overrides, then run them; see ``run_training``.

    Raises:
        ConfigError: Something is wrong with the recipe.
    """
    return run_training(load_recipe(recipe), resume=resume, overwrite=overwrite)


def run_training(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Run a recipe; returns the exit status: 0, 1 if an evaluation failed, ``INTERRUPTED``.

    Raises:
        TrainingError: The run folder is in the way, there is nothing to resume, or the recipe has
            changed since.
    """
    started = time.monotonic()
    if int(os.environ.get("RANK", "0")) == 0:  # before anything slow; ranks know each other only below
        check_claim(config, resume=resume, overwrite=overwrite)
    data = _read_data(config)
    ranks = launched_ranks()
    say = printer(ranks.is_main)
    if ranks.is_main:
        claim(config, overwrite=overwrite)
    say(
        f"{config.data.catalogue}: {len(data.train)} training and {len(data.held_out)} held-out items, "
        f"{data.incomplete} without title or image left out"
    )
    if data.catalogue.quarantined:
        path = Path(config.run_dir) / "quarantine.jsonl"
        if ranks.is_main:
            write_quarantine(path, data.catalogue.quarantined)
        say(f"{len(data.catalogue.quarantined)} broken rows set aside, reasons in {path}")
    quiet_when_redirected()
    say(f"loading {config.model.name_or_path} ...")
    # heavy: imported on use
    from grpo_mmpc.training.session import TrainingSession

    progress = Progress()
    session = TrainingSession(config, data, progress=progress)
    try:
        suite = build_suite(config, data)
        manifest = _manifest(config, data, suite, session)
        if ranks.is_main:
            write_json(Path(config.run_dir) / "manifest.json", manifest, indent=2, default=str)
        say(
            f"training {session.trainable_parameters:,} of {session.parameters:,} parameters, "
            f"writing to {config.run_dir}"
        )
        policies = _LivePolicies(config, data, suite, session, progress=progress if ranks.is_main else None)
        end = session.train(
            before=policies.evaluate if config.evaluation.before else None,
            after_save=policies.evaluate if config.evaluation.checkpoints else None,
            resume=resume,
        )
        if end.interrupted:
            say(f"\nstopped at step {end.step} of {end.max_steps}; continue with:\n  {command_line(resume=True)}")
            return INTERRUPTED
        policies.evaluate_final(end.step)
        manifest |= {
            "finished": now(),
            "seconds": round(time.monotonic() - started, 1),
            "steps": end.step,
            "reward_errors": end.reward_errors,
            "evaluation_failures": session.hook.failures,
        }
        ranks.on_main(lambda: _report(config, manifest, say))
        return 1 if session.hook.failures else 0
    finally:
        progress.close()
        session.close()


def _read_data(config: RunConfig) -> RunData:
    """Read the catalogue, on the main process first: the others find it in the cache."""
    ensure_importable()
    # heavy: imported on use
    from accelerate import PartialState

    # While the main process renders and scores thousands of items, the others wait in a collective.
    limit = timedelta(seconds=config.trainer.get("ddp_timeout", PATIENCE_S))
    with PartialState(timeout=limit).main_process_first():
        return RunData(config)


class _LivePolicies:
    """Evaluates the policy in training by name: ``base``, ``checkpoint-N``, ``final``."""

    def __init__(
        self,
        config: RunConfig,
        data: RunData,
        suite: Suite,
        session: "TrainingSession",
        *,
        progress: Progress | None,
    ) -> None:
        self._run_dir = Path(config.run_dir)
        self._config = config
        self._suite = suite
        self._session = session
        self._started = now()
        self._evaluator = Evaluator(
            config,
            data,
            suite,
            evaluations=self._run_dir / "evaluations",
            progress=progress,
            ranks=session.ranks,
        )

    def evaluate(self, name: str) -> None:
        """Run the suite on the policy as it is now; on the base model RecBench too."""
        is_base = name == "base"
        folder = self._folder(name)
        self._evaluator.run(
            lambda: self._session.engine(base=is_base), folder=folder, name=name, policy=self._identity(name)
        )
        if is_base:
            self._evaluate_recommendation(name)

    def evaluate_final(self, step: int) -> None:
        """Run suite, controls and recommendation benchmark on the trained policy. A collective."""
        last, ranks = self._folder(f"checkpoint-{step}"), self._session.ranks
        if ranks.on_main(lambda: (last / "summary.json").is_file()):
            # The last checkpoint holds the final weights, and greedy decoding would give the same
            # completions again.
            if ranks.is_main:
                copy_folder(last, self._folder("final"))
            printer(ranks.is_main)(f"final: the evaluation of checkpoint-{step}")
        else:
            self._session.hook.run(self.evaluate, "final")
        self._session.hook.run(self._evaluate_controls, "final")
        self._session.hook.run(self._evaluate_recommendation, "final")

    def _evaluate_controls(self, name: str) -> None:
        self._evaluator.run_controls(lambda: self._session.engine(base=False), name=name, policy=self._identity(name))

    def _evaluate_recommendation(self, name: str) -> None:
        benchmark_policy(
            self._evaluator,
            lambda: self._session.engine(base=name == "base"),
            name=name,
            policy=self._identity(name),
        )

    def _folder(self, name: str) -> Path:
        return self._run_dir / "evaluations" / name / self._suite.name

    def _identity(self, name: str) -> str:
        checkpoints = self._run_dir / "checkpoints"
        saved = checkpoint_folder(checkpoints, self._session.step) if name == "final" else checkpoints / name
        known = policy_identity(self._config, adapter=saved if saved.is_dir() else None)
        # A policy that was never saved has no weights on disk to be known by: it is that of this
        # very process.
        return known if name == "base" or saved.is_dir() else f"{known} {name} {self._started}"


def _manifest(config: RunConfig, data: RunData, suite: Suite, session: "TrainingSession") -> dict[str, Any]:
    return {
        "command": command_line(),
        "started": now(),
        "seed": config.seed,
        **environment(),
        "data": data.summary(config),
        "trainable_parameters": session.trainable_parameters,
        "parameters": session.parameters,
        "suite": {"name": suite.name, "key": suite.key, "items": len(suite.rows)},
    }


def _report(config: RunConfig, manifest: dict[str, Any], say: Say) -> None:
    from grpo_mmpc.evaluation.best import choose_best, write_best
    from grpo_mmpc.evaluation.comparison import write_comparison

    run_dir, settings = Path(config.run_dir), config.evaluation
    write_json(run_dir / "manifest.json", manifest, indent=2, default=str)
    reported = "final"
    if settings.best is not None:
        try:
            best = choose_best(run_dir, suite=settings.suite, metric=settings.best.metric, items=settings.best.items)
        except EvaluationError as error:
            say(f"no best checkpoint: {error}; reporting the last one")
        else:
            write_best(run_dir, best)
            reported = best.checkpoint
            say(f"best checkpoint by {best.metric} on {best.num_items} items: {reported} ({best.values[reported]:.4f})")
    following = f"grpo-mmpc evaluate {run_dir / 'config.yaml'} --base"
    base, after = (run_dir / "evaluations" / name / settings.suite for name in ("base", reported))
    if (base / "summary.json").is_file() and (after / "summary.json").is_file():
        path = write_comparison(run_dir, after=reported, suite=settings.suite, resamples=settings.resamples)
        say(f"comparison: {path}")
        following = f"grpo-mmpc compare {base} {after}"
    if config.report.enabled:
        from grpo_mmpc.reports.run.page import build_report

        say(f"report: {build_report(run_dir).resolve()}")
    say(f"next: {following}")
