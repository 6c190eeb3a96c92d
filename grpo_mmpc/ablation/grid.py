"""From an ablation file to runs: every combination and seed as one resolved, checked recipe."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo_mmpc.ablation.spec import BASE, AblationSpec, AxisValue, combinations, find_file, is_among, predecessor
from grpo_mmpc.config import RunConfig, nearest
from grpo_mmpc.config.problems import short
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.utils.secrets import secret_keys

Load = Callable[[Sequence[str]], RunConfig]
"""Turns files and overrides into a checked recipe, or raises ConfigError with all problems, as
``grpo-mmpc train`` does."""

_MEASURED_BY = (
    *("data.catalogue", "evaluation.suite", "evaluation.mode", "evaluation.encoders"),
    *("evaluation.renderer", "evaluation.renderer_kwargs"),
)
"""Settings that must be those of all runs."""
_NO_TOKENS = (
    "runs are started from their folders, which hold no tokens; leave it out and set it in the environment "
    "(HF_TOKEN for the hub), on every machine of a Ray cluster"
)
_NAMED = 4
"""At most so many runs are named beside a problem that some of them share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of the grid."""

    mix: str
    """The name of the combination."""
    seed: int
    config: RunConfig
    base_key: str
    """Runs of one key start from the same model and are measured on the same items: one evaluation
    of it serves all."""
    after: str | None
    """Name of the run whose last checkpoint this one starts from."""

    @property
    def name(self) -> str:
        """``bleu/seed-0``, which is also its folder."""
        return f"{self.mix}/seed-{self.seed}"


def expand(
    spec: AblationSpec, overrides: Sequence[str] = (), *, path: Path, folder: Path, load: Load
) -> list[PlannedRun]:
    """Return every run, checked, seed by seed: an ablation stopped early holds whole comparisons.

    ``overrides`` are ``key=value`` for every run, over those of the file ``path``; ``load`` loads
    and checks one recipe.

    Raises:
        ConfigError: With the problems of all runs at once, and which runs have each.
    """
    names = combinations(spec)
    problems: dict[str, list[str]] = defaultdict(list)
    runs = []
    for seed in spec.seeds:
        for mix, chosen in names.items():
            run_dir = folder / mix / f"seed-{seed}"
            changes = [*_changes(spec, chosen, overrides), f"run_dir={json.dumps(str(run_dir))}", f"seed={seed}"]
            names_of_files = [*spec.base, *(name for value in chosen for name in value.files)]
            files = [str(find_file(name, ablation=path)) for name in names_of_files]
            try:
                config = load([*files, *changes])
            except ConfigError as error:
                for problem in error.problems:
                    # What a file says differs by seed in nothing but the folder.
                    text = problem.replace("command line: ", f"{path}: ", 1)
                    problems[text].append(f"{mix}/seed-{seed}")
                continue
            for key in secret_keys(config.model_dump(mode="json")):
                problems[f"{key}: {_NO_TOKENS}"].append(f"{mix}/seed-{seed}")
            # Evaluated once for all runs, see base_key.
            config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"before": False})})
            before = predecessor(chosen)
            after = None if before is None else f"{before}/seed-{seed}"
            runs.append(PlannedRun(mix=mix, seed=seed, config=config, base_key=_base_key(config), after=after))
    runs, lost = _started(runs)
    for text, name in lost:
        problems[text].append(name)
    total = len(spec.seeds) * len(names)
    lines = [f"{text} ({_where(where, total)})" for text, where in problems.items()]
    lines += [f"{path}: {problem}" for problem in [*_metric_problems(spec, runs), *_unlike(spec, runs)]]
    if lines:
        raise ConfigError(lines)
    return runs


def _started(runs: list[PlannedRun]) -> tuple[list[PlannedRun], list[tuple[str, str]]]:
    """Point runs that start after another one to its last checkpoint; return also what is wrong."""
    configs, started, problems = {run.name: run.config for run in runs}, [], []
    for run in runs:
        config = run.config
        if run.after is not None:
            before = configs.get(run.after, config)
            steps = int(before.trainer.get("max_steps", -1))
            if steps < 1:
                problems.append(
                    (f"trainer.max_steps: {run.after} must say it, since another run starts after it", run.name)
                )
            if (before.model, before.adapter) != (config.model, config.adapter):
                problems.append(("model, adapter: a run goes on from another one's only with the same ones", run.name))
            start = Path(before.run_dir) / "checkpoints" / f"checkpoint-{steps}"
            config = config.model_copy(update={"model": config.model.model_copy(update={"init_from": str(start)})})
        started.append(replace(run, config=config))
    return started, problems


def _changes(spec: AblationSpec, chosen: Sequence[AxisValue], overrides: Sequence[str]) -> list[str]:
    def written(changes: Mapping[str, Any]) -> list[str]:
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]

    return [*written(spec.overrides), *overrides, *(line for value in chosen for line in written(value.set))]


def _base_key(config: RunConfig) -> str:
    """Return all that an evaluation of the untrained model depends on."""
    evaluation = config.evaluation.model_dump(mode="json")
    for name in ("before", "checkpoints", "best", "on_error", "resamples", "controls"):
        del evaluation[name]
    data = config.data.model_dump(mode="json", exclude={"max_train_items"})
    model, rollout = config.model.model_dump(mode="json"), config.rollout.model_dump(mode="json")
    own = {name: config.known_tasks[name].model_dump() for name in config.evaluation_tasks if name in config.own_tasks}
    tasks = [config.evaluation_tasks, own] if own else config.evaluation_tasks
    return json.dumps([model, rollout, data, tasks, evaluation, config.chat_template_kwargs], sort_keys=True)


def _unlike(spec: AblationSpec, runs: Sequence[PlannedRun]) -> list[str]:
    """Say why runs could not be compared with each other, or with the model before training."""
    problems = []
    settings = [(run.name, run.config.model_dump(mode="json")) for run in runs]
    for section, key in (name.split(".") for name in _MEASURED_BY):
        values = [(name, values[section][key]) for name, values in settings]
        differing = next(((name, value) for name, value in values if value != values[0][1]), None)
        if differing is not None:
            problems.append(
                f"{section}.{key} is {short(values[0][1])} in {values[0][0]} and {short(differing[1])} in "
                f"{differing[0]}: results that are measured differently cannot be compared; set it for all runs alike"
            )
    bases = {run.base_key: run.name for run in reversed(runs)}
    if spec.reference == BASE and len(bases) > 1 and not problems:
        problems.append(
            f"reference: {BASE}: {' and '.join(sorted(bases.values()))} have different base models or evaluation "
            "settings and cannot be compared with one; compare with one of the mixes, or make an ablation of each"
        )
    return problems


def _where(runs: Sequence[str], total: int) -> str:
    if len(runs) == total:
        return "all runs"
    more = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
    return ", ".join(runs[:_NAMED]) + more


def _metric_problems(spec: AblationSpec, runs: Sequence[PlannedRun]) -> list[str]:
    """Name the metrics of the file that no run, or not every run, evaluates."""
    # heavy: imported on use
    from grpo_mmpc.evaluation.metric_tables import METRICS_OF_MODE

    problems = []
    named = [("metrics", name) for name in spec.metrics or ()] + [("pareto", name) for name in spec.pareto or ()]
    for key, name in dict.fromkeys(named):
        for run in runs:
            task, _, metric = name.partition(".")
            known = METRICS_OF_MODE[run.config.evaluation.mode]
            if task not in run.config.evaluation_tasks:
                problems.append(f"{key}: {name} is of a task that {run.name} does not evaluate; expected TASK.METRIC")
            elif metric not in known and not metric.startswith("attribute_recall_"):
                problems.append(f"{key}: no metric {metric!r}; {nearest(metric, known)}")
            elif metric in known and (
                run.config.known_tasks[task].kind not in known[metric].targets or known[metric].of_set is not None
            ):
                problems.append(f"{key}: {metric} has no value per item in {task}")
            elif key == "pareto" and not is_among(name, spec.metrics):
                problems.append(f"pareto: {name} is not one of metrics, so the plot would be empty; add it there")
            else:
                continue
            break
    return problems
