"""What a reader is told of the recommendation benchmark, in words, on the page and in a terminal."""

import copy
import itertools
import json
import re

import pytest

from grpo_mmpc.report import build_report
from grpo_mmpc.report.labels import MINUS, NO_VALUE
from grpo_mmpc.report.rate_lines import Line, rate_lines
from grpo_mmpc.report.recommendation import Spot, told, view, write_page
from grpo_mmpc.statistics.verdicts import Interval


def method(value, *, difference=None, verdict="", recovery=None):
    return {
        "value": value,
        "ci95": [value - 0.01, value + 0.01],
        "by_seed": {"0": value},
        "by_category": {"A": {"value": value - 0.1, "ci95": None}, "B": {"value": value + 0.1, "ci95": None}},
        "same_as": None,
        "difference": difference,
        "difference_ci95": None if difference is None else [difference - 0.01, difference + 0.01],
        "p_holm": None if difference is None else 0.004,
        "verdict": verdict,
        "recovery": recovery,
        "recovery_ci95": None if recovery is None else [recovery - 0.2, recovery + 0.2],
    }


def results(**changes):
    methods = {
        "zeros": method(0.2),
        "no_missing": method(0.4, difference=0.2, verdict="better"),
        "completed:mine": method(0.3, difference=0.1, verdict="better", recovery=0.5),
        "id_only": method(0.1, difference=-0.1, verdict="worse"),
    }
    shared = {"reference": "zeros", "ceiling": "no_missing", "seeds": [0, 1], "categories": ["A", "B"], "users": 50}
    metric = {**shared, "methods": methods}
    group = {
        "recommender": "vbpr",
        "missing": "text",
        "rate": 1.0,
        "levels": {},
        "coverage": {"completed:mine": {"text": {"masked": 10, "covered": 8, "reasons": {"malformed completion": 2}}}},
        "left_out": {},
        "dropped": {},
        "failures": {},
        "parameters": {},
        "metrics": {"recall@20": metric, "ndcg@20": metric},
    }
    split = {"users": 25, "items": 40, "train": 300}
    found = {
        "suite": "recbench",
        "mode": "corrected",
        "catalogue": "folder",
        "command": "grpo-mmpc recbench",
        "finished": "2026-01-02T03:04:05+00:00",
        "categories": {"A": {"split": split}, "B": {"split": split}},
        "excluded_categories": {},
        "cells": 12,
        "seconds": 61.0,
        "groups": [group],
    }
    return found | changes


def test_completions_come_first_with_verdict_interval_and_recovery():
    [group] = view(results()).groups
    assert group.title == "VBPR, 100% of titles missing"
    assert group.note == "50 users of 2 categories, 2 seeds"
    assert group.sentences[0] == (
        "Completed by mine: Recall@20 0.300, better than zeros (+0.100, 95% interval +0.090 to +0.110, corrected p 0.004); "
        "it recovers 50% (95% interval 30% to 70%) of what zeros lose to the true titles."
    )


def completion_at(*, difference, verdict, recovery, reference="zeros"):
    """What the first sentence says of a completion."""

    def change(group, lead):
        lead["reference"] = reference
        lead["methods"]["completed:mine"] = method(
            0.2 + difference, difference=difference, verdict=verdict, recovery=recovery
        )

    return view(changed(change)).groups[0]


@pytest.mark.parametrize("recovery", [-0.25, None])
def test_completions_worse_than_zeros_lose_to_leaving_the_gaps_and_recover_nothing(recovery):
    group = completion_at(difference=-0.05, verdict="worse", recovery=recovery)
    assert group.sentences[0] == (
        f"Completed by mine: Recall@20 0.150, worse than zeros ({MINUS}0.050, 95% interval {MINUS}0.060 to "
        f"{MINUS}0.040, corrected p 0.004); it loses to leaving the gaps as zeros."
    )


def test_a_share_below_zero_is_never_said_to_be_recovered():
    group = completion_at(difference=-0.01, verdict="no evidence", recovery=-0.05)
    assert group.sentences[0].endswith("; nothing shows that it recovers any of what zeros lose to the true titles.")
    # The column holds the number itself, with its interval.
    line = next(line for line in group.lines if line.is_completion)
    assert line.recovery == f"{MINUS}5% ({MINUS}25% to 15%)"


