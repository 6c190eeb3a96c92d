"""Clean the texts of a source and count what was changed: one function for all sources."""

import re
import unicodedata
from collections import Counter

from grpo_mmpc.catalogue.normalise import clean_text
from grpo_mmpc.catalogue.sources.markup import without_markup

MOJIBAKE, MARKUP = "mojibake", "markup and entities"
SPACES, MISSING, CUT = "spaces and control characters", "words for a missing value", "texts cut"
MAX_DESCRIPTION = 50_000
"""Characters of a description that are kept."""

_SUSPECT = re.compile("[\x80-\x9f\ufffd]|[Â-ôÐÑ√Ãâ][\x80-\u024f\u2013-\u2122]")
"""Letters of UTF-8 read in another encoding come in such pairs; other text is left alone."""
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]")
"""Controls of devices and of the direction of writing; tabs and ends of lines are spaces."""


def cleaned(value: object, counts: Counter[str], *, one_line: bool = True) -> str | None:
    """Return a cell as clean text, or None where it holds nothing.

    Letters of a wrong encoding are mended ("CrÃ¨me"), tags and entities of HTML resolved, control
    characters removed, whitespace and missing values read as
    :func:`~grpo_mmpc.catalogue.normalise.clean_text` does.

    Args:
        value: Text, a number, or None.
        counts: Gets one for each kind of change to this cell.
        one_line: Fold line breaks too.

    Raises:
        TypeError: The value is neither text nor a number.
    """
    if not isinstance(value, str):
        return clean_text(value, one_line=one_line)
    mended = value
    if not value.isascii() and _SUSPECT.search(value):
        from ftfy import fix_encoding  # heavy: imported on use

        mended = fix_encoding(value)
    plain = without_markup(mended)
    text = clean_text(_CONTROLS.sub("", plain).replace("\xa0", " "), one_line=one_line)
    counts[MOJIBAKE] += mended != value
    counts[MARKUP] += plain != mended
    if text is None:
        counts[MISSING] += bool(plain.strip())
    elif not one_line and len(text) > MAX_DESCRIPTION:
        counts[CUT] += 1
        text = text[:MAX_DESCRIPTION].rstrip()
    else:
        counts[SPACES] += text != plain.strip()
    return text


def has_words(text: str) -> bool:
    """Return whether a text has a letter or a digit; a title of "---" says nothing."""
    return any(unicodedata.category(character)[0] in "LN" for character in text)
