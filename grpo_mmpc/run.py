"""One run from start to end: catalogue, split, base evaluation, training, final evaluation, comparison, report.

Training and evaluation do not know each other; this module hands the trainer's hook a function that evaluates.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import Catalogue, load_catalogue, split_items, write_quarantine
from grpo_mmpc.config import RunConfig
from grpo_mmpc.cpu_compat import ensure_importable
from grpo_mmpc.errors import CatalogueError, ScoringError, TrainingError
from grpo_mmpc.manifest import command_line, environment, now, write_manifest
from grpo_mmpc.prompts import prompt_rows, select_balanced, usable_indices

if TYPE_CHECKING:
    from grpo_mmpc.evaluation.runner import Scorers
    from grpo_mmpc.evaluation.suite import Suite
    from grpo_mmpc.rollout import Engine
    from grpo_mmpc.training.session import TrainingSession


class RunData:
    """The catalogue of a run, split: what is trained on, what is held out, what was set aside."""

    def __init__(self, config: RunConfig) -> None:
        folder = _catalogue_folder(config.data.catalogue)
        self.catalogue: Catalogue = load_catalogue(folder, check_images=True)
        split = split_items(self.catalogue, held_out=config.data.held_out, salt=config.data.salt)
        self.train = usable_indices(self.catalogue, split.train)
        self.held_out = usable_indices(self.catalogue, split.held_out)
        self.incomplete = len(split.train) + len(split.held_out) - len(self.train) - len(self.held_out)
        for side, indices in (("training", self.train), ("held-out", self.held_out)):
            if not indices:
                raise CatalogueError(
                    f"{folder}: no {side} item has both a title and an image ({len(self.catalogue)} items, "
                    f"{self.incomplete} incomplete, {len(self.catalogue.quarantined)} quarantined); "
                    "run grpo-mmpc data validate on it, or change data.held_out"
                )

    def summary(self, config: RunConfig) -> dict[str, Any]:
        """What the manifest says about the data."""
        return {
            "catalogue": config.data.catalogue,
            "fingerprint": self.catalogue.fingerprint,
            "items": len(self.catalogue),
            "train_items": len(self.train),
            "held_out_items": len(self.held_out),
            "incomplete": self.incomplete,
            "quarantined": len(self.catalogue.quarantined),
        }


def run_training(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> int:
    """Run a recipe; returns the exit status (130 when it was interrupted and can be resumed).

    Args:
        config: The resolved recipe, already checked.
        resume: Continue from the newest checkpoint of ``run_dir``.
        overwrite: Delete what an earlier run left in ``run_dir``.

    Raises:
        TrainingError: The run folder is in the way, there is nothing to resume, or the recipe has changed since.
    """
    ensure_importable()
    # heavy: imported on use
    from accelerate import PartialState

    started = time.monotonic()
    run_dir = Path(config.run_dir)
    is_main = int(os.environ.get("RANK", "0")) == 0
    say = _printer(is_main)
    if is_main:
        _prepare_folder(run_dir, config, resume=resume, overwrite=overwrite)

    from grpo_mmpc.training.session import TrainingSession

    with PartialState().main_process_first():
        data = RunData(config)
    if is_main and data.catalogue.quarantined:
        write_quarantine(run_dir / "quarantine.jsonl", data.catalogue.quarantined)
    say(
        f"{config.data.catalogue}: {len(data.train)} training and {len(data.held_out)} held-out items, "
        f"{data.incomplete} without title or image left out"
    )
    if data.catalogue.quarantined:
        say(f"{len(data.catalogue.quarantined)} broken rows set aside, reasons in {run_dir / 'quarantine.jsonl'}")

    _quiet_when_redirected()
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
    from grpo_mmpc.evaluation.runner import finished, run_suite

    run_dir, say = Path(config.run_dir), _printer(is_main)
    suite = build_suite(config, data)
    scorers = cache(lambda: load_scorers(config))

    def evaluate(checkpoint: str, *, base: bool = False) -> None:
        folder = run_dir / "evaluations" / checkpoint / suite.name
        if session.decided_by_main(finished(folder, suite)):
            say(f"evaluation of {checkpoint}: already done")
            return
        began = time.monotonic()
        progress = _progress(f"evaluating {checkpoint}") if is_main else None
        try:
            with session.engine(base=base, progress=progress) as engine:
                run_suite(
                    suite,
                    engine.generate,
                    folder=folder,
                    checkpoint=checkpoint,
                    scorers=scorers,
                    is_main_process=is_main,
                )
        finally:
            # Also when scoring failed on the main process: the other ranks are waiting here.
            session.wait_for_everyone()
        if is_main:
            say(f"evaluated {checkpoint} in {time.monotonic() - began:.0f} s: {_headline(folder)}")

    manifest = {
        "command": command_line(),
        "started": now(),
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
        before=(lambda name: evaluate(name, base=True)) if config.evaluation.before else None,
        after_save=evaluate if config.evaluation.checkpoints else None,
        resume=resume,
    )
    if outcome.interrupted:
        say(f"\nstopped at step {outcome.step} of {outcome.max_steps}; continue with:\n  {_resume_command()}")
        return 130
    last = run_dir / "evaluations" / f"checkpoint-{outcome.step}" / suite.name
    if session.decided_by_main(finished(last, suite)):
        # The last checkpoint holds the final weights, and greedy decoding would give the same completions again.
        if is_main:
            shutil.copytree(last, run_dir / "evaluations" / "final" / suite.name, dirs_exist_ok=True)
        say(f"final: the evaluation of checkpoint-{outcome.step}")
    else:
        session.hook.run(evaluate, "final")

    if is_main:
        manifest |= {
            "finished": now(),
            "seconds": round(time.monotonic() - started, 1),
            "steps": outcome.step,
            "reward_errors": outcome.reward_errors,
            "evaluation_failures": session.hook.failures,
        }
        write_manifest(run_dir / "manifest.json", manifest)
        _finish(config, run_dir, say)
    session.wait_for_everyone()
    return 1 if session.hook.failures else 0


def run_evaluation(config: RunConfig, *, checkpoint: Path | None, out: Path | None) -> int:
    """Evaluate the base model (``checkpoint`` None) or an adapter on the recipe's held-out items."""
    from grpo_mmpc.evaluation.runner import finished, run_suite

    say = _printer(True)
    _quiet_when_redirected()
    data = RunData(config)
    suite = build_suite(config, data)
    name = "base" if checkpoint is None else checkpoint.name
    folder = out or Path(config.run_dir) / "evaluations" / name / suite.name
    if finished(folder, suite):
        say(f"{name} was already evaluated with these items and settings: {_headline(folder)}\nit is in {folder}")
        return 0
    say(f"loading {config.model.name_or_path}{'' if checkpoint is None else f' with adapter {checkpoint}'} ...")
    with offline_engine(config, checkpoint=checkpoint, progress=_progress(f"evaluating {name}")) as engine:
        run_suite(suite, engine.generate, folder=folder, checkpoint=name, scorers=lambda: load_scorers(config))
    say(f"{name}: {_headline(folder)}\nwritten to {folder}")
    other = "BASE_DIR" if checkpoint is not None else "OTHER_DIR"
    say(
        f"next: grpo-mmpc compare {other} {folder}"
        if checkpoint is not None
        else f"next: grpo-mmpc compare {folder} {other}"
    )
    return 0


