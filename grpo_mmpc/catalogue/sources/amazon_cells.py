"""SQL that reads the JSON cells of Amazon Reviews 2023 as :mod:`amazon_items` does, without Python.

Each expression decides for itself: a cell that cleaning would leave as it is becomes a column at
once, any other is handed to the function in Python that is the rule.
"""

import re

from grpo_mmpc.catalogue.interactions import EARLIEST_MS, LATEST_MS
from grpo_mmpc.catalogue.normalise import MISSING_WORDS
from grpo_mmpc.catalogue.sources.amazon_items import ATTRIBUTE_NAMES, IMAGE_SIZES

_LETTER = r'[^"\\<&\p{Z}\p{C}\x{C2}-\x{F4}√\x{FFFD}]'
"""One that cleaning leaves as it is; those with accents may belong to a wrong encoding."""
_PIECE = rf"{_LETTER}+(?: {_LETTER}+)*"

_LETTERED = "[A-Za-z0-9_-]*[A-DF-Za-df-z][A-Za-z0-9_-]*"
_IDENTIFIER = f"[0-9_-]*[0-9][0-9_-]*|[0-9_-]*[0-9]{_LETTERED}|{_LETTERED}[0-9][A-Za-z0-9_-]*"
"""With a digit, unlike words for a missing value; one whose only letter is e may be a number."""