def test_only_zeros_are_called_gaps_that_are_left_as_zeros():
    group = completion_at(difference=-0.05, verdict="worse", recovery=-0.25, reference="id_only")
    assert "worse than no features at all (" in group.sentences[0] and group.sentences[0].endswith("p 0.004).")


def test_cells_of_several_kinds_of_devices_are_a_caution():
    assert not any("ran on" in caution for caution in view(changed(lambda group, lead: None)).cautions)
    one = changed(lambda group, lead: group.update(devices=["cpu"]))
    assert not any("ran on" in caution for caution in view(one).cautions)
    several = changed(lambda group, lead: group.update(devices=["cpu", "cuda"]))
    assert any(caution.startswith("Recommenders ran on cpu and cuda: ") for caution in view(several).cautions)


def test_where_true_titles_do_not_help_the_reader_is_told_that_nothing_can_follow():
    found = copy.deepcopy(results())
    methods = found["groups"][0]["metrics"]["recall@20"]["methods"]
    methods["no_missing"] |= {"verdict": "no evidence"}
    methods["completed:mine"] |= {"recovery": None}
    text = " ".join(view(found).groups[0].sentences)
    assert "no evidence of a difference to zeros" in text
    assert "where titles themselves do not help, no completion of them can be shown to" in text


def test_methods_are_ordered_by_level_and_the_reference_is_marked():
    [group] = view(results()).groups
    assert [line.label for line in group.lines] == [
        "true titles (ceiling)",
        "completed by mine",
        "zeros",
        "no features at all",
    ]
    assert [line.is_reference for line in group.lines] == [False, False, True, False]


def test_what_was_not_filled_and_what_was_left_out_are_cautions():
    cautions = view(results(excluded_categories={"Tiny": "too small"})).cautions
    assert cautions == [
        "Tiny is left out: too small",
        "Completed by mine at 100%: 8 of 10 missing titles filled, the others not (2: malformed completion).",
    ]


def test_the_time_is_that_of_the_last_run_which_may_have_found_cells_of_earlier_ones():
    assert view(results()).facts[-1] == ("Time of the last run", "1 min 1 s")


def test_paper_mode_is_announced_before_anything_else():
    assert (
        view(results(mode="paper")).cautions[0].startswith("Paper mode reproduces the official protocol with its flaws")
    )


def test_the_page_holds_every_name_escaped_and_nothing_from_elsewhere(tmp_path):
    found = results(catalogue="<b>shop</b>")
    group = found["groups"][0]
    for metric in ("recall@20", "ndcg@20"):
        methods = group["metrics"][metric]["methods"]
        methods.setdefault("completed:<i>x</i>", method(0.25, difference=0.05, verdict="no evidence"))
    page = write_page(found, tmp_path / "report.html").read_text()
    assert "&lt;b&gt;shop&lt;/b&gt;" in page and "<b>shop</b>" not in page
    assert "completed by &lt;i&gt;x&lt;/i&gt;" in page and "<i>x</i>" not in page
    assert not re.search(r'(src|href)="?http', page) and "<script" not in page


@pytest.mark.parametrize(
    ("measured", "shown"),
    [
        (["base"], "base"),
        (["base", "checkpoint-20", "checkpoint-100"], "checkpoint-100"),
        (["base", "final"], "final"),
        (["base", "final", "checkpoint-20"], "checkpoint-20"),
    ],
)
def test_a_run_report_shows_the_benchmark_of_most_policies_even_without_a_comparison(tmp_path, measured, shown):
    """Each is measured beside those before it."""
    for count, name in enumerate(measured, start=1):
        found = results(cautions=[f"This is {name}."])
        coverage = {"text": {"masked": 10, "covered": 10, "reasons": {}}}
        found["groups"][0]["coverage"] = {f"completed:{one}": coverage for one in measured[:count]} | {
            "zeros": coverage
        }
        write_results_of(tmp_path, name, found)
    page = build_report(tmp_path).read_text()
    assert re.findall(r"This is ([\w-]+)\.", page) == [shown]


def test_of_checkpoints_measured_with_other_settings_the_last_is_shown(tmp_path):
    for name in ("base", "checkpoint-20", "final"):
        write_results_of(tmp_path, name, results(cautions=[f"This is {name}."]))
    (tmp_path / "evaluations" / "checkpoint-20" / "recbench" / "results.json").write_text("{")
    page = build_report(tmp_path).read_text()
    assert "This is final." in page and "A recommendation benchmark is left out" in page


