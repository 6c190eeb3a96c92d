"""What a replay says: one record for ``summary.json`` and for the text that is printed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from grpo_mmpc.analysis.replay.agreement import Agreement, GroupPair, agreement
from grpo_mmpc.analysis.replay.replay import Replay
from grpo_mmpc.config.rewards import RewardsSection
from grpo_mmpc.rewards import reward_key

MAX_BLOCKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A stretch of training."""

    first_step: int
    last_step: int
    agreement: Agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run under another mix."""

    run: str
    name: str
    """Of the mix."""
    old: RewardsSection
    new: RewardsSection
    blocks: list[Block]
    total: Agreement
    replay: Replay

    @property
    def signal(self) -> str:
        """``dead``, ``weak`` or ``alive``, by the share of groups that would teach nothing."""
        dead = self.total.new_dead or 0.0
        return "dead" if dead >= 0.9 else "weak" if dead >= 0.5 else "alive"

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``."""
        check = self.replay.check
        return {
            "run": self.run,
            "mix": self.name,
            "old": _mix(self.old),
            "new": _mix(self.new),
            "signal": self.signal,
            "total": asdict(self.total),
            "blocks": [
                {"first_step": block.first_step, "last_step": block.last_step, **asdict(block.agreement)}
                for block in self.blocks
            ],
            "advantage_share": {"old": dict(self.replay.old_shares), "new": dict(self.replay.new_shares)},
            "self_check": {
                "rewards": {name: {"equal": found.equal, **asdict(found)} for name, found in check.rewards.items()},
                "advantages": {"equal": check.advantages_equal, **asdict(check.advantages)},
            },
            "unscored": dict(self.replay.unscored),
            "items_gone": dict(self.replay.gone),
            "catalogue_changed": self.replay.catalogue_changed,
            "examples": [example.as_dict() for example in self.replay.examples],
        }


def summarise(replay: Replay, *, run: str, name: str, old: RewardsSection, new: RewardsSection) -> Summary:
    """Agreement in total and over stretches of training."""
    return Summary(
        run=run,
        name=name,
        old=old,
        new=new,
        blocks=blocks(replay.groups),
        total=agreement(replay.groups),
        replay=replay,
    )


def blocks(groups: Sequence[GroupPair]) -> list[Block]:
    """At most ``MAX_BLOCKS`` stretches of equally many steps, give or take one."""
    steps = sorted({group.step for group in groups})
    count = min(MAX_BLOCKS, len(steps))
    ends = [round(len(steps) * (i + 1) / count) for i in range(count)]
    found = []
    for start, end in zip([0, *ends], ends, strict=False):
        first, last = steps[start], steps[end - 1]
        chosen = [group for group in groups if first <= group.step <= last]
        found.append(Block(first_step=first, last_step=last, agreement=agreement(chosen)))
    return found


def _mix(section: RewardsSection) -> dict[str, Any]:
    return {
        "aggregation": section.aggregation,
        "weights": {reward_key(spec): spec.weight for spec in section.mix},
    }
