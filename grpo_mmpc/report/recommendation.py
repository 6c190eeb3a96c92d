"""The recommendation benchmark for people: what follows from it in sentences, a page, a section of a run's report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from grpo_mmpc.files import write_whole
from grpo_mmpc.recbench.filled_features import COMPLETED
from grpo_mmpc.recbench.records import MODALITY_WORDS
from grpo_mmpc.report.figures import axis, scale_of, track
from grpo_mmpc.report.labels import NO_VALUE, date, duration, number, p_value, plural, signed
from grpo_mmpc.report.rate_lines import Line, rate_label, rate_lines
from grpo_mmpc.report.templates import style, template
from grpo_mmpc.statistics.verdicts import BETTER, WORSE, Interval

LEAD = "recall@20"
"""The metric of headlines and pictures."""
SECOND = "ndcg@20"

_LABELS = {
    "no_missing": "true {what} (ceiling)",
    "zeros": "zeros",
    "mean": "mean",
    "category_mean": "mean of the category",
    "random_paper": "random, N(0, 1)",
    "random_matched": "random, same mean and spread",
    "nearest_neighbour": "mean of nearest neighbours",
    "feature_propagation": "feature propagation",
    "drop_modality": "no {what} at all",
    "id_only": "no features at all",
    "bpr": "BPR, no features",
    "lightgcn": "LightGCN, no features",
    "most_popular": "most popular",
    "random": "random order",
}
_RECOMMENDERS = {
    "vbpr": "VBPR",
    "bm3": "BM3",
    "freedom": "FREEDOM",
    "mmgcn": "MMGCN",
    "": "Recommenders without features",
}
_MODALITIES = {**MODALITY_WORDS, "": "features"}
_TOO_FEW, _SAME = "too few users", "same"
_GLYPHS = {BETTER: "▲", WORSE: "▼", "no evidence": "·", "": "=", _SAME: "="}
_VERDICTS = {"": "reference", _TOO_FEW: "few users"}
"""In a column, where they must be short."""
_HEADLINES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A value with its interval, as read from a file."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineView:
    """One method in a table."""

    label: str
    is_reference: bool
    is_completion: bool
    level: str
    second: str
    change: str
    change_interval: str
    p: str
    verdict: str
    glyph: str
    tone: str
    recovery: str
    coverage: str
    levels: Markup
    forest: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One recommender at one rate of one missing modality."""

    title: str
    reference: str
    sentences: list[str]
    tone: str
    note: str
    levels_axis: Markup
    forest_axis: Markup
    lines: list[LineView]
    categories: list[tuple[str, list[str]]]
    """Lead metric by category, a cell for each line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureView:
    """Lead metric against missing rate."""

    title: str
    picture: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendationView:
    """Everything the templates show."""

    groups: list[GroupView]
    headlines: list[GroupView]
    """Of every recommender and modality the group in which most is missing, the first few."""
    pictures: list[PictureView]
    facts: list[tuple[str, str]]
    cautions: list[str]
    reference: str
    """Of all groups, or ``the reference`` where they have different ones."""
    over: str
    """What intervals are over: ``users and seeds``."""
    nothing: str
    """Why there are no groups."""


def view(results: Mapping[str, Any]) -> RecommendationView:
    """What is shown of ``results.json``."""
    compared = [group for group in results["groups"] if group["metrics"]]
    groups = [_group(group) for group in compared]
    widest = {
        (group["recommender"], group["missing"]): i for i, group in enumerate(compared) if _is_widest(group, compared)
    }
    references = {group.reference for group in groups}
    return RecommendationView(
        groups=groups,
        headlines=[groups[i] for i in widest.values()][:_HEADLINES],
        pictures=_pictures(results["groups"]),
        facts=_facts(results),
        cautions=_cautions(results),
        reference=references.pop() if len(references) == 1 else "the reference",
        over="users" if compared and all(_has_one_seed(group) for group in compared) else "users and seeds",
        nothing=_nothing(results),
    )


def _has_one_seed(group: Mapping[str, Any]) -> bool:
    return len(group["metrics"][LEAD]["seeds"]) == 1


def _nothing(results: Mapping[str, Any]) -> str:
    if results["cells"] > results.get("failures", 0):
        return (
            "There is nothing to compare: recommenders finished, but too many others failed for any two ways to fill to "
            "share a seed and a category."
        )
    return "No recommender finished: there is nothing to compare."


def _is_widest(group: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> bool:
    alike = [one for one in groups if (one["recommender"], one["missing"]) == (group["recommender"], group["missing"])]
    return bool(group["rate"] == max(one["rate"] for one in alike))


def write_page(results: Mapping[str, Any], path: Path) -> Path:
    """Write the benchmark's own page; returns its path."""
    page = template("report", "recommendation.html").render(
        style=style("report/style.css", "report/recommendation.css"),
        shown=view(results),
        results=results,
        finished=date(str(results.get("finished", ""))),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def told(results: Mapping[str, Any], *, colour: bool) -> list[str]:
    """Tables and sentences for a terminal."""
    shown = view(results)
    lines: list[str] = [] if shown.groups else ["", shown.nothing]
    for group in shown.groups:
        lines += ["", group.title, group.note, ""]
        width = max(len(line.label) for line in group.lines)
        lines.append(
            f"  {'':{width}}  {'Recall@20':>9}  {'NDCG@20':>8}  {'change':>7}  {'95% interval':>16}  {'p':>7}  "
            f"{'verdict':<11}  {'recovery':<22}  filled"
        )
        for line in group.lines:
            row = (
                f"  {line.label:{width}}  {line.level:>9}  {line.second:>8}  {line.change:>7}  {line.change_interval:>16}  "
                f"{line.p:>7}  {line.verdict:<11}  {line.recovery:<22}  {line.coverage}"
            ).rstrip()
            code = {BETTER: "32", WORSE: "31"}.get(line.verdict)
            lines.append(f"\x1b[{code}m{row}\x1b[0m" if colour and code else row)
        lines += ["", *(f"  {sentence}" for sentence in group.sentences)]
    return [*lines, "", *(f"note: {caution}" for caution in shown.cautions)] if shown.cautions else lines


def _group(group: Mapping[str, Any]) -> GroupView:
    lead = group["metrics"][LEAD]
    methods, second = lead["methods"], group["metrics"].get(SECOND, lead)["methods"]
    order = sorted(methods, key=lambda name: (-methods[name]["value"], name))
    levels = {name: _spot(methods[name]["value"], methods[name]["ci95"]) for name in order}
    changes = {name: _spot(methods[name]["difference"], methods[name]["difference_ci95"]) for name in order}
    reference = method_label(lead["reference"], what=_MODALITIES[group["missing"]])
    level_scale, change_scale = scale_of(list(levels.values())), scale_of(list(changes.values()), include=[0.0])
    what = _MODALITIES[group["missing"]]
    lines = []
    for name in order:
        found = methods[name]
        is_reference = name == lead["reference"]
        tone = found["verdict"] if found["verdict"] in (BETTER, WORSE) else "unclear"
        lines.append(
            LineView(
                label=method_label(name, what=what),
                is_reference=is_reference,
                is_completion=name.startswith(COMPLETED),
                level=number(found["value"]),
                second=number(second[name]["value"]) if name in second else NO_VALUE,
                change="reference" if is_reference else signed(found["difference"]),
                change_interval=_ends(found["difference_ci95"], sign=True),
                p=p_value(found["p_holm"]),
                verdict=_VERDICTS.get(found["verdict"], found["verdict"]),
                glyph=_GLYPHS.get(found["verdict"], NO_VALUE),
                tone=tone,
                recovery=_share(found),
                coverage=_coverage(group["coverage"].get(name, {})),
                levels=track(levels[name], scale=level_scale, tone="unclear", difference=False),
                forest=track(changes[name], scale=change_scale, tone=tone, difference=True),
            )
        )
    tones = {line.tone for line in lines if line.is_completion} & {BETTER, WORSE}
    return GroupView(
        title=_title(group),
        reference=reference,
        sentences=_sentences(group),
        tone=tones.pop() if len(tones) == 1 else "unclear",
        note=f"{plural(lead['users'], 'user')} of {_categories(lead['categories'])}, {plural(len(lead['seeds']), 'seed')}",
        levels_axis=axis(level_scale),
        forest_axis=axis(change_scale, signs=True),
        lines=lines,
        categories=[
            (category, [number(methods[name]["by_category"][category]["value"]) for name in order])
            for category in lead["categories"]
        ]
        if len(lead["categories"]) > 1
        else [],
    )


def _title(group: Mapping[str, Any]) -> str:
    name = str(_RECOMMENDERS.get(group["recommender"], group["recommender"]))
    if not group["missing"]:
        return name
    return f"{name}, {rate_label(group['rate'])} of {_MODALITIES[group['missing']]} missing"


def method_label(name: str, *, what: str) -> str:
    """``zeros``, ``completed by qwen``."""
    if name.startswith(COMPLETED):
        return f"completed by {name.removeprefix(COMPLETED)}"
    return _LABELS.get(name, name).format(what=what)


def _sentences(group: Mapping[str, Any]) -> list[str]:
    """What the group's numbers support: first of completions, then of the ceiling."""
    lead = group["metrics"][LEAD]
    what, methods = _MODALITIES[group["missing"]], lead["methods"]
    reference = method_label(lead["reference"], what=what)
    sentences = []
    for name, found in sorted(methods.items(), key=lambda one: -one[1]["value"]):
        if name.startswith(COMPLETED):
            words = _verdict_words(found, reference) + _gain_words(found, lead["reference"], what=what)
            sentences.append(f"{_capital(method_label(name, what=what))}: {words}.")
    ceiling = methods.get("no_missing")
    if ceiling is not None and lead["reference"] != "no_missing":
        words = f"The true {what}: {_verdict_words(ceiling, reference)}"
        if ceiling["verdict"] == _TOO_FEW:
            words += f"; whether {what} themselves help cannot be told, and recovery is not given"
        elif ceiling["verdict"] != BETTER:
            words += f"; where {what} themselves do not help, no completion of them can be shown to, and recovery is not given"
        sentences.append(f"{words}.")
    best = max(
        (name for name in methods if not name.startswith(COMPLETED) and name != "no_missing"),
        key=lambda n: methods[n]["value"],
        default=None,
    )
    if best is not None:
        sentences.append(
            f"The strongest way without a policy is “{method_label(best, what=what)}”, "
            f"Recall@20 {number(methods[best]['value'])}."
        )
    return sentences + _same(methods, what=what) + _left_out(group)


def _same(methods: Mapping[str, Mapping[str, Any]], *, what: str) -> list[str]:
    """Names of one fill: nothing was trained, or tested, twice."""
    names: dict[str, list[str]] = {}
    for name, found in methods.items():
        if found["same_as"] is not None:
            names.setdefault(found["same_as"], []).append(f"“{method_label(name, what=what)}”")
    return [
        f"{_listed(alike)} {'is' if len(alike) == 1 else 'are'} the same as “{method_label(original, what=what)}” here: "
        "recommenders are told exactly the same."
        for original, alike in names.items()
    ]


def _left_out(group: Mapping[str, Any]) -> list[str]:
    """Of methods, then of categories and seeds."""
    what = _MODALITIES[group["missing"]]
    reasons = {method_label(name, what=what): why for name, why in group["left_out"].items()} | group["dropped"]
    return [f"{_capital(name)} is left out: {why}." for name, why in reasons.items()]


def _verdict_words(found: Mapping[str, Any], reference: str) -> str:
    if found["difference"] is None:
        return "the reference"
    if found["verdict"] == _SAME:
        return f"Recall@20 {number(found['value'])}, the same as {reference}"
    if found["verdict"] == _TOO_FEW:
        return (
            f"Recall@20 {number(found['value'])}, {signed(found['difference'])} to {reference}, but too few users to say "
            "whether that is chance"
        )
    ends = found["difference_ci95"]
    within = (
        f"{signed(found['difference'])}, 95% interval {_ends(ends, sign=True)}" if ends else signed(found["difference"])
    )
    said = {BETTER: "better than", WORSE: "worse than"}.get(found["verdict"])
    head = f"{said} {reference}" if said else f"{found['verdict']} of a difference to {reference}"
    return f"Recall@20 {number(found['value'])}, {head} ({within}, corrected p {p_value(found['p_holm'])})"


def _gain_words(found: Mapping[str, Any], reference: str, *, what: str) -> str:
    """What completions win back. A share below zero is not called one."""
    if found["verdict"] == WORSE:
        return "; it loses to leaving the gaps as zeros" if reference == "zeros" else ""
    if found["recovery"] is None:
        return ""
    lost = f"of what {method_label(reference, what=what)} lose to the true {what}"
    if found["recovery"] <= 0:
        return f"; nothing shows that it recovers any {lost}"
    ends = found["recovery_ci95"]
    within = f" (95% interval {_percent(ends[0])} to {_percent(ends[1])})" if ends else ""
    return f"; it recovers {_percent(found['recovery'])}{within} {lost}"


def _pictures(groups: Sequence[Mapping[str, Any]]) -> list[PictureView]:
    """For every recommender and modality with several rates."""
    by_subject: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for group in groups:
        if group["metrics"]:
            by_subject.setdefault((group["recommender"], group["missing"]), []).append(group)
    pictures = []
    for (name, missing), found in by_subject.items():
        if len({group["rate"] for group in found}) < 2:
            continue
        points: dict[str, list[tuple[float, Spot]]] = {}
        for group in sorted(found, key=lambda one: one["rate"]):
            for method, one in group["metrics"][LEAD]["methods"].items():
                spot = _spot(one["value"], one["ci95"])
                if spot is not None:
                    points.setdefault(method, []).append((group["rate"], spot))
        what = _MODALITIES[missing]
        lines = [
            Line(
                label=method_label(method, what=what),
                kind="completion" if method.startswith(COMPLETED) else "ceiling" if method == "no_missing" else "fill",
                points=values,
            )
            for method, values in points.items()
        ]
        pictures.append(
            PictureView(
                title=f"{_RECOMMENDERS.get(name, name)}, Recall@20 by share of missing {what}",
                picture=rate_lines(lines, label=f"Recall@20 against the share of missing {what}"),
            )
        )
    return pictures


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    categories = results["categories"].values()
    counts = [
        ("Categories", str(len(categories))),
        ("Users", f"{sum(one['split']['users'] for one in categories):,}"),
        ("Items", f"{sum(one['split']['items'] for one in categories):,}"),
        ("Training interactions", f"{sum(one['split']['train'] for one in categories):,}"),
        ("Recommenders trained", f"{results['cells']:,}"),
    ]
    return [*counts, ("Time of the last run", duration(results["seconds"]))]


def _cautions(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers."""
    told_ = [f"{name} is left out: {why}" for name, why in results["excluded_categories"].items()]
    if results["mode"] == "paper":
        told_.insert(
            0,
            "Paper mode reproduces the official protocol with its flaws: masked items without a completion keep their true "
            "vectors, hyper-parameters are chosen on the test part, the mask differs from process to process, and in FREEDOM's "
            "graph the same few items without features are everybody's neighbours.",
        )
    compared = [group for group in results["groups"] if group["metrics"]]
    alone = [group for group in compared if _has_one_seed(group)]
    if alone:
        where = "" if len(alone) == len(compared) else f" in {_listed([_title(group) for group in alone])}"
        told_.append(
            f"There is one seed{where}: how a recommender happens to start moves its result, and no interval or p-value "
            "knows by how much. Repeat with more seeds before believing a difference."
        )
    if not compared:
        told_ += [f"{_title(group)}: {sentence}" for group in results["groups"] for sentence in _left_out(group)]
    devices = sorted({device for group in results["groups"] for device in group.get("devices", [])})
    if len(devices) > 1:
        told_.append(
            f"Recommenders ran on {_listed(devices)}: what the same one finds on each differs a little, as if by chance."
        )
    told_ += results.get("cautions", [])
    seen = set()
    for group in results["groups"]:
        what = _MODALITIES[group["missing"]]
        for method, why in group["failures"].items():
            told_.append(f"{_capital(method_label(method, what=what))}, {_title(group)}: {why}")
        for method, coverage in group["coverage"].items():
            for modality, one in coverage.items():
                if one["covered"] < one["masked"] and method != "zeros":
                    reasons = "; ".join(f"{count:,}: {reason}" for reason, count in one["reasons"].items())
                    text = (
                        f"{_capital(method_label(method, what=what))} at {rate_label(group['rate'])}: {one['covered']:,} of "
                        f"{one['masked']:,} missing {_MODALITIES[modality]} filled, the others not ({reasons})."
                    )
                    told_ += [] if text in seen else [text]
                    seen.add(text)
    return told_


def _spot(value: float | None, ends: Sequence[float] | None) -> Spot | None:
    return None if value is None else Spot(value=value, interval=Interval(*ends) if ends else None)


def _ends(ends: Sequence[float] | None, *, sign: bool) -> str:
    if not ends:
        return ""
    write = signed if sign else number
    return f"{write(ends[0])} to {write(ends[1])}"


def _share(found: Mapping[str, Any]) -> str:
    if found["recovery"] is None:
        return ""
    ends = found["recovery_ci95"]
    return _percent(found["recovery"]) + (f" ({_percent(ends[0])} to {_percent(ends[1])})" if ends else "")


def _percent(share: float) -> str:
    return f"{number(round(100 * share), digits=0)}%"


def _coverage(coverage: Mapping[str, Mapping[str, Any]]) -> str:
    masked = sum(one["masked"] for one in coverage.values())
    return f"{sum(one['covered'] for one in coverage.values()) / masked:.0%}" if masked else ""


def _categories(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else plural(len(names), "category")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
