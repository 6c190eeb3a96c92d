"""One run from start to end: data, base evaluation, training, final evaluation, comparison, report.

Training and evaluation do not know each other: this module hands the trainer a function that
evaluates.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import write_quarantine
from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.evaluation.evaluation_folder import SUMMARY_FILE
from grpo_mmpc.evaluation.suite import Suite, build_suite
from grpo_mmpc.pipelines.doubts import doubts
from grpo_mmpc.pipelines.evaluation_process import Begin, evaluation_process
from grpo_mmpc.pipelines.live_policies import LivePolicies
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.training.checkpoint import newest_checkpoint
from grpo_mmpc.training.claim import claimed, start_identity, take_over
from grpo_mmpc.utils.console import Progress, Say, fitted, next_command, printer, quiet_when_redirected
from grpo_mmpc.utils.cpu_compat import ensure_importable, load_to_numbered_cpus
from grpo_mmpc.utils.distributed import Ranks, is_first_process, launched_ranks
from grpo_mmpc.utils.files import read_object, write_json
from grpo_mmpc.utils.manifest import command_line, environment, now
from grpo_mmpc.utils.processes import StopRequest

if TYPE_CHECKING:
    from grpo_mmpc.training.session import TrainingSession

PATIENCE_S = 24 * 3600
"""Seconds that ranks wait for one another, unless ``trainer.ddp_timeout`` says otherwise."""
SHUTDOWN_TIMEOUT = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""The variable by which torchrun gives its processes longer than 30 s to end."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit statuses of a run that was interrupted, 130 and 143; the same command continues it."""


def run_training(recipe: RunConfig | Sequence[str], *, overwrite: bool = False) -> int:
    """Start a recipe, go on with it, or finish what it lacks; returns the exit status.

    0 when all is done, 1 if an evaluation failed, one of ``STOPPED`` after a signal. Whatever ended
    it, the same call continues. A recipe is a loaded one, or files and ``key=value`` overrides;
    ``overwrite`` deletes the run that is in ``run_dir``.

    Raises:
        ConfigError: Something is wrong with the recipe.
        TrainingError: The run folder holds another recipe's run, or another process holds it.
    """
    message = "stopping after this step and saving; once more stops at once"
    with StopRequest(message, raises=True, patient=False).listening() as request:
        try:
            config = recipe if isinstance(recipe, RunConfig) else load_recipe(recipe)
            with claimed(config, overwrite=overwrite) if is_first_process() else nullcontext():
                return _run(config, overwrite=overwrite, request=request)
        except KeyboardInterrupt as stop:
            printer(is_first_process())(
                f"\n{str(stop) or 'stopped, and what is done is kept'}; continue with:\n  {command_line(resume=True)}"
            )
            return STOPPED[request.number == signal.SIGTERM]


def _run(config: RunConfig, *, overwrite: bool, request: StopRequest) -> int:
    started = time.monotonic()
    ranks = _join_ranks(config)
    say = printer(ranks.is_main)
    if not overwrite and ranks.on_main(lambda: _finish(config, say)):
        return 0
    data = _read_data(config)
    if ranks.is_main:
        take_over(config, overwrite=overwrite)
    say(
        f"{config.data.catalogue}: {len(data.train)} training and {len(data.held_out)} held-out items, "
        f"{data.incomplete} without {data.needs} left out"
    )
    if data.catalogue.quarantined:
        path = Path(config.run_dir) / "quarantine.jsonl"
        if ranks.is_main:
            write_quarantine(path, data.catalogue.quarantined)
        say(f"{len(data.catalogue.quarantined)} broken rows set aside, reasons in {path}")
    quiet_when_redirected()
    from grpo_mmpc.training.arguments import cut_in_training  # heavy: imported on use

    if ranks.is_main:
        for warning in (*doubts(config, data), *cut_in_training(config)):
            say(warning)
    say(f"loading {config.model.name_or_path} ...")
    # heavy: imported on use
    from grpo_mmpc.training.session import TrainingSession

    progress = Progress()
    session = TrainingSession(config, data, progress=progress, request=request)
    try:
        suite = build_suite(config, data)
        manifest = _manifest(config, data, suite, session)
        if ranks.is_main:
            write_json(Path(config.run_dir) / "manifest.json", manifest, indent=2, default=str)
        say(
            f"training {session.trainable_parameters:,} of {session.parameters:,} parameters, "
            f"writing to {config.run_dir}"
        )
        with _beside(config) as beside:
            policies = LivePolicies(
                config, data, suite, session, progress=progress if ranks.is_main else None, beside=beside
            )
            end = session.train(
                before=policies.evaluate if config.evaluation.before else None,
                after_save=policies.evaluate if config.evaluation.checkpoints else None,
            )
            if end.interrupted:
                raise KeyboardInterrupt(f"stopped at step {end.step} of {end.max_steps}")
            session.hook.settle()
        policies.evaluate_final(end.step)
        manifest |= {
            "finished": now(),
            "seconds": round(time.monotonic() - started, 1),
            "steps": end.step,
            "reward_errors": end.reward_errors,
            "evaluation_failures": session.hook.failures,
            "controls": ranks.on_main(lambda: _controls(config)),
        }
        ranks.on_main(lambda: _report(config, manifest, say))
        return 1 if session.hook.failures else 0
    finally:
        progress.close()
        session.close()


