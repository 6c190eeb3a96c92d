"""The printed answer of ``grpo-mmpc rescore``: at most 110 columns, readable without knowing the code."""

import textwrap
from collections.abc import Iterator

from grpo_mmpc.analysis.replay.agreement import Agreement
from grpo_mmpc.analysis.replay.examples import Contender, Example
from grpo_mmpc.analysis.replay.summary import Summary
from grpo_mmpc.config.rewards import RewardsSection
from grpo_mmpc.rewards import reward_key

_WIDTH = 110
_SHOWN = 3
_LEGEND = (
    "rank correlation: Spearman's, of the advantages under both mixes (1 = same order, 0 = unrelated), over all",
    "  completions and within groups (mean); winner differs: groups in which another completion would be the best;",
    "  sign differs: completions that one mix makes likelier and the other less likely; both among groups alive under",
    "  both mixes; dead groups: all completions score alike, so that the group teaches nothing",
)


def told(summary: Summary) -> Iterator[str]:
    """Line by line."""
    total = summary.total
    yield (
        f"{summary.run}: {total.completions:,} saved completions in {total.groups:,} groups, "
        f"steps {summary.blocks[0].first_step} to {summary.blocks[-1].last_step}"
    )
    for label, section in (("old mix", summary.old), ("new mix", summary.new)):
        yield from _wrapped(f"{label}  {_mix(section)}", indent=9)
    yield ""
    yield from _table(summary)
    yield from _LEGEND
    yield ""
    yield from _shares(summary)
    yield from _examples(summary)
    yield from _checks(summary)
    yield ""
    yield from _wrapped(verdict(summary), indent=0)


def verdict(summary: Summary) -> str:
    """What follows, in a few sentences."""
    total = summary.total
    dead = f"{_percent(total.new_dead)} of the groups would be dead ({_percent(total.old_dead)} were)"
    signal = {
        "dead": f"The signal is dead: {dead}; this mix would teach almost nothing on these rollouts.",
        "weak": f"The signal is weak: {dead}.",
        "alive": f"The signal is alive: {dead}.",
    }[summary.signal]
    rho = total.rank_correlation_in_group
    if rho is None or total.winner_changes is None:
        return signal
    agrees = "agrees with" if rho >= 0.9 else "partly agrees with" if rho >= 0.5 else "hardly agrees with"
    if rho <= -0.2:
        agrees = "contradicts"
    if (summary.old.mix, summary.old.aggregation) == (summary.new.mix, summary.new.aggregation):
        return f"{signal} This is the run's own mix: everything above should agree with itself."
    return (
        f"{signal} Within groups the new mix {agrees} the old one (rank correlation {rho:.2f}); another completion "
        f"would have won in {_percent(total.winner_changes)} of the groups that are alive under both. Rollouts are those of the old policy: how "
        "the new mix would have changed them, a replay cannot tell."
    )


def _mix(section: RewardsSection) -> str:
    specs = sorted(section.mix, key=lambda spec: spec.weight == 0)
    trained = ", ".join(
        f"{reward_key(spec)} {spec.weight:g}"
        + (f" ({spec.transform.kind})" if spec.transform is not None else "")
        + (f" ({spec.schedule.kind} schedule)" if spec.schedule is not None else "")
        for spec in specs
        if spec.weight > 0
    )
    monitors = ", ".join(reward_key(spec) for spec in specs if spec.weight == 0)
    return f"{trained}{f'; monitors {monitors}' if monitors else ''}; {section.aggregation}"


def _table(summary: Summary) -> Iterator[str]:
    yield f"{'':<12} {'':>7}  {'rank correlation':^18}  {'winner':>8} {'sign':>8}  {'dead groups':^15}".rstrip()
    yield f"{'steps':<12} {'groups':>7}  {'all':>8} {'in group':>9}  {'differs':>8} {'differs':>8}  {'old':>7} {'new':>7}"
    if len(summary.blocks) > 1:
        for block in summary.blocks:
            steps = f"{block.first_step}-{block.last_step}" if block.last_step > block.first_step else block.first_step
            yield _row(str(steps), block.agreement)
    yield _row("all", summary.total)


def _row(name: str, found: Agreement) -> str:
    return (
        f"{name:<12} {found.groups:>7,}  {_number(found.rank_correlation):>8} "
        f"{_number(found.rank_correlation_in_group):>9}  {_percent(found.winner_changes):>8} "
        f"{_percent(found.sign_changes):>8}  {_percent(found.old_dead):>7} {_percent(found.new_dead):>7}"
    )


def _shares(summary: Summary) -> Iterator[str]:
    old, new = summary.replay.old_shares, summary.replay.new_shares
    names = [*old, *(name for name in new if name not in old)]
    if not names:
        return
    title = "share of the advantages' variance"
    width = max(len(name) for name in [*names, title])
    yield f"{title:<{width}} {'old':>7} {'new':>7}"
    for name in names:
        yield f"{name:<{width}} {_percent(old.get(name)):>7} {_percent(new.get(name)):>7}"
    yield ""


def _examples(summary: Summary) -> Iterator[str]:
    examples = summary.replay.examples[:_SHOWN]
    if not examples:
        return
    yield "completions that would have won instead, clearest first"
    for example in examples:
        yield from _example(example)
    yield ""


def _example(example: Example) -> Iterator[str]:
    yield f"  step {example.step}, {example.prompt_id}"
    yield from _quoted("true title", example.title)
    for label, one in (("won", example.old_winner), ("would win", example.new_winner)):
        yield from _quoted(label, one.text)
        yield f"    {'':<11} advantage {one.old_advantage:+.2f}, would be {one.new_advantage:+.2f}; {_scores(one)}"


def _quoted(label: str, text: str) -> list[str]:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH - 16, max_lines=3, placeholder=" ...") or ["(nothing)"]
    return [f"    {label:<11} {lines[0]}", *(f"    {'':<11} {line}" for line in lines[1:])]


def _scores(one: Contender) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in one.rewards.items())


def _checks(summary: Summary) -> Iterator[str]:
    """Whether the replay can be trusted, and everything that was left out."""
    replay = summary.replay
    names = ", ".join(replay.check.rewards)
    if not names:
        yield "own rewards recomputed equal: not checked, the mixes have no reward in common"
    elif replay.check.unequal:
        yield from _wrapped(
            f"own rewards recomputed equal: no: {', '.join(_difference(summary, name) for name in replay.check.unequal)}. Something "
            "differs from the machine of the run: the catalogue, an encoder or its precision, the code of a reward; "
            "read the numbers above with that in mind",
            indent=2,
        )
    else:
        yield from _wrapped(f"own rewards recomputed equal: yes ({names})", indent=2)
    equal = "yes" if replay.check.advantages_equal else "no"
    yield f"own advantages recomputed equal: {equal} (largest difference {replay.check.advantages.difference:.1e})"
    if replay.gone:
        yield from _wrapped(
            f"left out: {sum(replay.gone.values()):,} completions of {len(replay.gone):,} item{'s' * (len(replay.gone) > 1)} that the catalogue no "
            "longer has with title and image",
            indent=2,
        )
    if replay.catalogue_changed:
        yield "the catalogue has changed since the run: its fingerprint is not the recorded one"
    for name, count in replay.unscored.items():
        if count:
            yield f"unscored by {name}: {count:,} completions"


def _difference(summary: Summary, name: str) -> str:
    found = summary.replay.check.rewards[name]
    one_sided = f", {found.one_sided:,} scored only once" if found.one_sided else ""
    return f"{name} (up to {found.difference:.1e}{one_sided})"


def _wrapped(text: str, *, indent: int) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"