def write_results_of(run, name, found):
    folder = run / "evaluations" / name / "recbench"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(found))


def test_several_rates_make_a_picture_with_a_line_for_every_method():
    found = results()
    other = copy.deepcopy(found["groups"][0]) | {"rate": 0.5}
    found["groups"].append(other)
    [picture] = view(found).pictures
    assert picture.title == "VBPR, Recall@20 by share of missing titles"
    assert str(picture.picture).count('class="method ') == 4
    assert not view(results()).pictures


def test_headlines_are_of_the_rate_at_which_most_is_missing_and_of_a_few_recommenders_only():
    found = results()
    [group] = found["groups"]
    names = ["vbpr", "bm3", "freedom", "mmgcn", "other"]
    found["groups"] = [
        copy.deepcopy(group) | {"recommender": name, "rate": rate} for name in names for rate in (1.0, 0.5)
    ]
    shown = view(found)
    assert len(shown.groups) == 10
    assert [group.title for group in shown.headlines] == [
        f"{name}, 100% of titles missing" for name in ("VBPR", "BM3", "FREEDOM", "MMGCN")
    ]


def test_names_at_the_ends_of_lines_do_not_lie_over_each_other():
    lines = [
        Line(
            label=f"m{i}",
            kind="fill",
            points=[(0.2, Spot(value=0.1, interval=None)), (1.0, Spot(value=0.1 + i / 1e4, interval=None))],
        )
        for i in range(8)
    ]
    svg = str(rate_lines(lines, label="x"))
    heights = sorted(float(y) for y in re.findall(r'class="name fill" x="[\d.]+" y="([\d.]+)"', svg))
    assert len(heights) == 8
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 16.9
    assert heights[-1] <= 380


def test_the_picture_is_as_wide_as_the_longest_name_needs():
    def width(label):
        point = Spot(value=0.2, interval=None)
        svg = str(rate_lines([Line(label=label, kind="fill", points=[(0.5, point), (1.0, point)])], label="x"))
        start = float(re.findall(r'class="name fill" x="([\d.]+)"', svg)[0])
        return float(re.findall(r'viewBox="0 0 (\d+)', svg)[0]) - start

    assert width("zeros") == pytest.approx(width("mean"))
    assert width("completed by " + "x" * 60) > 73 * 7


def test_intervals_of_completions_are_drawn_inside_the_picture():
    point = Spot(value=0.2, interval=Interval(0.0, 0.9))
    svg = str(rate_lines([Line(label="m", kind="completion", points=[(0.5, point), (1.0, point)])], label="x"))
    ends = [float(y) for pair in re.findall(r'class="reach"[^>]*y1="([\d.]+)" y2="([\d.]+)"', svg) for y in pair]
    assert len(ends) == 4
    assert all(10 <= y <= 340 for y in ends)


@pytest.mark.parametrize("colour", [True, False])
def test_the_terminal_shows_table_sentences_and_cautions(colour):
    text = "\n".join(told(results(), colour=colour))
    assert "completed by mine" in text and "50% (30% to 70%)" in text and "80%" in text
    assert "note: Completed by mine at 100%: 8 of 10" in text
    assert ("\x1b[" in text) is colour


def changed(change):
    """Results after a change of the only group and of its lead metric."""
    found = copy.deepcopy(results())
    [group] = found["groups"]
    change(group, group["metrics"]["recall@20"])
    return found


def test_with_too_few_users_nothing_is_said_of_whether_titles_help():
    def change(group, lead):
        for name in ("no_missing", "completed:mine", "id_only"):
            lead["methods"][name] |= {"verdict": "too few users", "difference_ci95": None, "p_holm": None}
            lead["methods"][name] |= {"recovery": None, "recovery_ci95": None}

    [group] = view(changed(change)).groups
    assert group.sentences[:2] == [
        "Completed by mine: Recall@20 0.300, +0.100 to zeros, but too few users to say whether that is chance.",
        "The true titles: Recall@20 0.400, +0.200 to zeros, but too few users to say whether that is chance; whether titles "
        "themselves help cannot be told, and recovery is not given.",
    ]
    line = next(line for line in group.lines if line.is_completion)
    # The column of verdicts in a terminal is eleven wide.
    assert (line.verdict, line.glyph) == ("few users", NO_VALUE)