def quoted(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _missing(around: str) -> str:
    return ", ".join(quoted(around.format(f'"{word}"')) for word in sorted(MISSING_WORDS))


_MISSING = f'"({"|".join(map(re.escape, sorted(MISSING_WORDS)))})"'


def is_plain(cell: str, *, listed: bool = False) -> str:
    """Return SQL that is true where cleaning would leave the JSON text of a cell as it is.

    Args:
        cell: SQL.
        listed: The cell is a list of one such text.
    """
    pattern, words = (rf'\["{_PIECE}"\]', _missing("[{}]")) if listed else (f'"{_PIECE}"', _missing("{}"))
    return f"(regexp_full_match({cell}, '{pattern}') AND {cell} NOT IN ({words}))"


def is_identifier(text: str) -> str:
    """Return SQL that is true for an ordinary identifier."""
    return f"(regexp_full_match({text}, '{_IDENTIFIER}') AND length({text}) < 200)"


def text_of(cell: str) -> str:
    """Return SQL for the clean text of a cell."""
    return f"CASE WHEN {cell} IS NULL THEN NULL WHEN {is_plain(cell)} THEN {cell}[2:-2] ELSE clean_text({cell}) END"


def description_of(cell: str) -> str:
    """Return SQL for the paragraphs in one text; a single plain one needs no Python."""
    return (
        f"CASE WHEN {cell} IS NULL OR {cell} = '[]' THEN NULL WHEN {is_plain(cell, listed=True)} THEN {cell}[3:-3] "
        f"ELSE clean_description({cell}) END"
    )


_OF_FIRST_IMAGE = ", ".join(f"'$[0].{name}', '$.{name}[0]'" for name in ("variant", *IMAGE_SIZES))
_NAMED = ", ".join(quoted(f'$."{name.title()}"') for name in ATTRIBUTE_NAMES)
DRAFT_JOINS = f"""
    , LATERAL (SELECT json_extract_string(r.images, [{_OF_FIRST_IMAGE}]) AS first_image)
    , LATERAL (SELECT CASE WHEN r.details IS NULL THEN '{{}}' WHEN r.details[1] = '{{' THEN r.details
        WHEN json_valid(r.details->>'$') THEN r.details->>'$' END AS details_read)
    , LATERAL (SELECT list_append(json_extract(details_read, [{_NAMED}])::VARCHAR[], r.store) AS facts)"""
"""SQL behind the cells ``r``: variant and addresses of the first image, in a list of objects
(JSONL) or an object of lists (Parquet); the cells of ``ATTRIBUTE_NAMES``, then the store."""


def best_urls() -> str:
    """Return SQL for the addresses of the best image; a plain MAIN in front needs no Python."""
    address = f"https?://{_LETTER}+"
    return (
        "CASE WHEN list_count(first_image[:2]) = 1 AND coalesce(first_image[1], first_image[2]) = 'MAIN' "
        f"AND regexp_full_match(array_to_string(first_image[3:], ' '), '{address}( {address})*') "
        "THEN list_filter(first_image[3:], lambda url: url IS NOT NULL) ELSE urls_of(r.images) END"
    )


_MAY_NAME_A_FACT = quoted(rf"(?is) *({'|'.join(ATTRIBUTE_NAMES)}) *|.*[^ -~].*")


def attributes() -> str:
    """Return SQL for the JSON text of an item's attributes.

    Plain values need no Python, where each name is spelt as usual and given once.
    """
    cells: dict[str, dict[int, str]] = {}
    for place, (kind, rank) in enumerate(ATTRIBUTE_NAMES.values(), start=1):
        cells.setdefault(kind, {})[rank] = f"facts[{place}]"
    cells["brand"][len(cells["brand"])] = "facts[-1]"
    members = ", ".join(
        f"""'"{kind}":' || coalesce({", ".join(cell for _, cell in sorted(ranked.items()))})"""
        for kind, ranked in cells.items()
    )
    named = f"list_filter(json_keys(details_read), lambda name: regexp_full_match(name, {_MAY_NAME_A_FACT}))"
    return (
        f"CASE WHEN list_count(facts) = len({named}) + (r.store IS NOT NULL)::INT "
        f"""AND regexp_full_match(array_to_string(facts, ','), '("{_PIECE}"(,"{_PIECE}")*)?') """
        f"AND NOT regexp_matches(array_to_string(facts, ','), '{_MISSING}') "
        f"THEN nullif('{{' || concat_ws(',', {members}) || '}}', '{{}}') ELSE attributes_of(r.details, r.store) END"
    )


# --- the columns of a pass

ITEM_CELLS = ("title", "main_category", "images", "details", "description", "store")
REVIEW_CELLS = ("user_id", "parent_asin", "timestamp", "rating")


def identity_columns(category: str | None) -> str:
    """Return SQL for ``item_id``, null where Python has to read it, and ``category``."""
    return (
        f"CASE WHEN r.parent_asin[1] = '\"' AND {is_identifier('r.parent_asin[2:-2]')} "
        f"THEN r.parent_asin[2:-2] END AS item_id, "
        f"{text_of('r.main_category') if category is None else quoted(category)} AS category"
    )


def presence_columns() -> str:
    """Return SQL for ``has_title`` and ``has_image``."""
    return f"""
        CASE WHEN r.title IS NULL THEN false WHEN {is_plain("r.title")} THEN true
            ELSE clean_text(r.title) IS NOT NULL END AS has_title,
        CASE WHEN r.images IS NULL OR r.images = '[]' THEN false
            WHEN regexp_matches(r.images, '"(hi_res|large)":"https?://[^" ]+"') THEN true
            ELSE len(urls_of(r.images)) > 0 END AS has_image"""


def draft_columns() -> str:
    """Return SQL for title, description, attributes, addresses of an image, and main category."""
    cells = text_of("r.title"), description_of("r.description"), attributes(), best_urls(), text_of("r.main_category")
    return ", ".join(cells)


def review_columns() -> str:
    """Return SQL for the columns of a review, and ``is_read``: true where Python need not look.

    Its cells are texts, not JSON.
    """
    time, rating = "TRY_CAST(r.timestamp AS BIGINT)", "TRY_CAST(r.rating AS DOUBLE)"
    # Numbers cost less than matching their text: a short rating that begins with a digit is as
    # Python reads it. CASE skips what OR would evaluate.
    return f"""
        CASE WHEN known.item_id IS NOT NULL THEN r.user_id END AS user_id, known.item_id AS item_id,
        {time} AS timestamp, {rating} AS rating,
        coalesce({time} >= {EARLIEST_MS} AND {time} < {LATEST_MS} AND {time}::VARCHAR = r.timestamp
            AND (r.rating IS NULL OR (strlen(r.rating) <= 3 AND r.rating BETWEEN '0' AND ':' AND {rating} >= 0))
            AND CASE WHEN known.item_id IS NULL THEN {is_identifier("r.parent_asin")} ELSE true END
            AND {is_identifier("r.user_id")}, false) AS is_read"""
