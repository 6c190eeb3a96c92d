"""Recipes as commands take them.

Files and overrides, and every check that runs before a model loads.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from grpo_mmpc.config import RewardSpec, RunConfig, is_file, nearest
from grpo_mmpc.config.loading import Check, Layers, merge_layers, split_words, validate
from grpo_mmpc.config.origins import with_origins
from grpo_mmpc.config.recorded import config_of_run, load_recorded_policy
from grpo_mmpc.config.sections import known_tasks
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.console import Progress, columns, fitted, printer, quiet_libraries
from grpo_mmpc.utils.distributed import is_first_process
from grpo_mmpc.utils.sections import section


def load_recipe(arguments: Sequence[str], *, trains: bool = True) -> RunConfig:
    """Load files and ``key=value`` overrides, merged, with all problems reported at once.

    Args:
        arguments: Files and overrides.
        trains: Whether the policy is trained. Else no reward is used, and none is imported to be
            checked.

    Raises:
        ConfigError: Something is wrong with the recipe.
    """
    return _checked(_layers(arguments), trains=trains)


def described_recipe(arguments: Sequence[str]) -> tuple[RunConfig, str]:
    """Return the checked recipe, and as YAML in which every value says where it was set.

    Raises:
        ConfigError: Something is wrong with the recipe.
    """
    layers = _layers(arguments)
    config = _checked(layers)
    return config, with_origins(config.to_yaml(), given=layers.merged, origins=layers.origins, columns=columns())


def load_policy_recipe(words: Sequence[str], *, checkpoint: Path | None, place: str = "as RECIPE") -> RunConfig:
    """Load the recipe of a policy that is only asked: named ones, or that of its run.

    Args:
        words: Files and overrides; overrides alone change what the run of the checkpoint says.
        checkpoint: Folder of the adapter.
        place: Where the command takes ``words``, for its messages.

    Raises:
        ConfigError: Something is wrong with the recipe, or there is none.
        AdapterError: The checkpoint cannot be used.
    """
    # heavy: imported on use
    from grpo_mmpc.models.adapter_folder import open_checkpoint

    if checkpoint is not None:
        open_checkpoint(checkpoint)
    if any(is_file(word) for word in words):
        return load_recipe(words, trains=False)
    own = None if checkpoint is None else config_of_run(checkpoint)
    if own is None:
        raise ConfigError(
            [f"a recipe is needed, named {place}: which model, engine and renderer (a checkpoint of a run has its own)"]
        )
    config, left_out = load_recorded_policy(own, words)
    if left_out := [key for key in left_out if not any(word.startswith(key) for word in words)]:
        printer(True)(f"not taken from {own}: {', '.join(left_out)}; to use its whole recipe, name that file {place}")
    return config


def _layers(arguments: Sequence[str]) -> Layers:
    quiet_libraries()  # called from Python, this is the first that loads them
    # heavy: imported on use
    from grpo_mmpc.models.start import take_options
    from grpo_mmpc.training.method_checks import drop_options_of_grpo

    if is_first_process():
        print("checking the recipe ...", file=sys.stderr, flush=True)
    layers = merge_layers(*split_words(arguments))
    take_options(layers)
    recorded = Path(layers.origins.get("run_dir", ""))
    run, written = recorded.parent, Path(str(layers.merged.get("run_dir")))
    if recorded.name == "config.yaml" and (run / "manifest.json").is_file() and written.resolve() != run.resolve():
        layers.merged["run_dir"] = str(run)
        if is_first_process():
            moved = f"{recorded}: its run lies in {run} now, no more in {written}, and goes on there"
            print(fitted(moved, sys.stderr), file=sys.stderr)
    with Progress() as progress:
        if layers.merged.get("method") == "sft" and is_first_process():
            progress("checking the recipe", 0, detail="method, with TRL")
        unused = drop_options_of_grpo(layers)
    if layers.merged.get("method") == "sft" and is_first_process():
        unused = ["rewards", "rollout", *unused]
        print(fitted(f"method sft does not use {', '.join(unused)}", sys.stderr), file=sys.stderr)
    return layers


def _checked(layers: Layers, *, trains: bool = True) -> RunConfig:
    """Validate, and show what is checked: the first to need PyTorch may take half a minute."""
    checks = _checks()
    if not trains:
        del checks["rewards"]

    def shown(what: str, check: Check, raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if is_first_process():
            progress("checking the recipe", 0, detail=what)  # the first says nothing of how long the rest takes
        return list(check(raw))

    with Progress() as progress:
        named = [partial(shown, what, check) for what, check in checks.items()]
        return validate(RunConfig, layers, checks=named)


def _checks() -> dict[str, Check]:
    # heavy: imported on use
    from grpo_mmpc.models.adapter_checks import check_adapter
    from grpo_mmpc.models.option_checks import check_model
    from grpo_mmpc.recbench import check_section
    from grpo_mmpc.rollout.vllm.arguments import check_rollout
    from grpo_mmpc.training.method_checks import check_method
    from grpo_mmpc.training.option_checks import check_trainer

    return {
        "model, with PyTorch": check_model,
        "adapter": check_adapter,
        "rewards": check_rewards,
        "method": check_method,
        "trainer, with TRL": check_trainer,
        "rollout": check_rollout,
        "evaluation": check_evaluation,
        "evaluation.recbench": check_section,
    }


def check_rewards(raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield problems of the reward mix.

    Specs that break the schema are left to the schema's message.
    """
    from pydantic import ValidationError

    from grpo_mmpc.errors import RewardError
    from grpo_mmpc.rewards import check_mix, load_factory

    mix = section(raw, "rewards").get("mix")
    if not isinstance(mix, list):
        return
    try:
        specs = [RewardSpec.model_validate(spec) for spec in mix]
    except ValidationError:
        # Names can still be checked, one by one, next to the schema's findings.
        for index, spec in enumerate(mix):
            if isinstance(spec, Mapping) and "name" in spec:
                try:
                    load_factory(str(spec["name"]))
                except RewardError as error:
                    yield f"rewards.mix.{index}.name", str(error)
        return
    tasks, known = raw.get("tasks", ["image_to_text"]), known_tasks(raw)
    if isinstance(tasks, list) and all(task in known for task in tasks):  # else the schema says so
        yield from check_mix(specs, tasks, known_tasks=known)


