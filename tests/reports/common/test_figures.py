"""Scales, tracks and curves: where things are put."""

import re

import pytest

from grpo_mmpc.reports.common.curves import curve
from grpo_mmpc.reports.common.figures import Frame, scale_for, track


@pytest.mark.parametrize(
    ("values", "ticks", "digits"),
    [
        # 4% beyond both ends: -.04 to 1.04. Steps of .2 give 6 ticks, .5 gives 3.
        ([0.0, 1.0], (0.0, 0.5, 1.0), 1),
        # .0716 to .1284: steps of .02 give .08, .1, .12.
        ([0.074, 0.126], (0.08, 0.1, 0.12), 2),
        # -15 to 145: steps of 50 give 0, 50, 100.
        ([-9.0, 139.0], (0.0, 50.0, 100.0), 0),
        # A single value gets room of a tenth of it at each side.
        ([10.0], (9.0, 10.0, 11.0), 0),
        ([], (0.0, 0.5, 1.0), 1),
        ([None, float("nan")], (0.0, 0.5, 1.0), 1),
    ],
)
def test_ticks_are_round_and_at_most_four(values: list[float], ticks: tuple[float, ...], digits: int) -> None:
    scale = scale_for(values)
    assert scale.ticks == ticks
    assert scale.digits == digits


@pytest.mark.parametrize("power", range(-6, 7))
@pytest.mark.parametrize("span", [1.0, 1.3, 1.9, 2.4, 4.9, 7.0, 9.99])
def test_there_are_two_to_four_ticks_at_any_size(power: int, span: float) -> None:
    scale = scale_for([3.3 * 10**power, (3.3 + span) * 10**power])
    assert 2 <= len(scale.ticks) <= 4
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([0.0, 9e-6], ["0", "5e-6"]),
        ([2.5e-5, 2.9e-5], ["2.6e-5", "2.8e-5"]),  # steps of 2e-6 between 2.484e-5 and 2.916e-5
        ([0.0, 3e-4], ["0.0000", "0.0001", "0.0002", "0.0003"]),
        ([0.0, 1.0], ["0.0", "0.5", "1.0"]),
    ],
)
def test_small_values_beside_an_axis_are_written_as_short_as_others(values: list[float], written: list[str]) -> None:
    plot = {"width": 300, "height": 200, "left": 50, "right": 10, "top": 10, "bottom": 30}
    frame = Frame(**plot, horizontal=scale_for([0.0, 1.0]), vertical=scale_for(values))
    assert re.findall(r">([^<>]+)</text>", frame.value_axis()) == written


def test_dots_stand_where_the_values_are() -> None:
    # The scale reaches from -.04 to 1.04: .25 is (.25 + .04) / 1.08 = 26.85% along, .75 is 73.15%.
    svg = track(0.75, before=0.25, scale=scale_for([0.0, 1.0]), tone="better")
    assert re.findall(r'cx="([\d.]+)%"', svg) == ["26.85", "73.15"]
    assert 'aria-label="before 0.250, after 0.750"' in svg


def test_the_bar_spans_the_interval_and_the_thin_line_the_corrected_one() -> None:
    svg = track(0.5, interval=(0.4, 0.6), wider=(0.3, 0.7), scale=scale_for([0.0, 1.0]), tone="better", signs=True)
    lines = re.findall(r'<line class="(\w+) better" x1="([\d.]+)%" y1="50%" x2="([\d.]+)%"', svg)
    # (.3 + .04) / 1.08 = 31.48%, .7 is 68.52%; .4 is 40.74%, .6 is 59.26%.
    assert lines == [("whisker", "31.48", "68.52"), ("bar", "40.74", "59.26")]
    assert 'aria-label="+0.500, interval +0.400 to +0.600"' in svg


def test_a_level_is_written_without_a_sign_beside_what_it_is_compared_with() -> None:
    svg = track(0.5, interval=(0.4, 0.6), base=0.25, scale=scale_for([0.0, 1.0]))
    assert re.findall(r'<line class="base" x1="([\d.]+)%"', svg) == ["26.85"]
    assert 'aria-label="0.500, interval 0.400 to 0.600"' in svg
    assert "zero" not in svg


def test_a_difference_without_an_interval_has_a_hollow_dot() -> None:
    svg = track(0.5, scale=scale_for([0.0, 1.0]), signs=True)
    assert "hollow" in svg
    assert "bar" not in svg


def test_what_was_not_scored_draws_nothing_and_says_so() -> None:
    svg = track(None, scale=scale_for([]))
    assert "circle" not in svg
    assert 'aria-label="not scored"' in svg


def test_a_curve_without_values_is_nothing() -> None:
    assert curve([], title="x", smooth=True) == ""
    assert curve([(1, None), (2, None)], title="x", smooth=True) == ""


def test_gaps_break_the_thin_line_but_not_the_trend() -> None:
    points = [(step, None if step == 5 else step / 10) for step in range(1, 11)]
    svg = curve(points, title="x", smooth=True)
    assert svg.count('class="raw"') == 2
    assert svg.count('class="trend"') == 1


def test_the_last_value_is_a_mean_not_an_outlier() -> None:
    # 40 steps: mean over round(40 / 20) = 2 to each side; at the end over 0.5, 0.5, 0.2 = 0.4.
    points = [(step, 0.5) for step in range(1, 40)] + [(40, 0.2)]
    assert ">0.400</text>" in curve(points, title="x", smooth=True)


def test_a_change_in_the_third_digit_does_not_look_like_a_leap() -> None:
    # The axis covers at least a twentieth of the value, so .900 to .901 takes up at most 1/45 of
    # its height of 144.
    svg = curve([(0, 0.900), (10, 0.901)], title="x", smooth=False)
    heights = [float(y) for y in re.findall(r'<circle class="dot" cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert abs(heights[0] - heights[1]) < 4


def test_long_curves_are_thinned() -> None:
    # 100,000 steps in bins of ceil(100000 / 300) = 334.
    svg = curve([(step, 0.5 + step % 2) for step in range(100_000)], title="x", smooth=True)
    assert len(svg) < 12_000


def test_labels_are_escaped() -> None:
    svg = curve([(0, 0.1), (1, 0.2)], title='"><script>', smooth=False)
    assert "<script" not in svg
    assert "&#34;&gt;&lt;script&gt;" in svg
