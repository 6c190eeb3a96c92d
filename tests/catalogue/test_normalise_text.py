"""clean_text and title_key: what counts as missing, and which spellings of a title are one."""

from decimal import Decimal

import pytest

from grpo_mmpc.catalogue.normalise import clean_text, title_key


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "  \n",
        float("nan"),
        "nan",
        "NaN",
        "None",
        "null",
        "NULL",
        "<NA>",
        "N/A",
        "\x00",
        "\u200b \ufeff\u2060",
    ],
)
def test_what_programs_write_for_nothing_is_missing(value):
    assert clean_text(value) is None


@pytest.mark.parametrize("value", ["Nan", "NAN", "Null Island mug", "0", "-"])
def test_a_word_that_a_seller_may_mean_is_kept(value):
    assert clean_text(value) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1001, "1001"),
        (1001.0, "1001"),
        (2.5, "2.5"),
        (Decimal("1001.00"), "1001"),
        (Decimal("2.50"), "2.50"),
        ("Tasse à thé".encode(), "Tasse à thé"),
        (" a \t b\nc\u00a0d ", "a b c d"),
        ("a\x00b", "ab"),
        ("half \ud83d", "half ?"),
        ("whole \U0001f600", "whole \U0001f600"),
    ],
)
def test_a_cell_becomes_one_line_of_text(value, text):
    assert clean_text(value) == text


def test_a_description_keeps_its_lines():
    assert clean_text(" a\n  b \n", one_line=False) == "a\n  b"


@pytest.mark.parametrize(
    ("value", "name"), [([], "a list"), ({}, "an object"), (True, "true"), (b"\xff", "bytes that are no UTF-8")]
)
def test_what_is_neither_text_nor_number_is_refused_by_name(value, name):
    with pytest.raises(TypeError, match=f"^{name}, expected text"):
        clean_text(value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ACME Tote-Bag,  12 pack", "acme tote bag (12 Pack)"),
        ("Straße", "STRASSE"),
        ("\uff26\uff35\uff2c\uff2c width \ufb01t", "full width fit"),
        ("cafe\u0301", "Café"),
        ("緑茶　100ml", "緑茶 100ML!"),
    ],
)
def test_spellings_of_one_title_share_a_key(first, second):
    assert title_key(first) == title_key(second) != ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *[("Tote Bag 12", "Tote Bag 1 2"), ("Tote Bag Red", "Tote Bag Blue"), ("कि", "क"), ("cafe", "café")],
        *[("Sinker .5 oz", "Sinker 5 oz"), ("Bolt 1/4 in", "Bolt 1.4 in"), ("Lens -2.00", "Lens +2.00")],
    ],
)
def test_different_titles_have_different_keys(first, second):
    assert title_key(first) != title_key(second)


@pytest.mark.parametrize("title", [None, "", "  ", "***", "!?"])
def test_a_title_without_letters_or_digits_has_no_key(title):
    assert title_key(title) == ""
