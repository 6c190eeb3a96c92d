"""The sentences that a preview of rewards supports: which wrong answers fool which reward."""

from grpo_mmpc.analysis.reward_bench.results import FOOLED_BELOW, Preview, RewardResult
from grpo_mmpc.reports.common.findings import Finding
from grpo_mmpc.reports.common.labels import listed, words


def findings(preview: Preview, task: str) -> list[Finding]:
    """Say of every reward of a task what fools it: the mix first, then those that are fooled."""
    scored = [reward for reward in preview.rewards if _is_scored(reward, task)]
    if not scored:
        return [Finding(text="No reward could score both the true answer and a wrong one.", kind="no verdict")]
    fooled = [(reward, kinds) for reward in scored if (kinds := _fooling(reward, task))]
    firm = [reward.name for reward in scored if not _fooling(reward, task)]
    said = [_on_fooled(reward, kinds) for reward, kinds in sorted(fooled, key=lambda pair: not pair[0].is_mix)]
    if firm:
        verb = "prefers" if len(firm) == 1 else "prefer"
        share = f"in at least {FOOLED_BELOW:.0%} of items"
        text = f"{listed(firm)} {verb} the true answer to every kind of wrong one, {share}."
        said.insert(0 if "mix" in firm else len(said), Finding(text=text, tone="better"))
    return said


def _is_scored(reward: RewardResult, task: str) -> bool:
    return task in reward.tasks and any(one.wins is not None for one in reward.tasks[task].kinds.values())


def _fooling(reward: RewardResult, task: str) -> list[str]:
    return [words(kind) for kind, separation in reward.tasks[task].kinds.items() if separation.fools]


def _on_fooled(reward: RewardResult, kinds: list[str]) -> Finding:
    text = f"{reward.name} cannot tell the true answer from {listed(kinds)}, or prefers the wrong one."
    return Finding(text=text, tone="worse")
