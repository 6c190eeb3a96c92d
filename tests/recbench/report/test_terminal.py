"""What the benchmark prints when it ends."""

import pytest

from grpo_mmpc.recbench.report.terminal import terminal_lines
from tests.recbench.report.fake_results import changed, results, with_second


@pytest.mark.parametrize("colour", [True, False])
def test_the_terminal_shows_table_sentences_and_cautions(colour):
    text = "\n".join(terminal_lines(results(), colour=colour, width=120))
    assert "completed by mine" in text and "50% (30% to 70%)" in text and "80%" in text
    assert "▲ Completed by mine: Recall@20 0.300, better than “zeros”" in text
    assert "! Completed by mine at 100%: 8 of 10" in text
    assert ("\x1b[" in text) is colour


def test_columns_stand_under_their_heads():
    head, *rows = terminal_lines(results(), colour=False, width=120)[4:9]
    row = next(row for row in rows if "completed by mine" in row)
    for title, cell in (("verdict", "better"), ("recovery", "50%")):
        assert head.index(title) == row.index(cell)
    assert head.index("filled") + 6 == row.index("80%") + 3


def test_where_there_is_nothing_to_compare_it_says_so():
    nothing = changed(lambda group, lead: group.update(metrics={}))
    assert terminal_lines(nothing, colour=False, width=120)[1].startswith("There is nothing to compare: ")


def test_how_completions_compare_is_the_first_sentence_below_the_table():
    sentences = [
        line for line in terminal_lines(with_second(), colour=False, width=120) if line.startswith("▲ Completed by")
    ]
    assert sentences[0].startswith("▲ Completed by theirs against completed by mine, Recall@20: better (+0.020, ")


@pytest.mark.parametrize("width", [80, 100, 120])
def test_nothing_is_wider_than_the_terminal_and_what_is_left_out_is_named(width):
    lines = terminal_lines(with_second(), colour=False, width=width)
    assert max(map(len, lines)) <= width
    [head] = [line for line in lines if "Recall@20" in line and "verdict" in line]
    gone = [line for line in lines if line.startswith("(a wider terminal also shows")]
    assert (("recovery" in head), gone) == {
        80: (False, ["(a wider terminal also shows NDCG@20, filled, p and recovery)"]),
        100: (True, ["(a wider terminal also shows NDCG@20 and filled)"]),
        120: (True, []),
    }[width]
