"""Turn text as catalogues spell it into text as the rest of the toolkit expects it."""

import json
import math
from decimal import Decimal

from grpo_mmpc.metrics.text import words

MISSING_WORDS = frozenset(
    {
        *("nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", "n/a"),
        # Of spreadsheets, in the place of what a formula could not compute.
        *("#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!", "#SPILL!", "#CALC!"),
    }
)
"""Words of programs for a missing value. Case matters: "Nan" is a kind of bread."""

_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def clean_text(value: object, *, one_line: bool = True) -> str | None:
    """Return a cell as text, or None where it holds nothing.

    Args:
        value: Text, its bytes in UTF-8, a number, or None. NaN, infinity, blank or invisible text
            and the words of :data:`MISSING_WORDS` count as missing. A whole float or decimal
            (``1001.0``, what pandas makes of an integer column with gaps) loses its fraction.
        one_line: Fold every run of whitespace, line breaks included, into one space. A title must
            stay on one line: the text_to_image prompt gives it a line of its own.

    Raises:
        TypeError: The value is neither text nor a number; the message names what it is, in JSON's
            words.
    """
    if value is None:
        return None
    if isinstance(value, bytes):  # as some programs write text into Parquet
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TypeError(f"bytes that are no UTF-8, expected text ({error.reason})") from error
    if isinstance(value, str):
        if value.isascii() and value.isprintable():  # most cells, several times as fast
            text = value.strip()
            if one_line and "  " in text:
                text = " ".join(text.split())
            return None if not text or text in MISSING_WORDS else text
        text = value
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise TypeError(f"{json_kind(value)}, expected text")
    elif not isinstance(value, int):
        if not math.isfinite(value):
            return None
        text = str(int(value)) if value == int(value) else f"{value:f}" if isinstance(value, Decimal) else str(value)
    else:
        text = str(value)
    if "\x00" in text:
        text = text.replace("\x00", "")
    text = writable(text)
    text = " ".join(text.split()) if one_line else text.strip()
    return None if text in MISSING_WORDS or not _is_visible(text) else text


def _is_visible(text: str) -> bool:
    """Return whether a text holds more than spaces and characters of no width."""
    return any(c.isprintable() and not c.isspace() for c in text)


def readable_text(value: object) -> str | None:
    """Return a cell as text; None where it holds nothing, or something that is no text."""
    try:
        return clean_text(value)
    except TypeError:
        return None


def title_key(title: str | None) -> str:
    """Return the form under which two spellings of one title are equal; empty without content.

    It is the title's :func:`~grpo_mmpc.metrics.text.words`: compatibility forms (full-width
    letters, ligatures), case, punctuation and spacing are folded, numbers stay what they are:
    ``"ACME Tote-Bag,  12 pack"`` and ``"acme tote bag (12 Pack)"`` share a key, ``"Bolt 1/4 in"``
    and ``"Bolt 1.4 in"`` do not.
    """
    return " ".join(words(title)) if title else ""


def json_kind(value: object) -> str:
    """Name a value's kind in JSON's words: ``a list``, ``an object``, ``true`` ..."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bytes):
        return "bytes"
    return f"a value of type {type(value).__name__}"


def json_text(value: object) -> str:
    """Return compact JSON text of a value; parts that JSON does not know become their text."""
    return _COMPACT.encode(value)


def writable(text: str) -> str:
    """Replace every lone half of a surrogate pair: JSON can escape it, no file can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="replace").decode("utf-8")
    return text
