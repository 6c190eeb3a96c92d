"""The recipe's rewards as TRL wants them: functions and weights, values that never punish what could not be scored.

TRL sums the rewards of a completion with ``nansum``, so a None inside a group acts as a reward of
0: a penalty wherever rewards are positive. ``RewardMix`` therefore hands TRL the mean of the
group's scored completions instead, which gives the unscored completion no advantage from that
reward, and keeps None only where no trained reward could score the completion at all (TRL then sets
its advantage to 0). Raw values are kept apart and recorded as they were.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards.executor import RewardHost, Scores
from grpo_mmpc.rewards.loading import LoadedReward, build_reward, reward_key
from grpo_mmpc.rewards.transforms import Transformer, weight_at
from grpo_mmpc.tasks import TASKS

TRL_KEYWORDS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
Gather = Callable[[list[Any]], list[Any]]
"""Concatenates a list over all ranks, in rank order; the identity on one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """Rewards of one rank's completions."""

    task: list[str]
    prediction: list[str | None]
    """Parsed completion; None when malformed."""
    format: list[str]
    raw: dict[str, list[float | None]]
    """By reward name; None = unscored."""
    transformed: dict[str, list[float | None]]
    """The same after each reward's transform."""
    for_trainer: dict[str, list[float | None]]
    """The same with unscored values made neutral within their group."""
    failed: dict[str, int]
    """By reward name, completions that it failed on."""
    seconds: dict[str, float]
    """By reward name, how long its call took."""
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
        on_error: Literal["raise", "unscored"] = "raise",
        time_limit: float = 600.0,
        gather: Gather | None = None,
        rank: int = 0,
    ) -> None:
        """Take loaded rewards.

        Args:
            rewards: With names that are unique.
            on_error: See ``RewardsSection.on_error``.
            time_limit: Seconds of one call, where a spec states none.
            gather: Concatenates over ranks, all of which hold equally many completions.
            rank: Of this process.
        """
        self.rewards = list(rewards)
        self._host = RewardHost(rewards, on_error=on_error, time_limit=time_limit)
        self._transformers = {reward.name: Transformer(reward.spec) for reward in rewards}
        self._gather: Gather = gather or (lambda items: items)
        self._rank = rank
        self._scored_for: list[Any] | None = None
        self._scored: ScoredBatch | None = None

    @classmethod
    def from_specs(cls, specs: Sequence[RewardSpec], **options: Any) -> "RewardMix":
        """Build every factory of a mix that ``check_mix`` found no fault with; options as for the class itself.

        Raises:
            RewardError: A factory cannot be found or refuses its kwargs.
        """
        return cls([build_reward(spec) for spec in specs], **options)

    @classmethod
    def of_recorded(cls, specs: Sequence[RewardSpec]) -> "RewardMix":
        """For values that are known already: transforms, weights and names of a mix whose rewards are not even built.

        They may be gone since, or need encoders that are not here. ``score`` fails; ``values_of``
        and ``weights_at`` work.
        """

        def absent(**columns: Any) -> list[float | None]:
            raise RewardError("a recorded reward scores nothing")

        return cls(
            [
                LoadedReward(
                    name=reward_key(spec),
                    weight=spec.weight,
                    fn=absent,
                    tasks=tuple(spec.tasks or TASKS),
                    worst_score=0.0,
                    spec=spec,
                )
                for spec in specs
            ]
        )

    @property
    def weights(self) -> list[float]:
        """``GRPOConfig.reward_weights`` before the first step, bound by name to ``functions``."""
        return list(self.weights_at(0).values())

    def weights_at(self, step: int) -> dict[str, float]:
        """Weights by name after ``step`` optimiser updates, in the order of ``functions``."""
        return {reward.name: weight_at(reward.spec, step) for reward in self.rewards}

    @property
    def trained(self) -> list[str]:
        """Names of the rewards that are trained on at some step."""
        return [reward.name for reward in self.rewards if reward.weight > 0]

    @property
    def errors(self) -> dict[str, int]:
        """Completions that a reward failed on (``on_error: unscored``), by reward name."""
        return self._host.errors

    @property
    def functions(self) -> list[Callable[..., list[float | None]]]:
        """TRL reward functions; the metric key of each is the reward's name."""
        return [self._trl_function(reward.name, is_first=index == 0) for index, reward in enumerate(self.rewards)]

    def fit(self, titles: Sequence[str]) -> None:
        """Give rewards that need a corpus the true titles of the training items.

        Raises:
            RewardError: A reward failed on them.
        """
        self._host.fit(titles)

    def prepare(self, rows: Sequence[Mapping[str, Any]], *, completions: Sequence[str] | None = None) -> None:
        """Let rewards encode what is known already while completions are being generated; returns at once.

        Args:
            rows: Rows of the training data set, one for each completion.
            completions: Those completions, once they are done. Without them it is references and
                images that are known.
        """
        if not rows:
            return
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        columns["prompts"] = columns.pop("prompt")
        columns = _renamed(columns)
        if completions is not None:
            parsed = [
                TASKS[task].parse(text).prediction for task, text in zip(columns["tasks"], completions, strict=True)
            ]
            columns |= {"completions": list(completions), "predictions": parsed}
            known = [i for i, prediction in enumerate(parsed) if prediction is not None]
            columns = {key: [column[i] for i in known] for key, column in columns.items()}
        self._host.prepare(columns)

    def state(self) -> dict[str, Any]:
        """What running transforms remember, for a checkpoint."""
        return {name: t.moments.state() for name, t in self._transformers.items() if t.moments is not None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state; rewards that it does not know start anew."""
        for name, transformer in self._transformers.items():
            if transformer.moments is not None and name in state:
                transformer.moments.restore(state[name])

    def close(self) -> None:
        """End what runs beside this process."""
        self._host.close()

    def _trl_function(self, name: str, *, is_first: bool) -> Callable[..., list[float | None]]:
        def reward_function(*, prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float | None]:
            if is_first or self._scored is None or self._scored_for is not completions:
                self._scored = self.score(prompts=prompts, completions=completions, **kwargs)
                self._scored_for = completions
                self._record(self._scored, **kwargs)
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
                must be among them.

        Raises:
            RewardError: A reward broke its contract and the policy is ``raise``; names the reward.
        """
        texts = [completion_text(completion) for completion in completions]
        tasks: list[str] = kwargs["task"]
        parsed = [TASKS[task].parse(text) for task, text in zip(tasks, texts, strict=True)]
        columns = {key: value for key, value in kwargs.items() if key not in (*TRL_KEYWORDS, "images")}
        batch = {
            **_renamed(columns),
            "prompts": prompts,
            "completions": texts,
            "predictions": [p.prediction for p in parsed],
        }
        start = time.monotonic()
        raw, scores = self._raw(batch)
        waited = time.monotonic() - start
        transformed, for_trainer = self.values_of(raw, kwargs["prompt_id"])
        return ScoredBatch(
            task=tasks,
            prediction=[p.prediction for p in parsed],
            format=[p.format for p in parsed],
            raw=raw,
            transformed=transformed,
            for_trainer=for_trainer,
            failed={name: found.failed for name, found in scores.items()},
            seconds={name: found.seconds for name, found in scores.items()},
            waited=waited,
        )

    def _raw(self, batch: Mapping[str, list[Any]]) -> tuple[dict[str, list[float | None]], dict[str, Scores]]:
        """Raw values: None outside a reward's tasks, worst for malformed completions, its own call elsewhere."""
        raw: dict[str, list[float | None]] = {}
        asked: dict[str, list[int]] = {}
        for reward in self.rewards:
            applicable = [i for i, task in enumerate(batch["tasks"]) if task in reward.tasks]
            malformed = {i for i in applicable if batch["predictions"][i] is None}
            raw[reward.name] = [reward.worst_score if i in malformed else None for i in range(len(batch["tasks"]))]
            asked[reward.name] = [i for i in applicable if i not in malformed]
        scores = self._host.score(
            {
                name: {key: [column[i] for i in rows] for key, column in batch.items()}
                for name, rows in asked.items()
                if rows
            }
        )
        for name, found in scores.items():
            for i, value in zip(asked[name], found.values, strict=True):
                raw[name][i] = value
        return raw, scores

    def values_of(
        self, raw: Mapping[str, list[float | None]], prompt_ids: list[str]
    ) -> tuple[dict[str, list[float | None]], dict[str, list[float | None]]]:
        """Transformed values, and those for TRL: neutral where another trained reward scored the completion.

        Groups may be spread over ranks and running transforms must agree on all of them, so both
        work on the gathered values; every rank takes part.
        """
        names = list(raw)
        rows = self._gather(list(zip(prompt_ids, *(raw[name] for name in names), strict=True)))
        groups = [row[0] for row in rows]
        here = slice(self._rank * len(prompt_ids), (self._rank + 1) * len(prompt_ids))
        scorable = [any(raw[name][i] is not None for name in self.trained) for i in range(len(prompt_ids))]
        transformed, for_trainer = {}, {}
        for column, name in enumerate(names, start=1):
            values = self._transformers[name]([row[column] for row in rows], groups)
            means = _group_means(values, groups)
            transformed[name] = values[here]
            for_trainer[name] = [
                (value if value is not None else means.get(group)) if known else None
                for value, group, known in zip(values[here], prompt_ids, scorable, strict=True)
            ]
        return transformed, for_trainer

    def _record(
        self,
        scored: ScoredBatch,
        *,
        log_extra: Callable[..., None] | None = None,
        log_metric: Callable[..., None] | None = None,
        trainer_state: Any = None,
        **_: Any,
    ) -> None:
        """Hand values, counts and times to TRL's own logging, which gathers them over ranks."""
        weights = self.weights_at(getattr(trainer_state, "global_step", 0))
        if log_extra is not None:
            log_extra("prediction", scored.prediction)
            log_extra("format", scored.format)
            for name, values in scored.raw.items():
                log_extra(f"raw/{name}", values)
                log_extra(f"transformed/{name}", scored.transformed[name])
        if log_metric is None:
            return
        log_metric("malformed_share", sum(f == "malformed" for f in scored.format) / len(scored.task))
        log_metric("reward_time/wait", scored.waited)
        for reward in self.rewards:
            name = reward.name
            log_metric(f"reward_time/{name}", scored.seconds.get(name, 0.0))
            log_metric(f"rewards/{name}/weight", weights[name])
            known = _known(scored.raw[name])
            applicable = sum(task in reward.tasks for task in scored.task)
            if applicable:
                log_metric(f"rewards/{name}/unscored_share", 1 - len(known) / applicable)
                log_metric(f"rewards/{name}/failed_share", scored.failed.get(name, 0) / applicable)
            if known:
                cut = self._transformers[name].cut
                log_metric(f"rewards/{name}/raw_mean", sum(known) / len(known))
                log_metric(
                    f"rewards/{name}/weighted_mean", weights[name] * sum(_known(scored.transformed[name])) / len(known)
                )
                log_metric(f"rewards/{name}/clipped_share", sum(map(cut, known)) / len(known))


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def completion_text(completion: Any) -> str:
    """Text of a completion, whether TRL hands it as a string or as one assistant message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def _renamed(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The data set's columns under the names that rewards know."""
    plural = {
        "reference": "references",
        "item_id": "item_ids",
        "category": "categories",
        "image_path": "image_paths",
        "task": "tasks",
    }
    kept = {key: value for key, value in columns.items() if key not in (*TRL_KEYWORDS[1:], "images")}
    # A catalogue's own column may have one of these names; the data set's comes first.
    return kept | {new: kept.pop(old) for old, new in plural.items() if old in kept}


def _group_means(values: Sequence[float | None], groups: Sequence[str]) -> dict[str, float]:
    """Mean of the scored values of each group that has any."""
    members: dict[str, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        if value is not None:
            members[group].append(value)
    return {group: sum(known) / len(known) for group, known in members.items()}
