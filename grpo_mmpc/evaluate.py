"""Evaluation of a recipe: its data and suite, its scorers, its engine without a trainer, its controls."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import Catalogue, load_catalogue, split_items
from grpo_mmpc.config import RunConfig
from grpo_mmpc.console import Progress, printer, progress_line, quiet_when_redirected
from grpo_mmpc.errors import CatalogueError, EvaluationError
from grpo_mmpc.evaluation.completions import ONE
from grpo_mmpc.evaluation.ranks import Ranks
from grpo_mmpc.manifest import command_line
from grpo_mmpc.nano.cache import catalogue_folder
from grpo_mmpc.prompts import prompt_rows, select_balanced, stable_order, usable_indices
from grpo_mmpc.types import PromptRow

if TYPE_CHECKING:
    from grpo_mmpc.evaluation.runner import Scorers
    from grpo_mmpc.evaluation.suite import Suite
    from grpo_mmpc.rendering import Renderer
    from grpo_mmpc.rollout import Engine


class RunData:
    """The catalogue of a run, split: what is trained on, what is held out, what was set aside."""

    def __init__(self, config: RunConfig) -> None:
        folder = catalogue_folder(config.data.catalogue)
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

    def training_rows(self, task: str, *, at_most: int) -> list[PromptRow]:
        """Prompts of training items, chosen by stable hash where there are more."""
        ids = self.catalogue.items.select(self.train)["item_id"]
        chosen = [self.train[i] for i in stable_order(list(ids), salt="pool")[:at_most]]
        return prompt_rows(self.catalogue, chosen, [task])


def run_evaluation(config: RunConfig, *, checkpoint: Path | None, out: Path | None) -> int:
    """Evaluate the base model (``checkpoint`` None) or an adapter on the recipe's held-out items, then its controls."""
    say = printer(True)
    quiet_when_redirected()
    if checkpoint is not None and not (checkpoint / "adapter_config.json").is_file():
        raise EvaluationError(
            f"{checkpoint} holds no adapter_config.json; give a checkpoint folder such as RUN/checkpoints/checkpoint-80"
        )
    data = RunData(config)
    suite = build_suite(config, data)
    name = "base" if checkpoint is None else checkpoint.name
    evaluations = Path(config.run_dir) / "evaluations" if out is None else out / "controls"
    folder = out or evaluations / name / suite.name
    policy = policy_identity(config, adapter=checkpoint)
    evaluation = Evaluating(config, data, suite, evaluations=evaluations, progress=progress_line())

    with ExitStack() as stack:

        @cache
        def opened() -> "Engine":
            """Loaded when first needed, and once."""
            say(f"loading {config.model.name_or_path}{'' if checkpoint is None else f' with adapter {checkpoint}'} ...")
            return stack.enter_context(offline_engine(config, checkpoint=checkpoint))

        evaluation.run(lambda: nullcontext(opened()), folder=folder, name=name, policy=policy)
        evaluation.run_controls(lambda: nullcontext(opened()), name=name, policy=policy)
        evaluation.run_recbench(lambda: nullcontext(opened()), name=name, policy=policy)
    say(f"written to {folder}")
    if out is None and config.evaluation.recbench is not None:
        say(f"grpo-mmpc report {config.run_dir} shows the recommendation benchmark of all policies evaluated so far")
    other = "OTHER_DIR" if checkpoint is None else "BASE_DIR"
    say(f"next: grpo-mmpc compare {' '.join([str(folder), other] if checkpoint is None else [other, str(folder)])}")
    return 0


