"""The reward mix of a recipe: TRL reward functions and weights.

Values that a reward could not give are made neutral before TRL sees them, see ``neutral``; raw
values are kept apart and recorded as they were.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards.columns import as_keywords
from grpo_mmpc.rewards.executor import RewardExecutor, Scores
from grpo_mmpc.rewards.loading import LoadedReward, build_reward
from grpo_mmpc.tasks import SHIPPED, Task
from grpo_mmpc.utils.distributed import ONE, Ranks

Values = dict[str, list[float | None]]
"""By reward name, one value for each completion; None = unscored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """The rewards of one rank's completions."""

    task: list[str | None]
    """None for a completion of a prompt that is set aside, which no reward scores."""
    predictions: list[str | None]
    formats: list[str]
    """See ``ParsedCompletion``."""
    raw: Values
    """Values as the rewards returned them; the worst score for malformed completions."""
    for_trainer: Values
    """The same with unscored values made neutral within their group."""
    failed: dict[str, int]
    """By reward name, completions that it failed on."""
    seconds: dict[str, float]
    """By reward name, duration of its call."""
    waited: float
    """Seconds from the first call to the last answer."""


class RewardMix:
    """The recipe's rewards: ``functions`` and, in the same order, ``weights``.

    All rewards of a batch are computed together when TRL calls the first function; the others hand
    out what is there.
    """

    def __init__(
        self,
        rewards: Sequence[LoadedReward],
        *,
        aggregation: str = "sum_then_normalize",
        on_error: Literal["raise", "unscored"] = "raise",
        time_limit: float = 600.0,
        ranks: Ranks = ONE,
        known_tasks: Mapping[str, Task] = SHIPPED,
    ) -> None:
        """Take loaded rewards.

        Args:
            rewards: At least one with a positive weight, their names unique.
            aggregation: The way in which TRL makes one advantage of them.
            on_error: See ``RewardsSection.on_error``.
            time_limit: Seconds of one call, where a spec states none.
            ranks: The processes that score together, all of which hold equally many completions.
            known_tasks: By name.

        Raises:
            RewardError: A name appears twice, or no weight is positive.
        """
        _check_mix(rewards)
        self.rewards = list(rewards)
        self._executor = RewardExecutor(rewards, on_error=on_error, time_limit=time_limit)
        self._aggregation = aggregation
        self._ranks = ranks
        self._tasks = known_tasks
        self._scored_for: list[Any] | None = None
        self._scored: ScoredBatch | None = None

    @classmethod
    def from_specs(
        cls, specs: Sequence[RewardSpec], *, known_tasks: Mapping[str, Task] = SHIPPED, **options: Any
    ) -> "RewardMix":
        """Build every factory of a mix that passed ``check_mix``; options as for the class itself.

        Raises:
            RewardError: A factory cannot be found or refuses its kwargs.
        """
        rewards = [build_reward(spec, known_tasks=known_tasks) for spec in specs]
        return cls(rewards, known_tasks=known_tasks, **options)

    @property
    def weights(self) -> dict[str, float]:
        """The weights by name, in the order of ``functions``: ``GRPOConfig.reward_weights``."""
        return {reward.name: reward.weight for reward in self.rewards}

    @property
    def trained(self) -> list[str]:
        """The names of rewards that are trained on; the others are monitors."""
        return [reward.name for reward in self.rewards if reward.weight > 0]

    @property
    def errors(self) -> dict[str, int]:
        """The number of completions that a reward failed on (``on_error: unscored``), by name."""
        return self._executor.errors

    @property
    def functions(self) -> list[Callable[..., list[float | None]]]:
        """The TRL reward functions; the metric key of each is the reward's name."""
        return [self._trl_function(reward.name, is_first=index == 0) for index, reward in enumerate(self.rewards)]

    def fit(self, titles: Sequence[str], *, images: Sequence[str] = ()) -> None:
        """Give rewards that need a corpus the true titles of the training items, or their images.

        Raises:
            RewardError: A reward failed on them.
        """
        self._executor.fit(titles, images)

    def prepare(self, rows: Sequence[Mapping[str, Any]], *, completions: Sequence[str] | None = None) -> None:
        """Let rewards encode what is known already during generation; returns at once.

        Args:
            rows: Rows of the training data set, one for each completion.
            completions: Those completions, once they are done. Without them it is references and
                images that are known.
        """
        if not rows:
            return
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        columns["prompts"] = columns.pop("prompt")
        columns = as_keywords(columns)
        if completions is not None:
            columns |= self._read(completions, columns["tasks"])
            known = [i for i, prediction in enumerate(columns["predictions"]) if prediction is not None]
            columns = {key: [column[i] for i in known] for key, column in columns.items()}
        self._executor.prepare(columns)

    def close(self) -> None:
        """End the processes of isolated rewards."""
        self._executor.close()

    def _trl_function(self, name: str, *, is_first: bool) -> Callable[..., list[float | None]]:
        def reward_function(*, prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float | None]:
            if is_first or self._scored is None or self._scored_for is not completions:
                self._scored = self.score(prompts=prompts, completions=completions, **kwargs)
                self._scored_for = completions
                self._log(self._scored, **kwargs)
            return self._scored.for_trainer[name]

        reward_function.__name__ = name
        return reward_function

    def score(self, *, prompts: list[Any], completions: list[Any], **kwargs: Any) -> ScoredBatch:
        """Score one rank's completions.

        Args:
            prompts: N chat prompts.
            completions: N completions, as text or as TRL's list of one assistant message.
            **kwargs: TRL's further keywords and the data set's columns, lists of length N;
                ``task``, ``prompt_id``, ``item_id``, ``category``, ``reference`` and ``image_path``
                must be among them. No reward scores a completion with a reason under ``set_aside``.

        Raises:
            RewardError: A reward broke its contract and the policy is ``raise``; names the reward.
        """
        texts = [completion_text(completion) for completion in completions]
        reasons = kwargs.get("set_aside") or [None] * len(texts)
        tasks = [task if reason is None else None for task, reason in zip(kwargs["task"], reasons, strict=True)]
        columns = {
            **as_keywords(kwargs),
            "tasks": tasks,
            "prompts": prompts,
            **self._read(texts, kwargs["task"]),
        }
        start = time.monotonic()
        raw, scores = self._score_raw(columns)
        return ScoredBatch(
            task=tasks,
            predictions=columns["predictions"],
            formats=columns["formats"],
            raw=raw,
            waited=time.monotonic() - start,
            for_trainer=neutral(
                raw, kwargs["prompt_id"], trained=self.trained, aggregation=self._aggregation, ranks=self._ranks
            ),
            failed={name: one.failed for name, one in scores.items()},
            seconds={name: one.seconds for name, one in scores.items()},
        )

    def _read(self, completions: Sequence[str], tasks: Sequence[str]) -> dict[str, list[Any]]:
        """Return what rewards are told of completions."""
        parsed = [self._tasks[task].parse(text) for task, text in zip(tasks, completions, strict=True)]
        return {
            "completions": list(completions),
            "predictions": [one.prediction for one in parsed],
            "formats": [one.format for one in parsed],
            "targets": [self._tasks[task].kind for task in tasks],
        }

    def _score_raw(self, columns: Mapping[str, list[Any]]) -> tuple[Values, dict[str, Scores]]:
        """Return raw values: None outside a reward's tasks, its worst score if malformed."""
        raw: Values = {}
        asked: dict[str, list[int]] = {}
        for reward in self.rewards:
            applicable = [i for i, task in enumerate(columns["tasks"]) if task in reward.tasks]
            malformed = {i for i in applicable if columns["predictions"][i] is None}
            raw[reward.name] = [reward.worst_score if i in malformed else None for i in range(len(columns["tasks"]))]
            if rows := [i for i in applicable if i not in malformed]:
                asked[reward.name] = rows
        scores = self._executor.score(
            {name: {key: [column[i] for i in rows] for key, column in columns.items()} for name, rows in asked.items()}
        )
        for name, one in scores.items():
            for i, value in zip(asked[name], one.values, strict=True):
                raw[name][i] = value
        return raw, scores

    def _log(
        self,
        scored: ScoredBatch,
        *,
        log_extra: Callable[..., None] | None = None,
        log_metric: Callable[..., None] | None = None,
        **_: Any,
    ) -> None:
        """Hand values, counts and times to TRL's own logging, which gathers them over ranks."""
        if log_extra is not None:
            log_extra("prediction", scored.predictions)
            log_extra("format", scored.formats)
            for name, values in scored.raw.items():
                log_extra(f"raw/{name}", values)
        if log_metric is None:
            return
        formats = [form for form, task in zip(scored.formats, scored.task, strict=True) if task is not None]
        if formats:
            log_metric("malformed_share", formats.count("malformed") / len(formats))
        log_metric("reward_time/wait", scored.waited)
        for reward in self.rewards:
            name = reward.name
            log_metric(f"reward_time/{name}", scored.seconds.get(name, 0.0))
            known = [value for value in scored.raw[name] if value is not None]
            valid = [
                value
                for value, task, prediction in zip(scored.raw[name], scored.task, scored.predictions, strict=True)
                if task in reward.tasks and prediction is not None
            ]
            if valid:
                log_metric(f"rewards/{name}/unscored_share", valid.count(None) / len(valid))
                log_metric(f"rewards/{name}/failed_share", scored.failed.get(name, 0) / len(valid))
            if known:
                mean = sum(known) / len(known)
                log_metric(f"rewards/{name}/raw_mean", mean)
                log_metric(f"rewards/{name}/weighted_mean", reward.weight * mean)


