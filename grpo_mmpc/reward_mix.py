"""From the recipe's named reward specs to TRL reward functions and weights; every check on a mix lives here.

TRL sums the rewards of a completion with ``nansum``, so a None inside a group acts as a reward of 0: a penalty wherever
rewards are positive. ``RewardMix`` therefore hands TRL the mean of the group's scored completions instead, which gives
the unscored completion no advantage from that reward, and keeps None only where no trained reward could score the
completion at all (TRL then sets its advantage to 0). Raw values are kept apart and recorded as they were.
"""

import importlib
import importlib.util
import inspect
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from grpo_mmpc.config import RewardSpec, nearest
from grpo_mmpc.errors import RewardError
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import RewardFn

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "grpo_mmpc.rewards"
TRL_KEYWORDS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
Gather = Callable[[list[Any]], list[Any]]
"""Concatenates a list over all ranks, in rank order; the identity on one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedReward:
    """A reward of the mix, ready to be called."""

    name: str
    """Unique in the mix; the metric key and the column of recorded rollouts."""
    weight: float
    fn: RewardFn
    tasks: tuple[str, ...]
    """Tasks it is applied to; completions of other tasks are unscored."""
    worst_score: float
    """What a malformed completion gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """Raw rewards of one rank's completions."""

    task: list[str]
    prediction: list[str | None]
    """Parsed completion; None when malformed."""
    format: list[str]
    raw: dict[str, list[float | None]]
    """By reward name; None = unscored."""
    for_trainer: dict[str, list[float | None]]
    """The same with unscored values made neutral within their group."""


def registered_rewards() -> dict[str, str]:
    """Names of all installed rewards and the ``module:factory`` behind each."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_factory(name: str) -> Callable[..., RewardFn]:
    """The factory behind a registered name, ``module:factory`` or ``path/to/file.py:factory``.

    Raises:
        RewardError: The name is unknown, or the file or module cannot be imported; says which and what to do.
    """
    registered = registered_rewards()
    target = registered.get(name, name)
    source, separator, attribute = target.rpartition(":")
    if not separator:
        raise RewardError(
            f"unknown reward {name!r}; {nearest(name, registered)} "
            "A reward of your own is written as path/to/file.py:factory or module:factory"
        )
    try:
        module = _module_from_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except FileNotFoundError as error:
        raise RewardError(f"reward {name!r}: no such file {source} (working directory {Path.cwd()})") from error
    except SyntaxError as error:
        raise RewardError(f"reward {name!r}: {error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # a user's module may fail in any way while being imported
        raise RewardError(f"reward {name!r}: importing {source} failed: {type(error).__name__}: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        functions = [
            key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")
        ]
        raise RewardError(f"reward {name!r}: {source} has no function {attribute!r}; {nearest(attribute, functions)}")
    return factory  # type: ignore[no-any-return]


def reward_key(spec: RewardSpec) -> str:
    """The short name a spec is logged under: the registered name, or the factory's own name."""
    return spec.name.rpartition(":")[2]


