"""The ``rewards`` section of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from grpo_mmpc.config.section import Section

TaskName = Literal["image_to_text", "text_to_image"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Bounded(Section):
    low: Finite
    high: Finite

    @model_validator(mode="after")
    def _ordered(self) -> "_Bounded":
        if self.low >= self.high:
            raise ValueError(f"low must lie below high, found {self.low:g} and {self.high:g}")
        return self


class ClipTransform(_Bounded):
    """Cuts values at both bounds."""

    kind: Literal["clip"]


class RescaleTransform(_Bounded):
    """Maps [low, high] to [0, 1] and cuts what lies outside."""

    kind: Literal["rescale"]


class ZScoreTransform(Section):
    """Subtracts the mean of all values seen so far in the run and divides by their standard deviation."""

    kind: Literal["z_score"]


class GroupRankTransform(Section):
    """Ranks within the group, from 0 (worst) to 1 (best); equal values share the mean of their ranks."""

    kind: Literal["group_rank"]


class ConstantSchedule(Section):
    """The weight as it is."""

    kind: Literal["constant"]


class LinearSchedule(Section):
    """The weight times a factor that moves in a straight line between two steps, and stays where it ends."""

    kind: Literal["linear"]
    start_step: Annotated[int, Field(ge=0)] = 0
    end_step: Annotated[int, Field(gt=0)]
    start: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    end: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> "LinearSchedule":
        if self.start_step >= self.end_step:
            raise ValueError(f"start_step must lie before end_step, found {self.start_step} and {self.end_step}")
        return self


def _number(key: Any) -> Any:
    """A step written as text: keys of YAML that went through JSON, or of an override."""
    return int(key) if isinstance(key, str) and key.isdigit() else key


class StepSchedule(Section):
    """The weight times 1, and from each named step on times that step's factor."""

    kind: Literal["step"]
    factors: Annotated[
        dict[Annotated[int, BeforeValidator(_number), Field(ge=0)], Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(min_length=1),
    ]
    """Step -> factor."""


def _named(value: Any) -> Any:
    """``group_rank`` alone stands for ``{kind: group_rank}``."""
    return {"kind": value} if isinstance(value, str) else value


Transform = Annotated[
    ClipTransform | RescaleTransform | ZScoreTransform | GroupRankTransform, Field(discriminator="kind")
]
Schedule = Annotated[ConstantSchedule | LinearSchedule | StepSchedule, Field(discriminator="kind")]


class RewardSpec(Section):
    """One named reward of the mix."""

    name: str
    """A registered reward, ``module:factory`` or ``path/to/file.py:factory``."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """0 makes it a monitor: logged, never trained on."""
    kwargs: dict[str, Any] = {}
    """Arguments of the factory."""
    tasks: list[TaskName] | None = None
    """Tasks it is applied to; null means every task that the reward can score."""
    transform: Annotated[Transform | None, BeforeValidator(_named)] = None
    """What happens to its values before they are weighted; null leaves them as they are."""
    schedule: Annotated[Schedule | None, BeforeValidator(_named)] = None
    """How its weight changes with the number of optimiser updates done, which is 0 in the first
    step; null keeps it."""
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds one call may take; null takes ``rewards.time_limit``."""
    isolated: bool = False
    """Run it in a process of its own: one that hangs is killed, one that dies or leaks is started
    again."""


class RewardsSection(Section):
    """The reward mix."""

    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """TRL's ``multi_objective_aggregation``."""
    on_error: Literal["raise", "unscored"] = "raise"
    """What an exception, a NaN or infinity, a wrong number of values or a missed time limit does:
    stop the run, or count the completions as unscored."""
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """Seconds one call of a reward may take; the first call also loads its encoder."""
    dead_groups: Literal["keep", "drop", "resample"] = "keep"
    """What happens to groups whose completions all have the same reward, which teach nothing.
    ``keep`` trains on them as TRL does (KL penalty included, if there is one); ``drop`` takes their
    tokens out of the loss and its normaliser; ``resample`` draws their completions once again and
    keeps a new group where it is alive."""
    mix: Annotated[list[RewardSpec], Field(min_length=1)]