class Evaluating:
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
        self._config = config
        self._data = data
        self._evaluations = evaluations
        self._progress = progress
        self._ranks = ranks
        self._scorers: Callable[[], Scorers] = cache(lambda: load_scorers(config))
        self._say = printer(ranks.is_main)

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

        Those that ask the policy are named after it too; a checkpoint that is the final policy of its run has them there. A
        control that cannot be had is reported and left out.
        """
        # heavy: imported on use
        from grpo_mmpc.evaluation.controls import CONTROLS, changed_rows
        from grpo_mmpc.evaluation.runner import finished

        # First those that all ranks take part in.
        for control_name in sorted(self._config.evaluation.controls, key=lambda n: not CONTROLS[n].asks_policy):
            control = CONTROLS[control_name]
            rows = self.suite.rows_of(control.task)
            if not rows:
                continue
            title = f"control-{control_name}" + (f"-{name}" if control.asks_policy else "")
            folder = self._evaluations / title / self.suite.name
            if control.asks_policy:
                final = f"control-{control_name}-final"
                same = partial(
                    finished,
                    self._evaluations / final / self.suite.name,
                    replace(self.suite, rows=tuple(rows)),
                    policy=f"{policy} {final}",
                )
                if title != final and self._ranks.on_main(same):
                    self._say(f"{title}: already evaluated as {final}")
                    continue
                shown = changed_rows(control_name, rows, folder=folder / "shown")
                suite = replace(self.suite, rows=tuple(shown))
                self._run_suite(suite, engine, self._scorers, folder=folder, name=title, policy=f"{policy} {title}")
                continue
            self._ranks.on_main(partial(self._run_alone, control_name, rows, folder=folder))

    def run_recbench(self, engine: Callable[[], AbstractContextManager["Engine"]], *, name: str, policy: str) -> None:
        """Run the recommendation benchmark on a policy, if the recipe asks for it. A collective."""
        config = self._config
        if config.evaluation.recbench is None:
            return
        # heavy: imported on use
        from grpo_mmpc.evaluation.recommendation import PolicyBenchmark
        from grpo_mmpc.rendering.loading import renderer_identity

        def renderer() -> "Renderer | None":
            return self._scorers().renderer

        named, arguments = config.evaluation.renderer, config.evaluation.renderer_kwargs
        train_ids = self._data.catalogue.items.select(self._data.train)["item_id"]
        PolicyBenchmark(
            settings=config.evaluation.recbench,
            catalogue=self._data.catalogue,
            evaluations=self._evaluations,
            max_tokens={str(task): limit for task, limit in config.evaluation.max_tokens.items()},
            load_renderer=renderer,
            renderer=None if named is None else renderer_identity(named, arguments),
            trained_on=frozenset(train_ids),
            about={"command": command_line(), "catalogue": config.data.catalogue},
            say=self._say,
            progress=self._progress,
            ranks=self._ranks,
        ).run(engine, name=name, policy=policy)

    def _run_alone(self, name: str, rows: Sequence[PromptRow], *, folder: Path) -> None:
        """A control that asks no policy, on the main process."""
        # heavy: imported on use
        from grpo_mmpc.evaluation.controls import CONTROLS, MAX_POOL, known_answers
        from grpo_mmpc.evaluation.runner import finished

        def pool() -> list[PromptRow]:
            return self._data.training_rows(CONTROLS[name].task, at_most=MAX_POOL)

        suite = replace(self.suite, rows=tuple(rows))
        # Retrieved answers depend on encoders and catalogue too: the suite's key holds both.
        policy = f"{folder.parent.name} {suite.key}"
        if finished(folder, suite, policy=policy):
            return
        try:
            answers, scorers = known_answers(name, rows, pool=pool, scorers=self._scorers())
        except EvaluationError as error:
            self._say(f"left out: {error}")
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

        ranks = ranks or self._ranks
        if ranks.on_main(lambda: finished(folder, suite, policy=policy)):
            self._say(f"{name}: already evaluated with these items and settings")
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
                progress=self._progress,
            )
        if ranks.is_main:
            self._say(f"evaluated {name} in {time.monotonic() - began:.0f} s: {headline(folder)}")


@contextmanager
def offline_engine(config: RunConfig, *, checkpoint: Path | None) -> Iterator["Engine"]:
    """The recipe's engine without a trainer: the base model, or a checkpoint's adapter on it."""
    from grpo_mmpc.policy import load_policy, load_processor

    processor = load_processor(config.model)
    if config.rollout.backend == "transformers":
        from grpo_mmpc.rollout.transformers_engine import TransformersEngine

        model = _on_best_device(load_policy(config.model, adapter=checkpoint))
        yield TransformersEngine(model, processor, batch_size=config.evaluation.batch_size)
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
        yield VLLMEngine(engine, processor, adapter=adapter.name if adapter else None)
    finally:
        engine.close()


def build_suite(config: RunConfig, data: RunData) -> "Suite":
    """The evaluation suite of a recipe: held-out items balanced over categories."""
    from grpo_mmpc.evaluation.suite import cqbench
    from grpo_mmpc.rendering.loading import renderer_identity

    settings = config.evaluation
    chosen = select_balanced(
        data.catalogue,
        data.held_out,
        max_items=settings.max_items,
        max_per_category=settings.items_per_category,
        salt=config.data.salt,
    )
    return cqbench(
        prompt_rows(data.catalogue, chosen, config.evaluation_tasks),
        max_tokens={str(task): limit for task, limit in settings.max_tokens.items()},
        settings={
            "catalogue": data.catalogue.fingerprint,
            "encoders": {name: _scores_by(options) for name, options in settings.encoders.model_dump().items()},
            "renderer": settings.renderer and renderer_identity(settings.renderer, settings.renderer_kwargs),
        },
        mode=settings.mode,
        metrics=settings.metrics,
    )


def policy_identity(config: RunConfig, *, adapter: Path | None) -> str:
    """Hash of the base model's name and arguments and of an adapter's files: equal for equal policies.

    Args:
        config: The recipe.
        adapter: Checkpoint folder; None is the base model.
    """
    digest = hashlib.blake2b(json.dumps(config.model.model_dump(mode="json"), sort_keys=True).encode(), digest_size=8)
    if adapter is not None:
        for file in sorted([*adapter.glob("adapter_config.json"), *adapter.glob("adapter_model*")]):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _scores_by(options: dict[str, Any] | None) -> dict[str, Any] | None:
    """What an encoder's scores depend on: not the device."""
    return None if options is None else {name: value for name, value in options.items() if name != "device"}


def load_scorers(config: RunConfig) -> "Scorers":
    """Encoders and renderer of the recipe; an encoder that cannot be loaded leaves its metrics unscored, with the reason.

    Raises:
        EvaluationError: The renderer cannot be loaded.
    """
    from grpo_mmpc.evaluation.encoders import load_encoders
    from grpo_mmpc.evaluation.runner import Scorers
    from grpo_mmpc.rendering.loading import load_renderer, renderer_identity
    from grpo_mmpc.scoring.loading import whole_weights

    settings = config.evaluation
    found, missing = load_encoders(settings.encoders.model_dump())
    if settings.renderer is None:
        missing["renderer"] = "evaluation.renderer is not set"
        return Scorers(**found, missing=missing)
    with whole_weights():  # a pipeline's text encoders are Transformers models, which a trainer may be sharding
        renderer = load_renderer(settings.renderer, **settings.renderer_kwargs)
    return Scorers(
        **found,
        renderer=renderer,
        renderer_identity=renderer_identity(settings.renderer, settings.renderer_kwargs),
        missing=missing,
    )


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


def _on_best_device(model: Any) -> Any:
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")
