"""What a reader is told of the recommendation benchmark, in words, on the page and in a terminal."""

import copy
import itertools
import re

import pytest

from grpo_mmpc.report.rate_lines import Line, rate_lines
from grpo_mmpc.report.recommendation import Spot, told, view, write_page
from grpo_mmpc.statistics.verdicts import Interval


def method(value, *, difference=None, verdict="", recovery=None):
    return {
        "value": value,
        "ci95": [value - 0.01, value + 0.01],
        "by_seed": {"0": value},
        "by_category": {"A": {"value": value - 0.1, "ci95": None}, "B": {"value": value + 0.1, "ci95": None}},
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
    metric = {**shared, "left_out": {}, "methods": methods}
    group = {
        "recommender": "vbpr",
        "missing": "text",
        "rate": 1.0,
        "levels": {},
        "coverage": {"completed:mine": {"text": {"masked": 10, "covered": 8, "reasons": {"malformed completion": 2}}}},
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
        "completed by mine at 100%: 8 of 10 missing titles filled, the others stay zero (2 malformed completion).",
    ]


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
    assert "note: completed by mine at 100%: 8 of 10" in text
    assert ("\x1b[" in text) is colour
