"""Findings and differences: the same sentence, mark and colour wherever a result is shown."""

import pytest

from grpo_mmpc.reports.common.difference import Difference, common_tone, glyph, interval_text, tally
from grpo_mmpc.reports.common.findings import Finding, caution, terminal_lines
from grpo_mmpc.reports.common.labels import MINUS, NO_VALUE


def test_every_finding_begins_with_its_mark_and_wraps_below_its_text() -> None:
    findings = [
        Finding(text="It is better.", tone="better"),
        Finding(text="It is worse in a great many metrics.", tone="worse"),
        Finding(text="No evidence.", kind="not supported"),
        Finding(text="No verdict.", kind="no verdict"),
        caution("One seed."),
    ]
    assert terminal_lines(findings, width=24) == [
        "▲ It is better.",
        "▼ It is worse in a great",
        "  many metrics.",
        "· No evidence.",
        "? No verdict.",
        "! One seed.",
    ]


def test_only_better_and_worse_have_colours() -> None:
    findings = [Finding(text="Up.", tone="better"), Finding(text="Down.", tone="worse"), caution("Few.")]
    assert terminal_lines(findings, colour=True) == ["\x1b[32m▲ Up.\x1b[0m", "\x1b[31m▼ Down.\x1b[0m", "! Few."]


def test_a_difference_is_written_with_its_interval_and_p_value() -> None:
    found = Difference(value=-0.0204, interval=(-0.0301, 0.0049), verdict="no evidence", p=0.0004)
    assert (found.change, found.interval_text) == (f"{MINUS}0.020", f"{MINUS}0.030 to +0.005")
    assert (found.p_text, found.glyph, found.tone) == ("<0.001", "·", "unclear")
    assert found.evidence() == f"{MINUS}0.020, 95% interval {MINUS}0.030 to +0.005, corrected p <0.001"


def test_a_difference_without_interval_claims_none() -> None:
    found = Difference(value=0.5, interval=None, verdict="too few items")
    assert (found.evidence(), found.interval_text, found.p_text, found.glyph) == ("+0.500", "", NO_VALUE, "?")
    reference = Difference(value=None, interval=None, verdict="")
    assert (reference.change, reference.verdict_text, reference.glyph) == ("reference", "reference", "=")


@pytest.mark.parametrize(
    ("verdicts", "tone"),
    [
        (["better", "no evidence"], "better"),
        (["worse", "too few items"], "worse"),
        (["better", "worse"], "unclear"),
        (["no evidence"], "unclear"),
        ([], "unclear"),
    ],
)
def test_several_verdicts_have_a_colour_where_they_agree(verdicts: list[str], tone: str) -> None:
    assert common_tone(verdicts) == tone


def test_a_tally_always_counts_better_and_worse() -> None:
    assert tally(["better", "better", "no evidence"]) == "2 better, 0 worse, 1 no evidence"
    assert tally([]) == "0 better, 0 worse"


def test_what_was_not_scored_has_no_glyph_and_no_interval() -> None:
    assert glyph("unscored") == ""
    assert interval_text(None) == ""
    assert interval_text((0.5, 0.75), write="{:.2f}".format) == "0.50 to 0.75"
