"""The printed result of ``grpo-mmpc rescore``, as wide as the terminal, at most 110 columns."""

import textwrap
from collections.abc import Iterator

from grpo_mmpc.analysis.replay.result import Example, Largest, Replay
from grpo_mmpc.config.rewards import RewardsSection
from grpo_mmpc.reports.common.findings import Finding, caution, terminal_lines
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.reports.common.tables import text_table
from grpo_mmpc.utils.console import columns, printable

_MOST_COLUMNS = 110
_NUM_SHOWN = 3
_LEGEND = (
    "rank correlation: Spearman's, of the advantages under both mixes (1 = same order, 0 = unrelated), over all "
    "completions and within groups (mean); winner differs: groups in which another completion would be the best; "
    "sign differs: completions that one mix makes likelier and the other less likely; both among groups with "
    "variance under both mixes; zero variance: groups whose completions all score alike, which teach nothing"
)


def lines(replay: Replay, *, colour: bool = False) -> Iterator[str]:
    """Yield the text, line by line, in printable characters and, with ``colour``, ANSI colours."""
    yield from map(printable, _numbers(replay))
    yield from terminal_lines(findings(replay), colour=colour)


def _numbers(replay: Replay) -> Iterator[str]:
    total, steps = replay.total, [step for stretch in replay.stretches for step in stretch]
    yield (
        f"{replay.run}: {plural(total.completions, 'saved completion')} in {plural(total.groups, 'group')}, "
        f"steps {steps[0]} to {steps[-1]}"
    )
    for label, section in (("old mix", replay.old), ("new mix", replay.new)):
        yield from _wrapped(f"{label}  {_mix(section)}", indent=9)
    yield ""
    yield from _table(replay)
    yield from _wrapped(_LEGEND, indent=2)
    yield ""
    yield from _shares(replay)
    yield from _examples(replay)


def findings(replay: Replay) -> list[Finding]:
    """Return what the replay supports, and how far to trust it."""
    return [*_verdict(replay), *_checks(replay)]


def _verdict(replay: Replay) -> Iterator[Finding]:
    total = replay.total
    share = (
        f"{_percent(total.new_dead)} of the groups would have zero variance "
        f"({_percent(total.old_dead)} did under the old mix)"
    )
    if replay.signal == "dead":
        text = f"The signal is dead: {share}; this mix would teach almost nothing on these rollouts."
        yield Finding(text=text, tone="worse")
    else:
        yield Finding(text=f"The signal is {replay.signal}: {share}.")
    rho = total.rank_correlation_in_group
    if rho is None or total.winner_changes is None:
        return
    if (replay.old.mix, replay.old.aggregation) == (replay.new.mix, replay.new.aggregation):
        yield Finding(text="This is the run's own mix: everything above should agree with itself.")
        return
    agrees = "agrees with" if rho >= 0.9 else "partly agrees with" if rho >= 0.5 else "hardly agrees with"
    if rho <= -0.2:
        agrees = "contradicts"
    yield Finding(
        text=f"Within groups the new mix {agrees} the old one (rank correlation {rho:.2f}); another completion would "
        f"have won in {_percent(total.winner_changes)} of the groups that have variance under both."
    )
    yield caution("The rollouts are those of the old policy: how the new mix would have changed them is not known.")


def _checks(replay: Replay) -> Iterator[Finding]:
    unequal = [_difference(name, largest) for name, largest in replay.own_rewards.items() if not largest.equal]
    if not replay.own_rewards:
        yield Finding(text="own rewards recomputed equal: not checked, the mixes share no reward", kind="no verdict")
    elif unequal:
        yield caution(
            f"own rewards recomputed equal: no: {', '.join(unequal)}. Something differs from the machine of the run: "
            "the catalogue, an encoder or its precision, the code of a reward; read the numbers above with that in mind"
        )
    else:
        yield Finding(text=f"own rewards recomputed equal: yes ({', '.join(replay.own_rewards)})")
    text = f"(largest difference {replay.own_advantages.difference:.1e})"
    if replay.own_advantages.equal:
        yield Finding(text=f"own advantages recomputed equal: yes {text}")
    else:
        yield caution(f"own advantages recomputed equal: no {text}")
    if replay.gone:
        yield caution(
            f"left out: {plural(replay.gone.total(), 'completion')} of {plural(len(replay.gone), 'item')} that the "
            "catalogue no longer has with title and image"
        )
    for task, count in replay.untrained.items():
        yield caution(f"left out: {plural(count, 'completion')} of {task}, which the new recipe does not train")
    if replay.catalogue_changed:
        yield caution("the catalogue has changed since the run: its fingerprint is not the recorded one")
    for name, count in replay.unscored.items():
        if count:
            yield caution(f"unscored by {name}: {plural(count, 'completion')}")


def _difference(name: str, largest: Largest) -> str:
    one_sided = f", {largest.one_sided:,} scored only once" if largest.one_sided else ""
    return f"{name} (up to {largest.difference:.1e}{one_sided})"


def _mix(section: RewardsSection) -> str:
    trained = ", ".join(f"{spec.key} {spec.weight:g}" for spec in section.mix if spec.weight > 0)
    monitors = ", ".join(spec.key for spec in section.mix if spec.weight == 0)
    return f"{trained}{f'; monitors {monitors}' if monitors else ''}; {section.aggregation}"


def _table(replay: Replay) -> list[str]:
    stretches = {
        f"{first}-{last}" if last > first else f"{first}": agreed
        for (first, last), agreed in replay.stretches.items()
        if len(replay.stretches) > 1
    }
    rows = [
        (
            steps,
            f"{one.groups:,}",
            _number(one.rank_correlation),
            _number(one.rank_correlation_in_group),
            _percent(one.winner_changes),
            _percent(one.sign_changes),
            _percent(one.old_dead),
            _percent(one.new_dead),
        )
        for steps, one in [*stretches.items(), ("all", replay.total)]
    ]
    head = ("steps", "groups", "rank correlation", "in group", "winner differs", "sign differs")
    return text_table((*head, "zero variance: old", "new"), rows, spare=("sign differs", "rank correlation"))


def _wrapped(text: str, *, indent: int) -> list[str]:
    return textwrap.wrap(text, _width(), subsequent_indent=" " * indent)


def _width() -> int:
    return min(columns(), _MOST_COLUMNS)


def _shares(replay: Replay) -> list[str]:
    old, new = replay.mean_shares().values()
    rows = [(name, _percent(old.get(name)), _percent(new.get(name))) for name in dict.fromkeys([*old, *new])]
    return [*text_table(("share of the advantages' variance", "old", "new"), rows), ""] if rows else []


def _examples(replay: Replay) -> Iterator[str]:
    examples = replay.examples[:_NUM_SHOWN]
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
        scores = ", ".join(f"{name} {_number(value)}" for name, value in one.rewards.items())
        change = f"advantage {one.old_advantage:+.2f}, would be {one.new_advantage:+.2f}"
        yield from _wrapped(f"{'':<15} {change}; {scores}", indent=16)


def _quoted(label: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(" ".join(text.split()), _width() - 16, max_lines=3, placeholder=" ...") or ["(nothing)"]
    return [f"    {label:<11} {wrapped[0]}", *(f"    {'':<11} {line}" for line in wrapped[1:])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"
