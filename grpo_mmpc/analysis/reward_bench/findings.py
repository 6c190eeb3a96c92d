"""The sentences that a preview of rewards supports: which wrong answers fool which reward."""

from grpo_mmpc.analysis.reward_bench.results import FOOLED_BELOW, MIX, Preview, RewardResult
from grpo_mmpc.reports.common.findings import Finding
from grpo_mmpc.reports.common.labels import listed, words

_SAME, _OTHER = "same_category", "other_category"


def findings(preview: Preview, task: str) -> list[Finding]:
    """Say of every reward of a task what fools it: the mix first, then what cannot tell titles."""
    scored = [reward for reward in preview.rewards if _is_scored(reward, task)]
    if not scored:
        return [Finding(text="No reward could score both the true answer and a wrong one.", kind="no verdict")]
    fooled = {reward.name: _fooling(reward, task) for reward in scored}
    blind = [name for name, kinds in fooled.items() if {_SAME, _OTHER} <= set(kinds)]
    said = [
        *_on_titles(blind, is_blind=True),
        *_on_titles([name for name, kinds in fooled.items() if _SAME in kinds and _OTHER not in kinds], is_blind=False),
    ]
    for name, kinds in fooled.items():
        rest = [words(kind) for kind in kinds if kind not in (_SAME, _OTHER)]
        if rest and name not in blind:
            text = f"{name} cannot tell the true answer from {listed(rest)} ones, or prefers the wrong one."
            said.insert(0 if name == MIX else len(said), Finding(text=text, tone="worse"))
    firm = [name for name, kinds in fooled.items() if not kinds]
    if firm:
        verb = "prefers" if len(firm) == 1 else "prefer"
        share = f"in at least {FOOLED_BELOW:.0%} of items"
        text = f"{listed(firm)} {verb} the true answer to every kind of wrong one, {share}."
        said.insert(0 if MIX in firm else len(said), Finding(text=text, tone="better"))
    return said


def _on_titles(names: list[str], *, is_blind: bool) -> list[Finding]:
    if not names:
        return []
    if is_blind:
        text = f"{listed(names)} cannot tell your titles apart: that of another product scores as well."
    else:
        verb = "tells" if len(names) == 1 else "tell"
        text = f"{listed(names)} {verb} your categories apart, but not the titles within one."
    return [Finding(text=text, tone="worse")]


def _is_scored(reward: RewardResult, task: str) -> bool:
    return task in reward.tasks and any(one.wins is not None for one in reward.tasks[task].kinds.values())


def _fooling(reward: RewardResult, task: str) -> list[str]:
    return [kind for kind, separation in reward.tasks[task].kinds.items() if separation.fools]