@contextmanager
def offline_engine(
    config: RunConfig, *, checkpoint: Path | None, progress: Callable[[int, int], None] | None = None
) -> Iterator["Engine"]:
    """The recipe's engine without a trainer: the base model, or a checkpoint's adapter on it."""
    from grpo_mmpc.policy import load_policy, load_processor

    processor = load_processor(config.model)
    if config.rollout.backend == "transformers":
        from grpo_mmpc.rollout.transformers_engine import TransformersEngine

        model = _on_best_device(load_policy(config.model, adapter=checkpoint))
        yield TransformersEngine(model, processor, batch_size=config.evaluation.batch_size, progress=progress)
        return
    # heavy: imported on use
    from transformers import AutoConfig

    from grpo_mmpc.assets import resolve_model
    from grpo_mmpc.rollout.vllm_arguments import suppressed_token_ids
    from grpo_mmpc.rollout.vllm_loading import adapter_from_folder, start_engine
    from grpo_mmpc.rollout.vllm_rollouts import VLLMEngine

    adapter = None if checkpoint is None else adapter_from_folder(checkpoint)
    suppressed = suppressed_token_ids(processor, AutoConfig.from_pretrained(resolve_model(config.model.name_or_path)))
    limits = config.evaluation.max_tokens.values()
    engine = start_engine(config, processor, suppressed=suppressed, max_tokens=max(limits, default=1))
    try:
        if adapter is not None:
            engine.load(adapter)
        yield VLLMEngine(engine, processor, adapter=adapter.name if adapter else None, progress=progress)
    finally:
        engine.close()


