"""The ``rewards`` section of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from grpo_mmpc.config.section import Section


class RewardSpec(Section):
    """One named reward of the mix."""

    name: str
    """A registered reward, ``module:factory`` or ``path/to/file.py:factory``."""
    weight: Annotated[float, Field(ge=0, le=1e6)]
    """0 makes it a monitor: logged, never trained on; others lie between 1e-6 and 1e6."""
    kwargs: dict[str, Any] = {}
    """Arguments of the factory."""
    tasks: list[str] | None = None
    """Tasks it is applied to; null means every task that the reward can score."""
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds one call may take; null takes ``rewards.time_limit``."""
    isolated: bool = False
    """Run it in a process of its own: one that hangs is killed, one that dies or leaks is started
    again."""

    @field_validator("weight")
    @classmethod
    def _can_be_felt(cls, value: float) -> float:
        if 0 < value < 1e-6:  # TRL adds 1e-4 to the deviation that it divides by
            raise ValueError(f"{value} is too small to be felt; expected 0 or a number from 1e-6 to 1e6")
        return value

    @property
    def key(self) -> str:
        """The name it is logged under, see ``reward_key``."""
        return reward_key(self.name)


class RewardsSection(Section):
    """The reward mix."""

    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """TRL's ``multi_objective_aggregation``."""
    on_error: Literal["raise", "unscored"] = "raise"
    """The effect of an exception, a NaN or infinity, a wrong number of values or a missed time
    limit: stop the run, or count the completions as unscored."""
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """Seconds one call of a reward may take; the first call also loads its encoder."""
    dead_groups: Literal["keep", "drop", "resample"] = "keep"
    """The treatment of zero-variance groups, whose completions all have the same reward.
    ``keep`` trains on them as TRL does (KL penalty included, if there is one); ``drop`` takes their
    tokens out of the loss and its normaliser; ``resample`` samples their completions once again and
    keeps a new group that has variance."""
    mix: Annotated[list[RewardSpec], Field(min_length=1)]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each reward by the name it is logged under."""
        return {spec.key: spec.weight for spec in self.mix}


def reward_key(name: str) -> str:
    """Return the name a reward is logged under: the registered one, or that of a file's factory."""
    return name.rpartition(":")[2]
