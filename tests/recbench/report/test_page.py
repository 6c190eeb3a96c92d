"""The benchmark's own page, and its section in a run's report."""

import copy
import json
import re

import pytest

from grpo_mmpc.recbench.report.page import write_page
from grpo_mmpc.reports.run.page import build_report
from tests.recbench.report.fake_results import changed, method, results, with_methods, with_second
from tests.reports.golden import check_golden, visible_text


def test_the_page_holds_every_name_escaped_and_nothing_from_elsewhere(tmp_path):
    found = with_methods({"completed:<i>x</i>": method(0.25, difference=0.05, verdict="no evidence")})
    page = write_page(found | {"catalogue": "<b>shop</b>"}, tmp_path / "report.html").read_text()
    assert "&lt;b&gt;shop&lt;/b&gt;" in page and "<b>shop</b>" not in page
    assert "completed by &lt;i&gt;x&lt;/i&gt;" in page and "<i>x</i>" not in page
    assert not re.search(r'(src|href)="?http', page) and "<script" not in page


def golden_case():
    """Two rates, two completions, a method that is left out."""
    found = with_second(difference=-0.02, verdict="worse")
    [group] = found["groups"]
    group["left_out"] = {"mean": "no result for A with seed 0"}
    found["groups"].append(copy.deepcopy(group) | {"rate": 0.5})
    return found


def test_golden_page(tmp_path):
    check_golden("recbench", visible_text(write_page(golden_case(), tmp_path / "report.html").read_text()))


def test_the_page_names_the_reference_and_what_intervals_are_over(tmp_path):
    page = write_page(results(), tmp_path / "report.html").read_text()
    assert "95% intervals over users and seeds; ▲ better and ▼ worse than “zeros”" in page
    assert re.findall(r"Difference to ([^<]+)<", page) == ["zeros"]


def test_the_page_opens_with_how_completions_compare(tmp_path):
    page = write_page(with_second(), tmp_path / "report.html").read_text()
    first = re.findall(r'<p class="sentence">([^<]+)<', page)[0]
    assert first.startswith("Completed by theirs against completed by mine, Recall@20: better (+0.020, ")


def test_numbers_in_a_key_are_those_at_the_ends_of_lines(tmp_path):
    found = results()
    found["groups"].append(results()["groups"][0] | {"rate": 0.5})
    page = write_page(found, tmp_path / "report.html").read_text()
    [key] = re.findall(r'<ol class="rates-key">(.*?)</ol>', page)
    assert re.findall(r"<bdi>([^<]+)</bdi>", key) == [
        "true titles (ceiling)",
        "completed by mine",
        "zeros",
        "no features at all",
    ]
    [picture] = re.findall(r'<svg class="rates narrow".*?</svg>', page)
    assert re.findall(r'class="name \w+"[^>]*>([^<]+)<', picture) == ["1", "2", "3", "4"]


def test_where_there_is_nothing_to_compare_the_page_says_so(tmp_path):
    nothing = changed(lambda group, lead: group.update(metrics={}))
    page = write_page(nothing, tmp_path / "report.html").read_text()
    assert "There is nothing to compare: recommenders finished" in page and "No recommender finished" not in page


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
        policies = {
            f"completed:{one}": method(0.3, difference=0.1, verdict="better", recovery=0.5) for one in measured[:count]
        }
        write_results_of(tmp_path, name, with_methods(policies) | {"cautions": [f"This is {name}."]})
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