def build_suite(config: RunConfig, data: RunData) -> "Suite":
    """The evaluation suite of a recipe: held-out items balanced over categories."""
    from grpo_mmpc.evaluation.suite import cqbench

    chosen = select_balanced(
        data.catalogue, data.held_out, max_items=config.evaluation.max_items, salt=config.data.salt
    )
    settings = {"encoders": config.evaluation.encoders.model_dump(), "renderer": config.evaluation.renderer}
    return cqbench(
        prompt_rows(data.catalogue, chosen, config.evaluation_tasks),
        max_tokens={str(task): limit for task, limit in config.evaluation.max_tokens.items()},
        settings=settings,
    )


def load_scorers(config: RunConfig) -> "Scorers":
    """Encoders and renderer of the recipe; one that cannot be loaded leaves its metrics unscored, with the reason."""
    from grpo_mmpc.evaluation.runner import Scorers
    from grpo_mmpc.rendering.loading import load_renderer
    from grpo_mmpc.scoring import bertscore_encoder, clip_encoder, sentence_encoder

    missing: dict[str, str] = {}

    def load(name: str, loader: Callable[..., Any], options: dict[str, Any] | None) -> Any:
        if options is None:
            missing[name] = "switched off in the recipe"
            return None
        try:
            return loader(**options)
        except (OSError, ValueError, TypeError, ScoringError) as error:
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return None

    encoders = config.evaluation.encoders
    scorers = {
        "bertscore": load("bertscore", bertscore_encoder, encoders.bertscore),
        "clip": load("clip", clip_encoder, encoders.clip),
        "sentence": load("sentence", sentence_encoder, encoders.sentence),
    }
    renderer = config.evaluation.renderer
    if renderer is None:
        missing["renderer"] = "evaluation.renderer is not set"
    return Scorers(**scorers, renderer=None if renderer is None else load_renderer(renderer), missing=missing)


def _catalogue_folder(reference: str) -> Path:
    if reference == "nano:catalogue":
        from grpo_mmpc.nano.cache import ensure_catalogue

        return ensure_catalogue()
    return Path(reference)


def _prepare_folder(run_dir: Path, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
    """Make the run folder, refusing to mix two runs in one."""
    resolved = config.to_yaml()
    recorded = run_dir / "config.yaml"
    if recorded.exists() and overwrite:
        shutil.rmtree(run_dir)
    if recorded.exists():
        if not resume:
            raise TrainingError(
                f"{run_dir} already holds a run; add --resume to continue it, --overwrite to start again, "
                "or run_dir=OTHER to keep both"
            )
        if recorded.read_text("utf-8") != resolved:
            raise TrainingError(
                f"the recipe differs from {recorded}, the one this run was started with; "
                f"resume with: grpo-mmpc train {recorded} --resume"
            )
    elif resume:
        raise TrainingError(f"nothing to resume: {recorded} does not exist; start the run without --resume")
    elif run_dir.exists() and any(run_dir.iterdir()):
        raise TrainingError(f"{run_dir} is not empty and holds no run; choose another run_dir")
    run_dir.mkdir(parents=True, exist_ok=True)
    recorded.write_text(resolved, encoding="utf-8")


def _finish(config: RunConfig, run_dir: Path, say: Callable[[str], None]) -> None:
    """Compare base and final, write the report, say where it is and what to do next."""
    from grpo_mmpc.evaluation.comparison import write_comparison

    base, final = (run_dir / "evaluations" / name / config.evaluation.suite for name in ("base", "final"))
    if (base / "summary.json").is_file() and (final / "summary.json").is_file():
        path = write_comparison(
            run_dir, after="final", suite=config.evaluation.suite, resamples=config.evaluation.resamples
        )
        say(f"comparison: {path}")
    if config.report.enabled:
        from grpo_mmpc.report import build_report

        say(f"report: {build_report(run_dir).resolve()}")
    say(f"next: grpo-mmpc compare {base} {final}")


def _headline(folder: Path) -> str:
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


def _progress(label: str) -> Callable[[int, int], None]:
    """Progress of a generation on a terminal's current line; silent when output goes to a file."""
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        if sys.stdout.isatty():
            rate = done / max(time.monotonic() - started, 1e-6)
            text = f"{label}: {done}/{total} prompts, {rate:.1f}/s, {int((total - done) / max(rate, 1e-6))} s left"
            print(f"\r\x1b[2K{text}", end="\r" if done == total else "", flush=True)  # noqa: T201

    return show


def _printer(is_main: bool) -> Callable[[str], None]:
    def say(text: str) -> None:
        if is_main:
            print(text, flush=True)  # noqa: T201

    return say


def _quiet_when_redirected() -> None:
    """Keep the progress bars of model loading out of log files."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _resume_command() -> str:
    command = command_line()
    return command.replace(" --overwrite", "") + ("" if "--resume" in command else " --resume")


def _on_best_device(model: Any) -> Any:
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")