def _beside(config: RunConfig) -> AbstractContextManager[Begin | None]:
    return evaluation_process(config) if config.evaluation.where == "servers" else nullcontext()


def _join_ranks(config: RunConfig) -> Ranks:
    """Meet the other processes of the launch."""
    ensure_importable()
    load_to_numbered_cpus()
    # heavy: imported on use
    from accelerate import PartialState

    # While the main process renders and scores thousands of items, the others wait in a collective.
    PartialState(timeout=timedelta(seconds=config.trainer.get("ddp_timeout", PATIENCE_S)))
    if is_first_process() and "TORCHELASTIC_RUN_ID" in os.environ and SHUTDOWN_TIMEOUT not in os.environ:
        note = (
            "note: torchrun and accelerate launch kill this run 30 s after SIGTERM, saved or not; export "
            f"{SHUTDOWN_TIMEOUT}=120 before starting if a step may take longer"
        )
        print(fitted(note, sys.stderr), file=sys.stderr)
    return launched_ranks()


def _read_data(config: RunConfig) -> RunData:
    """Read the catalogue, on the main process first: the others find it in the cache."""
    # heavy: imported on use
    from accelerate import PartialState

    with PartialState().main_process_first():
        return RunData(config)


def _finish(config: RunConfig, say: Say) -> bool:
    """Return whether a run is trained and measured; writes comparison and report if they lack."""
    run_dir, suite = Path(config.run_dir), config.evaluation.suite
    manifest = read_object(run_dir / "manifest.json")
    last = newest_checkpoint(run_dir / "checkpoints")
    is_trained = last is not None and last.name == f"checkpoint-{manifest.get('steps')}"
    names = ["base"] * config.evaluation.before + ["final"]
    if config.evaluation.checkpoints:
        names += [path.name for path in (run_dir / "checkpoints").glob("checkpoint-*")]
    names += manifest.get("controls", [])
    lacking = [name for name in names if not (run_dir / "evaluations" / name / suite / SUMMARY_FILE).is_file()]
    if lacking or not is_trained or not manifest.get("finished") or manifest.get("evaluation_failures"):
        return False
    expected = ["comparison.json"] * config.evaluation.before + ["report.html"] * config.report.enabled
    if not all((run_dir / name).is_file() for name in expected):
        _report(config, manifest, say)
        return True
    say(f"all is done: {manifest['steps']} steps, evaluations and comparison are in {run_dir}")
    say("to train again: run_dir=OTHER keeps both, --overwrite deletes this one")
    say(next_command("report", run_dir))
    return True


def _controls(config: RunConfig) -> list[str]:
    """Name the controls that are evaluated; of others the run has said why they cannot be."""
    summaries = (Path(config.run_dir) / "evaluations").glob(f"control-*/{config.evaluation.suite}/{SUMMARY_FILE}")
    return sorted(path.parents[1].name for path in summaries)


def _manifest(config: RunConfig, data: RunData, suite: Suite, session: "TrainingSession") -> dict[str, Any]:
    return {
        "command": command_line(),
        "started": now(),
        "seed": config.seed,
        **environment(),
        "data": data.summary(config),
        "start": start_identity(config),
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
    following = next_command("evaluate", run_dir / "config.yaml", "--base")
    base, after = (run_dir / "evaluations" / name / settings.suite for name in ("base", reported))
    if (base / SUMMARY_FILE).is_file() and (after / SUMMARY_FILE).is_file():
        path = write_comparison(run_dir, after=reported, suite=settings.suite, resamples=settings.resamples)
        say(f"comparison: {path}")
        following = next_command("compare", base, after)
    if config.report.enabled:
        from grpo_mmpc.reports.run.page import build_report

        say(f"report: {build_report(run_dir).resolve()}")
    say(following)