def check_evaluation(raw: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield metrics and renderers that do not exist, and a ``best`` that cannot be chosen by."""
    from grpo_mmpc.errors import EvaluationError
    from grpo_mmpc.evaluation.metric_tables import METRICS_OF_MODE
    from grpo_mmpc.rendering.registry import check_renderer

    evaluation = section(raw, "evaluation")
    mode = evaluation.get("mode", "corrected")
    known = METRICS_OF_MODE.get(mode if isinstance(mode, str) else "", {})
    names = evaluation.get("metrics")
    for index, name in enumerate(names if isinstance(names, list) and known else []):
        if name not in known and not str(name).startswith("attribute_recall_"):
            yield f"evaluation.metrics.{index}", f"no metric {name!r} in mode {mode}; {nearest(str(name), known)}"
    renderer, kwargs = evaluation.get("renderer"), evaluation.get("renderer_kwargs") or {}
    if isinstance(renderer, str) and isinstance(kwargs, Mapping):
        try:
            check_renderer(renderer, kwargs)
        except EvaluationError as error:
            yield "evaluation.renderer", str(error)
    rollout = section(raw, "rollout")
    served = rollout.get("backend") == "vllm" and rollout.get("mode") == "server" and rollout.get("servers")
    if evaluation.get("where") == "servers" and not served:
        yield (
            "evaluation.where",
            "servers evaluates on those of rollout.servers, beside training: start them (grpo-mmpc serve RECIPE) and "
            "set rollout.backend=vllm, rollout.mode=server and rollout.servers=[URL, ...], or take inline",
        )
    chosen = section(evaluation, "best").get("metric")
    if isinstance(chosen, str):
        task, _, name = chosen.partition(".")
        metric = known.get(name)
        evaluated = evaluation.get("tasks") or raw.get("tasks") or ["image_to_text"]
        is_of_one_item = metric is not None and metric.of_set is None and not metric.depends_on_other_answers
        tasks = known_tasks(raw)
        suits = task in tasks and metric is not None and tasks[task].kind in metric.targets and is_of_one_item
        if task not in tasks or (known and not suits):
            example = "image_to_text.bertscore_f1"
            yield (
                "evaluation.best.metric",
                f"expected TASK.METRIC whose value for an item depends on no other item, such as {example}; found "
                f"{chosen!r}",
            )
        elif isinstance(evaluated, list) and task not in evaluated:
            yield "evaluation.best.metric", f"{task} is not evaluated, only {', '.join(map(str, evaluated))}"
        elif isinstance(names, list) and name not in names:
            yield "evaluation.best.metric", f"{name} is not among evaluation.metrics; add it there"
