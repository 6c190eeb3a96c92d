"""One run from start to end: catalogue, split, base evaluation, training, final evaluation, comparison, report.

Training and evaluation do not know each other; this module hands the trainer's hook a function that
evaluates.
"""

import os
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from grpo_mmpc.catalogue import write_quarantine
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import EvaluationError, TrainingError
from grpo_mmpc.evaluation.evaluator import Evaluator
from grpo_mmpc.evaluation.run_data import RunData
from grpo_mmpc.evaluation.suite import build_suite
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.recbench import benchmark_policy
from grpo_mmpc.utils.console import Progress, printer, quiet_when_redirected
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.distributed import launched_ranks
from grpo_mmpc.utils.files import copy_folder
from grpo_mmpc.utils.manifest import command_line, environment, now, write_manifest

if TYPE_CHECKING:
    from grpo_mmpc.training.session import TrainingSession

PATIENCE_S = 24 * 3600
"""How long ranks wait for one another, unless ``trainer.ddp_timeout`` says otherwise."""


def run_training(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Run a recipe; returns the exit status (130 when it was interrupted and can be resumed).

    Args:
        config: The resolved recipe, already checked.
        resume: Continue from the newest checkpoint of ``run_dir``.
        overwrite: Delete what an earlier run left in ``run_dir``.

    Raises:
        TrainingError: The run folder is in the way, there is nothing to resume, or the recipe has
            changed since.
    """
    ensure_importable()
    # heavy: imported on use
    from accelerate import PartialState

    started = time.monotonic()
    run_dir = Path(config.run_dir)
    is_main = int(os.environ.get("RANK", "0")) == 0
    say = printer(is_main)
    if is_main:
        _check_folder(run_dir, config, resume=resume, overwrite=overwrite)

    from grpo_mmpc.training.session import TrainingSession

    # While the main process renders and scores thousands of items, the other ranks wait in a
    # collective.
    limit = timedelta(seconds=config.trainer.get("ddp_timeout", PATIENCE_S))
    with PartialState(timeout=limit).main_process_first():
        data = RunData(config)
    if is_main:
        # Only now, with the data at hand: a start that fails must not cost the run that is there.
        _prepare_folder(run_dir, config, overwrite=overwrite)
    if is_main and data.catalogue.quarantined:
        write_quarantine(run_dir / "quarantine.jsonl", data.catalogue.quarantined)
    say(
        f"{config.data.catalogue}: {len(data.train)} training and {len(data.held_out)} held-out items, "
        f"{data.incomplete} without title or image left out"
    )
    if data.catalogue.quarantined:
        say(f"{len(data.catalogue.quarantined)} broken rows set aside, reasons in {run_dir / 'quarantine.jsonl'}")

    quiet_when_redirected()
    say(f"loading {config.model.name_or_path} ...")
    session = TrainingSession(config, catalogue=data.catalogue, train_indices=data.train)
    try:
        return _train_and_evaluate(session, config, data, resume=resume, started=started, is_main=is_main)
    finally:
        session.close()


def _train_and_evaluate(
    session: "TrainingSession", config: RunConfig, data: RunData, *, resume: bool, started: float, is_main: bool
) -> int:
    """The run itself: evaluation before, training with evaluations, final evaluation, comparison, report."""
    run_dir, say = Path(config.run_dir), printer(is_main)
    ranks = launched_ranks()
    evaluations = run_dir / "evaluations"
    evaluation = Evaluator(
        config,
        data,
        build_suite(config, data),
        evaluations=evaluations,
        progress=Progress() if is_main else None,
        ranks=ranks,
    )
    suite = evaluation.suite

    started_at = now()

    def identity(name: str) -> str:
        saved = run_dir / "checkpoints" / (f"checkpoint-{session.step}" if name == "final" else name)
        known = policy_identity(config, adapter=saved if saved.is_dir() else None)
        # A policy that was never saved has no weights on disk to be known by: it is that of this
        # very process.
        return known if name == "base" or saved.is_dir() else f"{known} {name} {started_at}"

    def evaluate(name: str) -> None:
        folder = evaluations / name / suite.name
        evaluation.run(lambda: session.engine(base=name == "base"), folder=folder, name=name, policy=identity(name))
        if name == "base":
            evaluate_recommendation(name)

    def evaluate_recommendation(name: str) -> None:
        benchmark_policy(evaluation, lambda: session.engine(base=name == "base"), name=name, policy=identity(name))

    def evaluate_controls(name: str) -> None:
        evaluation.run_controls(lambda: session.engine(base=False), name=name, policy=identity(name))

    manifest = {
        "command": command_line(),
        "started": started_at,
        "seed": config.seed,
        **environment(),
        "data": data.summary(config),
        "trainable_parameters": session.trainable_parameters,
        "parameters": session.parameters,
        "suite": {"name": suite.name, "key": suite.key, "items": len(suite.rows)},
    }
    if is_main:
        write_manifest(run_dir / "manifest.json", manifest)

    say(f"training {session.trainable_parameters:,} of {session.parameters:,} parameters, writing to {run_dir}")
    outcome = session.train(
        before=evaluate if config.evaluation.before else None,
        after_save=evaluate if config.evaluation.checkpoints else None,
        resume=resume,
    )
    if outcome.interrupted:
        say(f"\nstopped at step {outcome.step} of {outcome.max_steps}; continue with:\n  {_resume_command()}")
        return 130
    last = evaluations / f"checkpoint-{outcome.step}" / suite.name
    if ranks.on_main(lambda: (last / "summary.json").is_file()):
        # The last checkpoint holds the final weights, and greedy decoding would give the same
        # completions again.
        if is_main:
            copy_folder(last, evaluations / "final" / suite.name)
        say(f"final: the evaluation of checkpoint-{outcome.step}")
    else:
        session.hook.run(evaluate, "final")
    session.hook.run(evaluate_controls, "final")
    session.hook.run(evaluate_recommendation, "final")

    def finish() -> None:
        finished = {
            "finished": now(),
            "seconds": round(time.monotonic() - started, 1),
            "steps": outcome.step,
            "reward_errors": outcome.reward_errors,
            "evaluation_failures": session.hook.failures,
        }
        write_manifest(run_dir / "manifest.json", manifest | finished)
        _finish(config, run_dir, say)

    ranks.on_main(finish)
    return 1 if session.hook.failures else 0


def _check_folder(run_dir: Path, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs in one folder, and to delete what is no run."""
    recorded = run_dir / "config.yaml"
    left = {path.name for path in run_dir.iterdir()} if run_dir.is_dir() else set()
    is_fresh = not left - {"config.yaml", "quarantine.jsonl"} and ("config.yaml" not in left or _is_run(run_dir))
    if is_fresh and not resume:
        return  # nothing, or what a start that failed at once has left
    if overwrite and recorded.exists():
        if not _is_run(run_dir):
            raise TrainingError(f"{recorded} is not that of a run: {run_dir} is not deleted; choose another run_dir")
    elif recorded.exists():
        if not resume:
            raise TrainingError(
                f"{run_dir} already holds a run; add --resume to continue it, --overwrite to start again, "
                "or run_dir=OTHER to keep both"
            )
        if not _same_recipe(recorded, config):
            raise TrainingError(
                f"the recipe differs from {recorded}, the one this run was started with; "
                f"resume with: grpo-mmpc train {recorded} --resume"
            )
    elif resume:
        raise TrainingError(f"nothing to resume: {recorded} does not exist; start the run without --resume")
    else:
        raise TrainingError(f"{run_dir} is not empty and holds no run; choose another run_dir")


def _same_recipe(recorded: Path, config: RunConfig) -> bool:
    """Whether a run's ``config.yaml`` means the same, whatever keys it was written with."""
    try:
        return RunConfig.model_validate(yaml.safe_load(recorded.read_text("utf-8"))) == config
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError):
        return False


def _is_run(run_dir: Path) -> bool:
    if (run_dir / "manifest.json").is_file():
        return True
    try:
        content = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and {"run_dir", "model", "rewards"} <= set(content)


def _prepare_folder(run_dir: Path, config: RunConfig, *, overwrite: bool) -> None:
    """Make the run folder and say in it what runs."""
    if overwrite and run_dir.exists():
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")


def _finish(config: RunConfig, run_dir: Path, say: Callable[[str], None]) -> None:
    """Choose the best checkpoint if asked, compare it with the base, write the report, say where and what to do next."""
    from grpo_mmpc.evaluation.best import choose_best, write_best
    from grpo_mmpc.evaluation.comparison import write_comparison

    settings = config.evaluation
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
        from grpo_mmpc.reports.run import build_report

        say(f"report: {build_report(run_dir).resolve()}")
    say(f"next: {following}")


def _resume_command() -> str:
    command = command_line()
    return command.replace(" --overwrite", "") + ("" if "--resume" in command else " --resume")