def neutral(
    raw: Mapping[str, Sequence[float | None]],
    prompt_ids: Sequence[str],
    *,
    trained: Sequence[str],
    aggregation: str,
    ranks: Ranks = ONE,
) -> Values:
    """Return values for TRL, in which what is unscored neither helps nor harms a completion.

    TRL adds None as 0 to a weighted sum: there the mean of the group's scored completions stands
    for it. Under ``normalize_then_sum`` TRL leaves None out of mean, deviation and sum, and it
    stays: another value at the mean would shrink the deviation that the others are divided by. A
    completion that no trained reward scored is None for all.

    Groups may be spread over ranks: means are those of the gathered values, and every rank takes
    part.

    Args:
        raw: By reward, N values; None = unscored.
        prompt_ids: Group of each completion.
        trained: Rewards with a positive weight.
        aggregation: As ``advantages`` takes it.
        ranks: The processes that hold the other completions.
    """
    scorable = [any(raw[name][i] is not None for name in trained) for i in range(len(prompt_ids))]
    means: dict[tuple[str, str], float] = {}
    if aggregation == "sum_then_normalize":
        rows = ranks.gather(list(zip(prompt_ids, *raw.values(), strict=True)))
        members: dict[tuple[str, str], list[float]] = defaultdict(list)
        for group, *values in rows:
            for name, value in zip(raw, values, strict=True):
                if value is not None:
                    members[name, group].append(value)
        means = {key: sum(known) / len(known) for key, known in members.items()}
    return {
        name: [
            (means.get((name, group)) if value is None else value) if known else None
            for value, group, known in zip(column, prompt_ids, scorable, strict=True)
        ]
        for name, column in raw.items()
    }


def completion_text(completion: Any) -> str:
    """Return the text of a completion, given as a string or as messages, of the last one."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _check_mix(rewards: Sequence[LoadedReward]) -> None:
    twice = [name for name, count in Counter(reward.name for reward in rewards).items() if count > 1]
    if twice:
        raise RewardError(f"{twice[0]!r} appears twice; give every reward of the mix a name of its own")
    if not any(reward.weight > 0 for reward in rewards):
        names = ", ".join(reward.name for reward in rewards) or "no reward at all"
        raise RewardError(f"a mix needs a reward with a positive weight, or nothing is learnt; found {names}")
