"""Text out of the HTML that shops store: entities resolved, tags gone."""

import html
import re

_HIDDEN = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_INLINE = re.compile(r"</?(?:a|abbr|b|em|font|i|ins|mark|s|small|span|strong|sub|sup|u)\b[^<>]*>", re.IGNORECASE)
_BLOCK = re.compile(
    r"</?(?:article|big|blockquote|body|br|center|dd|div|dl|dt|h[1-6]|head|hr|html|iframe|img|input|label|li|link|meta|ol|"
    r"p|pre|section|table|tbody|td|tfoot|th|thead|tr|ul|video)\b[^<>]*>|<!--.*?-->",
    re.DOTALL | re.IGNORECASE,
)
_MOST_ESCAPES = 3
"""Times that a text may have been escaped: ``&amp;amp;`` is met, deeper nesting is not."""


def without_markup(text: str) -> str:
    """Return a text without the tags of HTML and with its entities as characters.

    Only names of real tags count, so that "for pots < 20 cm" and "<Brand>" stay.
    """
    if "<" not in text and "&" not in text:
        return text
    for _ in range(_MOST_ESCAPES):
        text = _BLOCK.sub(" ", _INLINE.sub("", _HIDDEN.sub(" ", text)))
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    return text
