"""Judge whether a title is English, by its script and by a small language identifier."""

import math
import unicodedata
from functools import cache, lru_cache
from typing import Any

LANGUAGES = ("en", "cs", "da", "de", "es", "fi", "fr", "hu", "id", "it", "nl", "pl", "pt", "ro", "sv", "tr", "vi")
"""Languages that a text in Latin script may be in. The identifier knows a hundred more, and would
find Quechua in every second brand name."""
_PART_CHARACTERS = 300
_DOUBT, _CERTAINTY = 3.0, 5.0
"""Log-odds for another language at which the score begins to fall, and at which it is 0. They were
set on 1,033 English titles (nano, grocery, and 52 chosen for their foreign names; three lie above
3, the greatest at 4.1) and 60 foreign ones of four words and more (the least at 4.1). Of 60 further
titles, all 30 English ones score 1 and 29 of 30 foreign ones below 0.5."""


def foreign_share(text: str) -> float:
    """Return the share of a text's letters that are not Latin; 0 without letters."""
    letters = [character for character in text if character.isalpha()]
    return sum(not _is_latin(letter) for letter in letters) / max(1, len(letters))


def english_score(text: str) -> float:
    """Score in [0, 1] how far a text passes for English; 1 unless there is evidence against it.

    Two signs are multiplied. Script: 1 if all letters are Latin, falling to 0 where half of them
    are not. Language: the log-odds of the likeliest other language against English, 1 up to 3 and
    falling to 0 at 5, averaged over the text as it is and without its accents, so that "Crème
    Brûlée Torch" is not French for its accents alone. Of more than 300 characters the least English
    part counts; two words are too little evidence.

    References:
        Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool".
    """
    if not any(map(str.isalpha, text)):
        return 1.0
    script = max(0.0, 1.0 - 2.0 * foreign_share(text))
    if not script:
        return 0.0
    odds = max((_log_odds(part) + _log_odds(_without_accents(part))) / 2 for part in _parts(text))
    return script * min(1.0, max(0.0, (_CERTAINTY - odds) / (_CERTAINTY - _DOUBT)))


def _parts(text: str) -> list[str]:
    # repetitions lower the odds of a long text
    count = math.ceil(len(text) / _PART_CHARACTERS)
    size = math.ceil(len(text) / count)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _log_odds(text: str) -> float:
    probabilities = dict(_identifier().rank(text))
    english = probabilities.pop("en")
    # Both may underflow to 0 in a long text.
    return math.log(max(*probabilities.values(), 1e-30)) - math.log(max(english, 1e-30))


@lru_cache(maxsize=4096)
def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(
        ("LATIN", "FULLWIDTH LATIN", "FEMININE ORDINAL", "MASCULINE ORDINAL")
    )


def _without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # heavy: reads its model

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