def test_a_group_of_completions_and_ceiling_alone_has_no_strongest_way_without_a_policy():
    def change(group, lead):
        for name in ("zeros", "id_only"):
            del lead["methods"][name]
        lead["reference"] = "no_missing"
        lead["methods"]["no_missing"] |= {"difference": None, "difference_ci95": None, "verdict": ""}

    [group] = view(changed(change)).groups
    assert len(group.sentences) == 1 and group.sentences[0].startswith("Completed by mine: ")


def test_every_group_names_its_own_reference(tmp_path):
    found = changed(lambda group, lead: None)
    other = copy.deepcopy(found["groups"][0]) | {"recommender": "bm3"}
    for metric in other["metrics"].values():
        metric["reference"] = "id_only"
    found["groups"].append(other)
    shown = view(found)
    assert [group.reference for group in shown.groups] == ["zeros", "no features at all"]
    assert shown.reference == "the reference"
    page = write_page(found, tmp_path / "report.html").read_text()
    assert re.findall(r"Difference to ([^<]+)<", page) == ["zeros", "no features at all"]


def test_the_reference_under_another_name_is_said_to_be_the_same():
    def change(group, lead):
        same = method(0.2, difference=0.0, verdict="same") | {
            "same_as": "zeros",
            "difference_ci95": None,
            "p_holm": None,
        }
        lead["methods"] |= {"mean": same, "completed:empty": copy.deepcopy(same)}

    [group] = view(changed(change)).groups
    assert "Completed by empty: Recall@20 0.200, the same as zeros." in group.sentences
    assert (
        "“mean” and “completed by empty” are the same as “zeros” here: recommenders are told exactly the same."
        in group.sentences
    )
    assert next(line for line in group.lines if line.label == "mean").glyph == "="


def test_one_seed_is_a_caution_and_intervals_are_not_said_to_be_over_seeds(tmp_path):
    def change(group, lead):
        for metric in group["metrics"].values():
            metric["seeds"] = [0]

    found = changed(change)
    shown = view(found)
    assert shown.cautions[0].startswith("There is one seed: how a recommender happens to start moves its result")
    assert "95% intervals over users;" in write_page(found, tmp_path / "report.html").read_text()
    assert not any("one seed" in caution for caution in view(results()).cautions)
    assert view(results()).over == "users and seeds"


def test_methods_categories_and_seeds_that_are_left_out_are_named():
    def change(group, lead):
        group["left_out"] = {"mean": "no result for A with seed 0"}
        group["dropped"] = {"Tiny": "5 test users, an interval needs 6"}

    [group] = view(changed(change)).groups
    assert group.sentences[-2:] == [
        "Mean is left out: no result for A with seed 0.",
        "Tiny is left out: 5 test users, an interval needs 6.",
    ]


def test_that_no_recommender_finished_is_said_only_where_none_did(tmp_path):
    def change(group, lead):
        group["metrics"] = {}
        group["left_out"] = {"zeros": "no result for A with seed 0"}

    some = changed(change) | {"failures": 5}
    page = write_page(some, tmp_path / "report.html").read_text()
    assert "No recommender finished" not in page and "There is nothing to compare: recommenders finished" in page
    assert "VBPR, 100% of titles missing: Zeros is left out: no result for A with seed 0." in view(some).cautions
    assert "There is nothing to compare" in "\n".join(told(some, colour=False))
    assert view(some | {"failures": 12}).nothing == "No recommender finished: there is nothing to compare."


def test_recommenders_without_features_are_a_group_without_a_rate():
    def change(group, lead):
        group |= {"recommender": "", "missing": "", "rate": 0.0, "coverage": {}}

    assert view(changed(change)).groups[0].title == "Recommenders without features"


def test_rates_that_differ_have_names_that_differ():
    titles = [view(changed(lambda group, lead, r=r: group.update(rate=r))).groups[0].title for r in (0.07, 0.12, 0.125)]
    assert titles == [f"VBPR, {rate} of titles missing" for rate in ("7%", "12%", "12.5%")]


def test_rates_close_together_do_not_lie_over_each_other_on_the_axis():
    points = [(rate, Spot(value=0.2, interval=None)) for rate in (0.12, 0.125, 0.5, 1.0)]
    svg = str(rate_lines([Line(label="m", kind="fill", points=points)], label="x"))
    assert re.findall(r">([\d.]+%)<", svg) == ["12%", "50%", "100%"]
    assert svg.count("<circle") == 4
