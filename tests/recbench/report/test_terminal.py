"""What the benchmark prints when it ends."""

import pytest

from grpo_mmpc.recbench.report.terminal import terminal_lines
from tests.recbench.report.fake_results import changed, results, with_second


@pytest.mark.parametrize("colour", [True, False])
def test_the_terminal_shows_table_sentences_and_cautions(colour):
    text = "\n".join(terminal_lines(results(), colour=colour))
    assert "completed by mine" in text and "50% (30% to 70%)" in text and "80%" in text
    assert "▲ Completed by mine: Recall@20 0.300, better than “zeros”" in text
    assert "! Completed by mine at 100%: 8 of 10" in text
    assert ("\x1b[" in text) is colour


def test_columns_stand_under_their_heads():
    head, *rows = terminal_lines(results(), colour=False)[4:9]
    row = next(row for row in rows if "completed by mine" in row)
    for title, cell in (("verdict", "better"), ("recovery", "50%"), ("filled", "80%")):
        assert head.index(title) == row.index(cell)


def test_where_there_is_nothing_to_compare_it_says_so():
    nothing = changed(lambda group, lead: group.update(metrics={}))
    assert terminal_lines(nothing, colour=False)[1].startswith("There is nothing to compare: ")


def test_how_completions_compare_is_the_first_sentence_below_the_table():
    sentences = [line for line in terminal_lines(with_second(), colour=False) if line.startswith("▲ Completed by")]
    assert sentences[0].startswith("▲ Completed by theirs against completed by mine, Recall@20: better (+0.020, ")
