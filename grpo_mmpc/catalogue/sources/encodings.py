"""Guess the encoding of a text by the letters of the languages that are written in it."""

import re
from functools import cache

_WEST = {
    "Danish, Norwegian": "æøåéèêóòôäöü",
    "Dutch": "áàâäéèêëíïóôöúüç",
    "French": "àâæçéèêëîïôœùûüÿ",
    "German": "äöüßéèà",
    "Icelandic": "áðéíóúýþæö",
    "Italian": "àèéìíîòóùú",
    "Portuguese": "áâãàçéêíóôõúü",
    "Spanish, Catalan": "áàçéèíïñóòúü·",
    "Swedish, Finnish": "åäöéàüšž",
}
_OTHERS = {
    "cp1250": {
        "Croatian, Slovenian": "čćđšž",
        "Czech": "áčďéěíňóřšťúůýž",
        "Hungarian": "áéíóöőúüű",
        "Polish": "ąćęłńóśźżé",
        "Romanian": "ăâîşţ",
        "Slovak": "áäčďéíľĺňóôŕšťúýž",
    },
    "cp1254": {"Turkish": "çğıİöşüâîû"},
    "cp1257": {"Lithuanian": "ąčęėįšųūž", "Latvian": "āčēģīķļņšūž"},
}
# What else shops write; more of them would find strange letters in a list of three words.
_OTHER_LETTERS = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "mac_roman"),
    *("koi8_r", "cp932", "gb18030", "big5", "euc_kr", "euc_jp"),
]
_NO_LETTERS = rb"\x80\x82\x84-\x87\x89\x8b\x91-\x97\x99\x9b\xa0\xa4\xa6-\xa9\xab-\xae\xb0\xb1\xb4-\xb8\xbb\xd7\xf7"
"""Quotes, dashes and signs, which Windows' encodings of Latin letters have in one place."""
_WORD = re.compile(rb"[A-Za-z\x80-\xff]+")
_PART = re.compile(rb"[^" + _NO_LETTERS + rb"]+")
_HAN = re.compile("[\u4e00-\u9fff\uf900-\ufaff]")
_SURE, _LIKELIER, _LIKELY = 0.75, 1.1, 0.5


def guess_encoding(text: bytes) -> str | None:
    """Return Python's name of the encoding of a text that is no UTF-8; None where nothing fits.

    A language explains the words that it has all letters of. Windows-1252 is what most files are,
    so it stays unless a language of another encoding explains nearly all, and more of them; what no
    Latin language explains is of other letters, and left to charset-normalizer.
    """
    words = [part for word in _WORD.findall(text) for part in _PART.findall(word) if not part.isascii()]
    total = sum(map(_weight, words))
    west = max(_explained(words, "cp1252", letters) for letters in _WEST.values())
    explained = {
        encoding: max(_explained(words, encoding, letters) for letters in languages.values())
        for encoding, languages in _OTHERS.items()
    }
    other = max(explained, key=lambda encoding: explained[encoding])
    if explained[other] >= _SURE * total and explained[other] > _LIKELIER * west:
        return other
    if west >= _LIKELY * total:
        return "cp1252"
    guessed = _of_other_letters(text)
    if guessed == "euc_kr" and len(_HAN.findall(text.decode(guessed, "ignore"))) > total / 20:
        return _of_other_letters(text, but=guessed) or guessed  # Korean is hardly written in Chinese letters
    return guessed


def _of_other_letters(text: bytes, but: str = "") -> str | None:
    from charset_normalizer import from_bytes  # heavy: imported on use

    best = from_bytes(text, cp_isolation=[name for name in _OTHER_LETTERS if name != but]).best()
    return best.encoding if best else None


def _weight(word: bytes) -> int:
    return sum(byte > 127 for byte in word)


def _explained(words: list[bytes], encoding: str, letters: str) -> int:
    pattern = _pattern(letters, signs=encoding == "cp1252")
    return sum(_weight(word) for word in words if pattern.fullmatch(word.decode(encoding, "replace")))


@cache
def _pattern(letters: str, *, signs: bool) -> re.Pattern[str]:
    """Return what a word of these letters is; of Western Europe also ¿Qué, m² and 1ª."""
    word = f"[A-Za-z{letters}{letters.upper()}]+"
    return re.compile(rf"[¿¡]?{word}|[A-Za-z]{{0,2}}[²³¹ªº¼½¾£¢¥]" if signs else word)
