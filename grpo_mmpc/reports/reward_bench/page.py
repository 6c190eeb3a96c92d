"""The preview as one HTML page without outside resources: heat maps of rewards by kinds of wrong answers."""

from collections.abc import Callable, Iterable, Mapping
from importlib import resources

from markupsafe import Markup

from grpo_mmpc.analysis.reward_bench.candidates import GOLD, KINDS
from grpo_mmpc.analysis.reward_bench.results import Preview, RewardResult, Separation, rounded_down

_HEADS = {kind: kind.replace("_", " ") for kind in KINDS if kind != GOLD}
_SHOWN_TEXT = 160
_PAGE = Markup(
    "<!doctype html>\n"
    '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    "<title>{title}</title><style>\n{style}</style></head>\n<body>\n{body}\n</body></html>\n"
)


def page(preview: Preview) -> str:
    """The page as text; the same preview gives the same text."""
    style = resources.files("grpo_mmpc.reports.reward_bench").joinpath("page.css").read_text(encoding="utf-8")
    parts = [
        _element("h1", "What fools which reward"),
        Markup("<p>{} items of {}. <code>{}</code></p>").format(preview.items, preview.catalogue, preview.command),
        _element("p", _HOW_TO_READ, kind="lede"),
    ]
    for task, examples in preview.examples.items():
        scored = [reward for reward in preview.rewards if task in reward.tasks]
        if scored and examples:
            parts += _task(task, scored, examples)
    parts += [_element("h2", "Cost and care"), _costs(preview), *_problems(preview)]
    return str(_PAGE.format(title="Reward preview", style=Markup(style), body=Markup("\n").join(parts)))


_HOW_TO_READ = (
    "Each number says how often the true answer scores above a wrong one: 1 is always, 0.5 is no better than a coin, below "
    "that the wrong answer is preferred. Ties count half. Blue tells them apart, white cannot, orange prefers the wrong one."
)


def _task(task: str, rewards: Iterable[RewardResult], examples: Mapping[str, str]) -> list[Markup]:
    known = list(rewards)
    return [
        _element("h2", task.replace("_", " ").capitalize()),
        _element("h3", "Any true answer against any wrong one (AUC)"),
        _heat_map(task, known, lambda found: found.auc),
        _element("h3", "What a wrong answer still earns: 0 as a title of another category, 1 as the true answer"),
        _heat_map(task, known, lambda found: found.earned, cell=_earned_cell),
        _element("h3", "Against the wrong answer to the same prompt (what a group of GRPO sees)"),
        _heat_map(task, known, lambda found: found.wins),
        _element("h3", "The answers"),
        _kinds(examples),
    ]


def _heat_map(
    task: str,
    rewards: Iterable[RewardResult],
    value: Callable[[Separation], float | None],
    cell: "Callable[[float | None], Markup] | None" = None,
) -> Markup:
    heads = Markup("").join(Markup('<th scope="col"><span>{}</span></th>').format(head) for head in _HEADS.values())
    rows = []
    for reward in rewards:
        values = [value(reward.tasks[task].kinds[kind]) for kind in _HEADS]
        if all(number is None for number in values):
            continue
        weight = "" if not reward.weight else Markup(' <span class="weight">{:g}</span>').format(reward.weight)
        cells = Markup("").join(map(cell or _cell, values))
        rows.append(
            Markup('<tr{}><th scope="row">{}{}</th>{}</tr>').format(
                Markup(' class="mix"') if reward.weight is None and reward.timing is None else "",
                reward.name,
                weight,
                cells,
            )
        )
    return Markup('<table class="heat"><thead><tr><th></th>{}</tr></thead><tbody>{}</tbody></table>').format(
        heads, Markup("\n").join(rows)
    )


def _cell(value: float | None) -> Markup:
    if value is None:
        return Markup("<td>\N{EN DASH}</td>")
    strength = abs(value - 0.5) * 2
    tone = "told" if value >= 0.5 else "fooled"
    return Markup('<td class="{}{}" style="--s:{:.0f}%">{}</td>').format(
        tone, " strong" if strength > 0.8 else "", 100 * strength, _short(value)
    )


def _earned_cell(value: float | None) -> Markup:
    """The more it earns, the more orange: there is the less to learn."""
    if value is None:
        return Markup("<td>\N{EN DASH}</td>")
    share = min(1.0, max(0.0, value))
    text = f"{abs(round(value, 2)):.2f}"
    text = ("\N{MINUS SIGN}" if round(value, 2) < 0 else "") + (text.removeprefix("0") if abs(value) < 0.995 else text)
    return Markup('<td class="fooled{}" style="--s:{:.0f}%">{}</td>').format(
        " strong" if share > 0.8 else "", 100 * share, text
    )


def _short(value: float) -> str:
    """Two digits, rounded down: 1 only for a true 1, so that a single exception shows."""
    return "1" if value == 1 else f"{rounded_down(value):.2f}".removeprefix("0")


def _kinds(examples: Mapping[str, str]) -> Markup:
    rows = Markup("\n").join(
        Markup("<dt>{}</dt><dd>{}<q>{}</q></dd>").format(kind.replace("_", " "), what, _cut(examples[kind]))
        for kind, what in KINDS.items()
        if kind in examples
    )
    return Markup("<dl>{}</dl>").format(rows)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT].rsplit(' ', 1)[0]} \N{HORIZONTAL ELLIPSIS}"


def _costs(preview: Preview) -> Markup:
    rows = []
    for reward in preview.rewards:
        if reward.timing is None:
            continue
        low = [found.lowest for found in reward.tasks.values() if found.lowest is not None]
        high = [found.highest for found in reward.tasks.values() if found.highest is not None]
        unscored = max((found.unscored_share for found in reward.tasks.values()), default=0.0)
        cells = (
            "" if reward.value_range is None else "{:g} to {:g}".format(*reward.value_range),
            f"{min(low):.2f} to {max(high):.2f}" if low else "",
            f"{reward.timing.cold:,.1f}",
            f"{reward.timing.warm:,.1f}",
            {True: "yes", False: "no", None: "unknown"}[reward.deterministic],
            f"{100 * unscored:.0f} %",
        )
        inner = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
        rows.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(reward.name, inner))
    heads = ("range", "seen", "64 new, ms", "64 known, ms", "repeats", "unscored")
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(text) for text in heads)
    return Markup(
        '<div class="scroll"><table class="costs"><thead><tr><th></th>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, Markup("\n").join(rows))


def _problems(preview: Preview) -> list[Markup]:
    return [
        Markup("<p><b>{}</b> {} {}</p>").format(
            reward.name, "is" if reward.tasks else "was not scored:", reward.problem
        )
        for reward in preview.rewards
        if reward.problem is not None
    ]


def _element(name: str, text: str, *, kind: str = "") -> Markup:
    opening = Markup('<{} class="{}">').format(name, kind) if kind else Markup("<{}>").format(name)
    return Markup("{}{}</{}>").format(opening, text, name)
