"""The figure of a metric against the missing rate."""

import itertools
import re

import pytest

from grpo_mmpc.recbench.report.rate_lines import Line, rate_figure


def line(label, *, end=0.2, kind="fill"):
    return Line(label=label, kind=kind, points=[(0.5, 0.2, None), (1.0, end, None)])


def names(svg):
    """Texts at the right ends with their heights."""
    return [
        (name, float(y))
        for y, name in re.findall(r'class="name \w+" x="[\d.]+" y="([\d.]+)" text-anchor="start">([^<]*)<', str(svg))
    ]


def test_a_screen_shows_names_at_the_ends_and_a_phone_their_numbers_in_a_key_from_the_top():
    drawn = rate_figure([line("low", end=0.1), line("high", end=0.3), line("middle")], title="x")
    assert [name for name, _ in names(drawn.wide)] == ["high", "middle", "low"]
    assert [name for name, _ in names(drawn.narrow)] == ["1", "2", "3"]
    assert [one.label for one in drawn.key] == ["high", "middle", "low"]
    for svg in (drawn.wide, drawn.narrow):
        heights = [y for _, y in names(svg)]
        assert heights == sorted(heights)
        assert str(svg).count('class="method ') == 3


@pytest.mark.parametrize("which", ["wide", "narrow"])
def test_names_at_the_ends_of_lines_do_not_lie_over_each_other(which):
    drawn = rate_figure([line(f"m{i}", end=0.1 + i / 1e4) for i in range(8)], title="x")
    heights = [y for _, y in names(getattr(drawn, which))]
    assert len(heights) == 8
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 16.9
    assert heights[-1] <= 380


def test_on_a_phone_long_names_leave_the_plot_as_it_is():
    """A phone has 360 pixels for it: drawn wider, its text would shrink."""
    for label in ("zeros", "completed by " + "x" * 60):
        assert re.findall(r'viewBox="0 0 (\d+)', rate_figure([line(label)], title="x").narrow)[0] == "348"


def test_on_a_screen_the_figure_is_as_wide_as_the_longest_name_needs():
    def room(label):
        svg = str(rate_figure([line(label)], title="x").wide)
        start = float(re.findall(r'class="name fill" x="([\d.]+)"', svg)[0])
        return float(re.findall(r'viewBox="0 0 (\d+)', svg)[0]) - start

    assert room("zeros") == pytest.approx(room("mean"))
    assert room("completed by " + "x" * 60) > 73 * 7


def test_names_are_escaped():
    assert names(rate_figure([line("<b>")], title="x").wide)[0][0] == "&lt;b&gt;"


def test_intervals_of_completions_are_drawn_inside_the_figure():
    points = [(rate, 0.2, (0.0, 0.9)) for rate in (0.5, 1.0)]
    drawn = rate_figure([Line(label="m", kind="completion", points=points)], title="x")
    ends = [
        float(y)
        for pair in re.findall(r'class="reach"[^>]*y1="([\d.]+)" x2="[\d.]+" y2="([\d.]+)"', str(drawn.wide))
        for y in pair
    ]
    assert len(ends) == 4
    assert all(10 <= y <= 340 for y in ends)


@pytest.mark.parametrize(("which", "shown"), [("wide", ["12%", "50%", "100%"]), ("narrow", ["12%", "50%", "100%"])])
def test_rates_close_together_do_not_lie_over_each_other_on_the_axis(which, shown):
    points = [(rate, 0.2, None) for rate in (0.12, 0.125, 0.5, 1.0)]
    svg = str(getattr(rate_figure([Line(label="m", kind="fill", points=points)], title="x"), which))
    assert re.findall(r">([\d.]+%)<", svg) == shown
    assert svg.count("<circle") == 4
