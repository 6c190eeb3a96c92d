"""What page and terminal show: order, marks, headlines, facts."""

import copy

import pytest

from grpo_mmpc.recbench.report.views import recommendation_view
from grpo_mmpc.reports.common.labels import MINUS
from tests.recbench.report.fake_results import changed, method, results, with_methods, with_second


def lines_of(found):
    [group] = recommendation_view(found).groups
    return {line.name: line for line in group.lines}


def test_a_group_says_what_is_missing_and_how_much_it_rests_on():
    [group] = recommendation_view(results()).groups
    assert group.panel.title == "VBPR, 100% of titles missing"
    assert group.panel.note == "50 users of 2 categories, 2 seeds"


def test_methods_are_ordered_by_level_and_the_reference_is_marked():
    lines = lines_of(results())
    assert list(lines) == ["true titles (ceiling)", "completed by mine", "zeros", "no features at all"]
    assert [line.difference.change == "reference" for line in lines.values()] == [False, False, True, False]


@pytest.mark.parametrize(
    ("verdict", "word", "glyph"),
    [
        ("better", "better", "▲"),
        ("worse", "worse", "▼"),
        ("no evidence", "no evidence", "·"),
        ("same", "same", "="),
        ("too few users", "few users", "?"),
        ("too few changed", "few changed", "?"),
    ],
)
def test_every_verdict_has_a_mark_and_a_word_that_fits_the_terminal(verdict, word, glyph):
    line = lines_of(with_methods({"mean": method(0.25, difference=0.05, verdict=verdict)}))["mean"]
    assert (line.verdict, line.difference.glyph) == (word, glyph)
    # The column of verdicts in a terminal is eleven wide.
    assert len(line.verdict) <= 11


def test_a_recovery_below_zero_stands_in_its_column_with_its_interval():
    found = method(0.19, difference=-0.01, verdict="no evidence", recovery=-0.05)
    assert lines_of(with_methods({"mean": found}))["mean"].recovery == f"{MINUS}5% ({MINUS}25% to 15%)"


def test_how_much_is_filled_is_said_of_what_fills_gaps_alone():
    assert {label: line.coverage for label, line in lines_of(results()).items()} == {
        "true titles (ceiling)": "",
        "completed by mine": "80%",
        "zeros": "0%",
        "no features at all": "",
    }


def test_headlines_are_of_the_rate_at_which_most_is_missing_and_of_a_few_recommenders_only():
    found = results()
    [group] = found["groups"]
    subjects = [("vbpr", "text"), ("bm3", "text"), ("freedom", "text"), ("mmgcn", "text"), ("vbpr", "image")]
    found["groups"] = [
        copy.deepcopy(group) | {"recommender": name, "missing": missing, "rate": rate}
        for name, missing in subjects
        for rate in (0.5, 1.0, 0.2)
    ]
    shown = recommendation_view(found)
    assert len(shown.groups) == 15
    assert [group.panel.title for group in shown.headlines] == [
        f"{name}, 100% of titles missing" for name in ("VBPR", "BM3", "FREEDOM", "MMGCN")
    ]


def test_every_group_names_its_own_reference():
    found = results()
    assert recommendation_view(found).reference == "“zeros”"
    other = copy.deepcopy(found["groups"][0]) | {"recommender": "bm3"}
    for metric in other["metrics"].values():
        metric["reference"] = "id_only"
    found["groups"].append(other)
    shown = recommendation_view(found)
    assert [group.reference for group in shown.groups] == ["zeros", "no features at all"]
    assert shown.reference == "the reference"


def test_intervals_are_over_seeds_only_where_there_are_several():
    assert recommendation_view(results()).over == "users and seeds"
    assert recommendation_view(changed(lambda group, lead: lead.update(seeds=[0]))).over == "users"


def test_several_rates_make_a_figure_with_a_line_for_every_method():
    found = results()
    assert not recommendation_view(found).figures
    found["groups"].append(copy.deepcopy(found["groups"][0]) | {"rate": 0.5})
    [figure] = recommendation_view(found).figures
    assert figure.title == "VBPR, Recall@20 by share of missing titles"
    assert [(line.label, line.kind) for line in figure.key] == [
        ("true titles (ceiling)", "ceiling"),
        ("completed by mine", "completion"),
        ("zeros", "fill"),
        ("no features at all", "fill"),
    ]
    assert [rate for rate, *_ in figure.key[0].points] == [0.5, 1.0]


def test_that_no_recommender_finished_is_said_only_where_none_did():
    found = changed(lambda group, lead: group.update(metrics={}))
    some, none = (recommendation_view(found | {"failures": failures}).nothing for failures in (5, 12))
    assert some.startswith("There is nothing to compare: recommenders finished, but too many others failed")
    assert none == "No recommender finished: there is nothing to compare."


@pytest.mark.parametrize(("verdict", "tone"), [("better", "better"), ("worse", "worse"), ("no evidence", "unclear")])
def test_a_headline_has_the_colour_of_its_first_sentence(verdict, tone):
    """Both completions are better than zeros; whether the second beats the first is open."""
    [group] = recommendation_view(with_second(verdict=verdict)).headlines
    assert group.findings[0].text.startswith("Completed by theirs against completed by mine, Recall@20: ")
    assert group.tone == tone


def test_users_of_a_file_of_an_earlier_version_are_added_up():
    found = results()
    del found["users"]
    assert ("Users", "50") in recommendation_view(found).facts


def test_facts_add_up_categories_and_the_time_is_of_the_last_run_which_may_have_found_earlier_cells():
    assert recommendation_view(results()).facts == [
        ("Categories", "2"),
        ("Users", "45"),
        ("Items", "80"),
        ("Training interactions", "600"),
        ("Recommenders trained", "12"),
        ("Time of the last run", "1 min 1 s"),
    ]