def check_mix(specs: Sequence[RewardSpec], tasks: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Everything wrong with a mix, as (dotted key, message), without building encoders or loading models."""
    keys = [reward_key(spec) for spec in specs]
    trained_tasks: set[str] = set()
    broken = False
    for index, spec in enumerate(specs):
        where = f"rewards.mix.{index}"
        if keys.index(keys[index]) != index:
            yield f"{where}.name", f"{keys[index]!r} appears twice; give every reward of the mix a name of its own"
        try:
            reward = _build(spec)
        except RewardError as error:
            broken = True
            yield f"{where}.name", str(error)
            continue
        if not set(reward.tasks) & set(tasks):
            yield (
                f"{where}.tasks",
                f"{spec.name!r} scores {', '.join(reward.tasks) or 'no task'}, the run trains {', '.join(tasks)}; "
                "remove it or change its tasks",
            )
        if spec.weight > 0:
            trained_tasks |= set(reward.tasks)
    untrained = [task for task in tasks if task not in trained_tasks]
    if untrained and not broken:
        yield (
            "rewards.mix",
            f"no reward with a positive weight scores {', '.join(untrained)}; that task would not learn",
        )


def _build(spec: RewardSpec) -> LoadedReward:
    factory = load_factory(spec.name)
    signature = inspect.signature(factory)
    try:
        signature.bind(**spec.kwargs)
    except TypeError as error:
        unknown = [key for key in spec.kwargs if key not in signature.parameters]
        hint = f"; {nearest(unknown[0], signature.parameters)}" if unknown and signature.parameters else ""
        raise RewardError(f"reward {spec.name!r} takes {signature}, {error}{hint}") from error
    try:
        fn = factory(**spec.kwargs)
    except (TypeError, ValueError, RewardError) as error:
        raise RewardError(f"reward {spec.name!r} refuses its kwargs {spec.kwargs}: {error}") from error
    if not callable(fn):
        raise RewardError(f"reward {spec.name!r}: the factory returned {type(fn).__name__}, expected a function")
    can_score = tuple(getattr(fn, "tasks", tuple(TASKS)))
    tasks = tuple(task for task in (spec.tasks or can_score) if task in can_score)
    return LoadedReward(
        name=reward_key(spec),
        weight=spec.weight,
        fn=fn,
        tasks=tasks,
        worst_score=float(getattr(fn, "worst_score", 0.0)),
    )


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(f"grpo_mmpc_user_reward_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RewardError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(slots=True)
class RewardMix:
    """The recipe's rewards as TRL wants them: ``functions`` and, in the same order, ``weights``.

    All rewards of a batch are computed together when TRL calls the first function; the others hand out what is there.
    """

    rewards: list[LoadedReward]
    on_error: Literal["raise", "unscored"] = "raise"
    gather: Gather = field(default=lambda items: items)
    errors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Completions that a reward failed on, by reward name (``on_error: unscored``)."""
    _scored_for: list[Any] | None = None
    _scored: ScoredBatch | None = None

    @classmethod
    def from_specs(
        cls,
        specs: Sequence[RewardSpec],
        *,
        on_error: Literal["raise", "unscored"] = "raise",
        gather: Gather | None = None,
    ) -> "RewardMix":
        """Build every factory of a mix that ``check_mix`` found no fault with.

        Raises:
            RewardError: A factory cannot be found or refuses its kwargs.
        """
        return cls(rewards=[_build(spec) for spec in specs], on_error=on_error, gather=gather or (lambda items: items))

    @property
    def weights(self) -> list[float]:
        """``GRPOConfig.reward_weights``, bound by name to ``functions``."""
        return [reward.weight for reward in self.rewards]

    @property
    def functions(self) -> list[Callable[..., list[float | None]]]:
        """TRL reward functions; the metric key of each is the reward's name."""
        return [self._trl_function(reward.name, is_first=index == 0) for index, reward in enumerate(self.rewards)]

    def _trl_function(self, name: str, *, is_first: bool) -> Callable[..., list[float | None]]:
        def reward_function(*, prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float | None]:
            if is_first or self._scored is None or self._scored_for is not completions:
                self._scored = self.score(prompts=prompts, completions=completions, **kwargs)
                self._scored_for = completions
                self._record(kwargs.get("log_extra"), kwargs.get("log_metric"))
            return self._scored.for_trainer[name]

        reward_function.__name__ = name
        return reward_function

    def score(self, *, prompts: list[Any], completions: list[Any], **kwargs: Any) -> ScoredBatch:
        """Score one rank's completions.

        Args:
            prompts: N chat prompts.
            completions: N completions, as text or as TRL's list of one assistant message.
            **kwargs: TRL's further keywords and the data set's columns, lists of length N; ``task``, ``prompt_id``,
                ``item_id``, ``category``, ``reference`` and ``image_path`` must be among them.

        Raises:
            RewardError: A reward broke its contract and the policy is ``raise``; names the reward.
        """
        texts = [completion_text(completion) for completion in completions]
        tasks: list[str] = kwargs["task"]
        parsed = [TASKS[task].parse(text) for task, text in zip(tasks, texts, strict=True)]
        columns = {key: value for key, value in kwargs.items() if key not in TRL_KEYWORDS and key != "images"}
        renamed = {
            "references": columns.pop("reference"),
            "item_ids": columns.pop("item_id"),
            "categories": columns.pop("category"),
            "image_paths": columns.pop("image_path"),
            "tasks": columns.pop("task"),
        }
        batch = {
            "prompts": prompts,
            "completions": texts,
            "predictions": [p.prediction for p in parsed],
            **renamed,
            **columns,
        }
        raw = {reward.name: self._score_one(reward, batch) for reward in self.rewards}
        for_trainer = self._neutralise(raw, columns["prompt_id"])
        return ScoredBatch(
            task=tasks,
            prediction=[p.prediction for p in parsed],
            format=[p.format for p in parsed],
            raw=raw,
            for_trainer=for_trainer,
        )

    def _score_one(self, reward: LoadedReward, batch: Mapping[str, list[Any]]) -> list[float | None]:
        """Raw values of one reward: None outside its tasks, worst for malformed completions, its own call elsewhere."""
        count = len(batch["completions"])
        values: list[float | None] = [None] * count
        applicable = [i for i in range(count) if batch["tasks"][i] in reward.tasks]
        well_formed = [i for i in applicable if batch["predictions"][i] is not None]
        for i in applicable:
            if batch["predictions"][i] is None:
                values[i] = reward.worst_score
        if not well_formed:
            return values
        try:
            scores = reward.fn(**{key: [column[i] for i in well_formed] for key, column in batch.items()})
            checked = _checked_scores(scores, expected=len(well_formed))
        except Exception as error:  # whatever a reward raises is handled by the stated policy, and never becomes a 0
            if self.on_error == "raise":
                raise RewardError(
                    f"reward {reward.name!r} failed on {len(well_formed)} completions: {type(error).__name__}: {error}. "
                    "Fix the reward, or set rewards.on_error=unscored to count such completions as unscored"
                ) from error
            if not self.errors[reward.name]:
                logger.exception("reward %r failed; its completions count as unscored", reward.name)
            self.errors[reward.name] += len(well_formed)
            return values
        for i, score in zip(well_formed, checked, strict=True):
            values[i] = score
        return values

    def _neutralise(self, raw: dict[str, list[float | None]], prompt_ids: list[str]) -> dict[str, list[float | None]]:
        """Replace unscored values by their group's mean where another trained reward scored the completion.

        Groups may be spread over ranks, so the means are taken over the gathered values; every rank takes part.
        """
        trained = [reward.name for reward in self.rewards if reward.weight > 0]
        scorable = [any(raw[name][i] is not None for name in trained) for i in range(len(prompt_ids))]
        sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        local = [(prompt_id, name, raw[name][i]) for i, prompt_id in enumerate(prompt_ids) for name in raw]
        for prompt_id, name, value in self.gather(local):
            if value is not None:
                entry = sums[prompt_id, name]
                entry[0] += value
                entry[1] += 1
        means = {key: total / count for key, (total, count) in sums.items()}
        return {
            name: [
                (value if value is not None else means.get((prompt_ids[i], name))) if scorable[i] else None
                for i, value in enumerate(values)
            ]
            for name, values in raw.items()
        }

    def _record(self, log_extra: Callable[..., None] | None, log_metric: Callable[..., None] | None) -> None:
        """Hand raw values and counts to TRL's own logging, which gathers them over ranks."""
        scored = self._scored
        if scored is None:
            return
        count = len(scored.task)
        if log_extra is not None:
            log_extra("prediction", scored.prediction)
            log_extra("format", scored.format)
            for name, values in scored.raw.items():
                log_extra(f"raw/{name}", values)
        if log_metric is not None:
            log_metric("malformed_share", sum(f == "malformed" for f in scored.format) / count)
            for reward in self.rewards:
                applicable = sum(task in reward.tasks for task in scored.task)
                if applicable:
                    unscored = sum(
                        value is None and task in reward.tasks
                        for value, task in zip(scored.raw[reward.name], scored.task, strict=True)
                    )
                    log_metric(f"rewards/{reward.name}/unscored_share", unscored / applicable)


def completion_text(completion: Any) -> str:
    """Text of a completion, whether TRL hands it as a string or as one assistant message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _checked_scores(scores: Any, *, expected: int) -> list[float | None]:
    """Scores as floats or None (NaN means unscored).

    Raises:
        RewardError: Not a sequence of ``expected`` numbers, or one is infinite.
    """
    if isinstance(scores, str | bytes) or not isinstance(scores, Iterable):
        raise RewardError(f"returned {type(scores).__name__}, expected a list of {expected} numbers or None")
    scores = list(scores)
    if len(scores) != expected:
        raise RewardError(f"returned {len(scores)} scores for {expected} completions")
    checked: list[float | None] = []
    for position, score in enumerate(scores):
        if score is None:
            checked.append(None)
            continue
        if isinstance(score, str | bytes):
            raise RewardError(f"returned {score!r} at position {position}, expected a number or None")
        value = float(score)
        if math.isinf(value):
            raise RewardError(f"returned {value} at position {position}, expected a finite number or None")
        checked.append(None if math.isnan(value) else value)
    return checked
