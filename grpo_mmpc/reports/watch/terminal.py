"""Runs in a terminal: one of them with all there is to see, several with a line each."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from grpo_mmpc.reports.common.difference import interval_text
from grpo_mmpc.reports.common.labels import clamp, number, plural, signed, task_label, words
from grpo_mmpc.reports.watch.history import mean_of
from grpo_mmpc.reports.watch.live_run import View
from grpo_mmpc.reports.watch.newest import Group, Newest, Sample
from grpo_mmpc.reports.watch.progress import Progress, State
from grpo_mmpc.reports.watch.signals import Signal, signals_of, sparkline
from grpo_mmpc.rewards.troubles import LATEST
from grpo_mmpc.utils.console import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_STYLES = {State.RUNNING: "green", State.KILLED: "red", State.STOPPED: "yellow", State.FINISHED: "blue"}
_WIDE = 100
"""Columns from which there is room for what is good to know."""
_SAMPLES = 8
_PROMPT_CHARACTERS = 240


def frame(views: Sequence[View], *, width: int, ascii_only: bool = False) -> "RenderableType":
    """Return what to print: all of one run, or a line for each of several."""
    from rich.console import Group as Lines  # heavy: imported on use

    if len(views) == 1:
        return Lines(*_run(views[0], width=width, ascii_only=ascii_only))
    alarms = [_text(f"! {view.name}: {sentence}", "red") for view in views for sentence in view.alarms]
    return Lines(_board(views, width=width, ascii_only=ascii_only), *([_text("")] if alarms else []), *alarms)


def _run(view: View, *, width: int, ascii_only: bool) -> "Iterator[RenderableType]":
    progress = view.progress
    yield _headline(view)
    if progress.state != State.WAITING:
        yield _text(_bar(progress, width=width, ascii_only=ascii_only))
    for sentence in [*view.alarms, *view.notes]:
        yield _text(f"! {sentence}", "red")
    if view.rows:
        yield _text("")
        yield _signal_table(signals_of(view), width=width, ascii_only=ascii_only)
        yield _text(_cost(view), "dim")
    if view.groups:
        yield from _group(view.groups[0], width=width)
    if view.newest is not None:
        yield from _evaluation(view.newest, width=width)


def _headline(view: View) -> "Text":
    progress = view.progress
    text = _text(view.name, "bold")
    text.append(f"  {progress.state}", style=_STYLES.get(progress.state, ""))
    return text.append(printable(f"  {progress.doing}" if progress.doing else ""))


def _bar(progress: Progress, *, width: int, ascii_only: bool) -> str:
    of = "" if progress.total is None else f" of {progress.total:,}"
    said = "  ".join(filter(None, (f"step {progress.step:,}{of}", progress.left)))
    if progress.total is None:
        return said
    length = max(8, min(40, width - len(said) - 2))
    done = int(progress.share * length)
    full, empty = "#-" if ascii_only else "█░"
    return f"{full * done}{empty * (length - done)}  {said}"


def _signal_table(signals: Sequence[Signal], *, width: int, ascii_only: bool) -> "Table":
    table = _table("", ">weight", "first to last step", ">latest", ">spread", ">equal")
    for signal in signals:
        line = sparkline(
            signal.values, width=max(8, min(60, width - 54)), is_share=signal.is_share, ascii_only=ascii_only
        )
        weight = "" if signal.weight is None else f"{signal.weight:g}" if signal.weight else "monitor"
        spread = "" if signal.spread is None else f"±{number(signal.spread)}"
        flat = "" if signal.flat is None or signal.is_share else f"{signal.flat:.0%}"
        style = "bold" if signal.label == "reward" else "dim" if signal.weight == 0 else ""
        cells = (clamp(signal.label, limit=20)[0], weight, line, signal.level, spread, flat)
        table.add_row(*map(_text, cells), style=style)
    return table


def _cost(view: View) -> str:
    """Say what the columns are, and how much memory and time a step takes."""
    speed, peak, gpu = (
        mean_of(view.latest, key) for key in ("tokens_per_second", "memory/peak_gib", "memory/gpu_peak_gib")
    )
    parts = [
        f"latest: mean of {LATEST} logged steps",
        "spread within groups; equal: share of groups without any" if any("reward" in row for row in view.rows) else "",
        "" if speed is None else f"{number(speed, digits=0)} tokens/s",
        "" if gpu is None else f"GPU memory at most {number(gpu, digits=1)} GiB",
        "" if peak is None else f"memory at most {number(peak, digits=1)} GiB",
    ]
    return "; ".join(part for part in parts if part)


def _evaluation(newest: Newest, *, width: int) -> "Iterator[RenderableType]":
    yield _text("")
    for task, changes in newest.tasks.items():
        title = f"{task_label(task)}, {plural(newest.items[task], 'item')}"
        interval = "95% interval, for each metric alone" if width >= _WIDE else "95% interval"
        table = _table(title, ">base", f">{words(newest.checkpoint)}", ">change", interval)
        for one in changes:
            shown = (one.label, number(one.before), number(one.after), signed(one.change), interval_text(one.interval))
            table.add_row(*map(_text, shown))
        yield table


def _group(group: Group, *, width: int) -> "Iterator[RenderableType]":
    count = sum(sample.count for sample in group.samples)
    where = f"Step {group.step}, {words(group.task)}, {words(group.category)}, {group.item_id}"
    yield _text("")
    yield _text(f"{where}: {count} completions, the widest advantages of the step", "bold")
    if group.prompt:
        prompt = " ".join(group.prompt.split())
        if len(prompt) > _PROMPT_CHARACTERS:  # templates begin alike: the end tells prompts apart
            _, _, end = prompt[-_PROMPT_CHARACTERS:].partition(" ")
            prompt = f"… {end}"
        yield _text(f"prompt: {prompt}", "dim")
    rewards = [name for name in group.samples[0].rewards if any(one.rewards[name] is not None for one in group.samples)]
    room = accumulate(len(name) + 2 for name in rewards)
    shown = [name for name, taken in zip(rewards, room, strict=True) if taken <= width - _WIDE + 35]
    table = _table(">advantage", ">reward", *(f">{name}" for name in shown), ">", "completion")
    for sample in _ends(group.samples):
        style = "green" if (sample.advantage or 0.0) > 0 else ""
        numbers = [signed(sample.advantage, digits=2), number(sample.reward)]
        numbers += [number(sample.rewards[name]) for name in shown]
        text = f"{'malformed: ' if sample.is_malformed else ''}{sample.text}"
        times = f"{sample.count}x" if sample.count > 1 else ""
        table.add_row(*map(_text, (*numbers, times, clamp(text, limit=2 * width)[0])), style=style)
    yield table
    if len(group.samples) > _SAMPLES:
        yield _text(f"and {len(group.samples) - _SAMPLES} in between", "dim")


def _ends(samples: Sequence[Sample]) -> list[Sample]:
    """Return the best and the worst samples, where there are many."""
    half = _SAMPLES // 2
    return list(samples) if len(samples) <= _SAMPLES else [*samples[:half], *samples[-half:]]


def _board(views: Sequence[View], *, width: int, ascii_only: bool) -> "Table":
    lines = [
        _line(view, blocks=max(6, min(24, width - 96 if width >= _WIDE else width - 66)), ascii_only=ascii_only)
        for view in views
    ]
    table = _table(
        "run",
        "state",
        ">step",
        "reward, or loss",
        ">latest",
        ">equal",
        *(["left, or newest evaluation"] * (width >= _WIDE)),
    )
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    room = width - sum(widths[:3]) - max(widths[3], len("reward, or loss")) - len("  " * 4 + "latest  equal  ")
    for view, (*cells, doing) in zip(views, lines, strict=True):
        last = [clamp(doing, limit=max(room, 10))[0]] * (width >= _WIDE)
        name, state, *others = map(_text, (*cells, *last))
        state.stylize(_STYLES.get(view.progress.state, ""))
        table.add_row(name, state, *others)
    return table


def _line(view: View, *, blocks: int, ascii_only: bool) -> tuple[str, ...]:
    progress = view.progress
    key = "reward" if any("reward" in row for row in view.rows) else "loss"
    flat = mean_of(view.latest, "dead_group_share")
    return (
        clamp(view.name, limit=24)[0],
        f"{progress.state}{'!' * bool(view.alarms or view.notes)}",
        f"{progress.step:,}{'' if progress.total is None else f' of {progress.total:,}'}",
        sparkline([row.get(key) for row in view.rows], width=blocks, ascii_only=ascii_only),
        number(mean_of(view.latest, key)),
        "" if flat is None else f"{flat:.0%}",
        progress.left or view.evaluated or progress.doing,
    )


def _table(*columns: str) -> "Table":
    """Return an empty table; a column of numbers has a ``>`` before its name."""
    from rich.table import Table  # heavy: imported on use

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(_text(name.removeprefix(">")), justify=justify, no_wrap=name != "completion")
    return table


def _text(text: str, style: str = "") -> "Text":
    """Return a text as it is: no markup, and no control characters of a stranger's file."""
    from rich.text import Text  # heavy: imported on use

    return Text(printable(text), style=style)
