"""Evaluate the base model or a checkpoint on a recipe's held-out items, with its controls."""

from contextlib import ExitStack, nullcontext
from pathlib import Path

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.recorded import config_of_run
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.evaluation.evaluator import Evaluator
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.evaluation.suite import build_suite
from grpo_mmpc.models.adapter_folder import open_checkpoint
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.pipelines.doubts import doubts
from grpo_mmpc.recbench import benchmark_policy
from grpo_mmpc.rollout.engines import LateEngine
from grpo_mmpc.utils.console import Progress, next_command, printer, quiet_when_redirected
from grpo_mmpc.utils.sections import section


def run_evaluation(
    config: RunConfig, *, checkpoint: Path | None, out: Path | None = None, workers: int | None = 1
) -> Path:
    """Run the recipe's suite on a policy, then its controls and the recommendation benchmark.

    Without ``checkpoint``, the folder of an adapter, the policy before training is evaluated: the
    base model, or ``model.init_from``. For ``workers`` see ``engine_shares``. Returns the folder
    with ``samples.parquet`` and ``summary.json``, ``out`` or ``RUN/evaluations/NAME/SUITE``.

    Raises:
        AdapterError: ``checkpoint`` holds no adapter that can be used.
        ConfigError: Without ``out``, where ``run_dir`` holds another run.
    """
    say = printer(True)
    quiet_when_redirected()
    name, checkpoint = "base" if checkpoint is None else checkpoint.name, config.asked(checkpoint)
    if checkpoint is not None:
        open_checkpoint(checkpoint)
    data = RunData(config)
    if out is None:
        _refuse_another_run(config, checkpoint, fingerprint=data.catalogue.fingerprint)
    for warning in doubts(config, data):
        say(warning)
    suite = build_suite(config, data)
    evaluations = Path(config.run_dir) / "evaluations" if out is None else out / "controls"
    folder = out or evaluations / name / suite.name
    policy = policy_identity(config, adapter=checkpoint)

    with ExitStack() as stack, Progress() as progress:
        engine = LateEngine(config, checkpoint=checkpoint, stack=stack, say=say, workers=workers)
        evaluator = Evaluator(config, data, suite, evaluations=evaluations, progress=progress)
        evaluator.run(lambda: nullcontext(engine), folder=folder, name=name, policy=policy)
        evaluator.run_controls(lambda: nullcontext(engine), name=name, policy=policy)
        benchmark_policy(evaluator, lambda: nullcontext(engine), name=name, policy=policy)
    say(f"{'written to' if evaluator.num_run else 'all is evaluated; nothing was to do:'} {folder}")
    if out is None and config.evaluation.recbench is not None:
        say(f"the recommendation benchmark of all policies evaluated so far: grpo-mmpc report {config.run_dir}")
    known = RunFolder(Path(config.run_dir), suite=suite.name, notes=[]).evaluations
    before = folder if name == "base" else known.get("base", "BASE_DIR")
    after = known.get("final", "OTHER_DIR") if name == "base" else folder
    say(next_command("compare", before, after))
    return folder


def _refuse_another_run(config: RunConfig, checkpoint: Path | None, *, fingerprint: str) -> None:
    """Refuse to replace evaluations of a run by those of another policy, or on other items."""
    run = RunFolder(Path(config.run_dir), notes=[])
    if not run.catalogue_fingerprint:  # nobody has trained here
        return
    own, reason = None if checkpoint is None else config_of_run(checkpoint), ""
    if own is not None and own.parent != run.path.resolve():
        reason = f"{checkpoint} is a checkpoint of {own.parent}"
    named = {("data", "catalogue"): config.data.catalogue}
    if checkpoint is None:
        named["model", "name_or_path"] = config.model.name_or_path
    for (part, key), asked in named.items():
        recorded = str(section(run.config, part).get(key, asked))
        is_moved = part == "data" and fingerprint == run.catalogue_fingerprint
        if not is_moved and Path(recorded).resolve() != Path(asked).resolve():
            reason = reason or f"its {part}.{key} is {recorded}, the recipe's is {asked}"
    if reason:
        raise ConfigError(
            [
                f"run_dir: {config.run_dir} holds another run ({reason}), and its evaluations would be replaced; name "
                "the run that is meant, run_dir=DIR, or write elsewhere with --out DIR"
            ]
        )
