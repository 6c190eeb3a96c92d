"""SQL that reads the JSON cells of Amazon Reviews 2023 as :mod:`amazon_items` does, without Python.

Each expression decides for itself: a cell that cleaning would leave as it is becomes a column at
once, any other is handed to the function in Python that is the rule.
"""

from grpo_mmpc.catalogue.normalise import MISSING_WORDS
from grpo_mmpc.catalogue.sources.amazon_items import IMAGE_SIZES

_LETTER = r'[^"\\<&\p{Z}\p{C}\x{C2}-\x{F4}√\x{FFFD}]'
"""One that cleaning leaves as it is; those with accents may belong to a wrong encoding."""
_PIECE = rf"{_LETTER}+(?: {_LETTER}+)*"
_PLAIN_OBJECT = rf'\{{("[^"\\]+":(null|"{_PIECE}"),?)*\}}'

_MILLISECONDS = '"?([1-9][0-9]{12,14}|[3-9][0-9]{11})"?'
"""After 1980 and before the year 30,000."""
_RATING = '"?[0-9]([.][0-9]+)?"?'


def quoted(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


_MISSING = ", ".join(quoted(f'"{word}"') for word in sorted(MISSING_WORDS))


def is_plain(cell: str) -> str:
    """Return SQL that is true where cleaning would leave the JSON text of a cell as it is."""
    return f"""(regexp_full_match({cell}, '"{_PIECE}"') AND {cell} NOT IN ({_MISSING}))"""


def is_identifier(cell: str) -> str:
    """Return SQL that is true for the JSON text of an ordinary identifier.

    One with a digit, which no word for a missing value has.
    """
    return f"""(regexp_full_match({cell}, '"[A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]*"') AND length({cell}) < 200)"""


def text_of(cell: str) -> str:
    """Return SQL for the clean text of a cell."""
    return f"CASE WHEN {cell} IS NULL THEN NULL WHEN {is_plain(cell)} THEN {cell}[2:-2] ELSE clean_text({cell}) END"


def description_of(cell: str) -> str:
    """Return SQL for the paragraphs in one text; a single plain one needs no Python."""
    return (
        f"CASE WHEN {cell} IS NULL OR {cell} = '[]' THEN NULL "
        f"WHEN {cell}[1] = '[' AND {is_plain(f'{cell}[2:-2]')} THEN {cell}[3:-3] ELSE clean_description({cell}) END"
    )


def urls_of(cell: str) -> str:
    """Return SQL for the addresses of the best image; a plain MAIN in front needs no Python."""
    first = f"regexp_extract({cell}, '^\\[(\\{{[^{{}}]*\\}})', 1)"
    sizes = ", ".join(f"""regexp_extract({first}, '"{size}":"(https?://[^"]+)"', 1)""" for size in IMAGE_SIZES)
    return (
        f"""CASE WHEN contains({first}, '"variant":"MAIN"') AND contains({first}, '":"http') """
        f"AND regexp_full_match({first}, '{_PLAIN_OBJECT}') "
        f"THEN list_filter([{sizes}], lambda url: url != '') ELSE urls_of({cell}) END"
    )


# --- the columns of a pass

ITEM_CELLS = ("title", "main_category", "images", "details", "description", "store")
DRAFT_COLUMNS = "clean_title, clean_description, attributes, image_urls, clean_category"
REVIEW_CELLS = ("user_id", "parent_asin", "timestamp", "rating")


def identity_columns(category: str | None) -> str:
    """Return SQL for ``item_id``, null where Python has to read it, and ``category``."""
    return (
        f"CASE WHEN {is_identifier('r.parent_asin')} THEN r.parent_asin[2:-2] END AS item_id, "
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
    """Return SQL for ``DRAFT_COLUMNS``."""
    return (
        f"{text_of('r.title')} AS clean_title, {description_of('r.description')} AS clean_description, "
        f"attributes_of(r.details, r.store) AS attributes, {urls_of('r.images')} AS image_urls, "
        f"{text_of('r.main_category')} AS clean_category"
    )


def review_columns() -> str:
    """Return SQL for ``is_read``, true where Python need not look, and the columns of a review."""
    return f"""
        {is_identifier("r.parent_asin")} AND {is_identifier("r.user_id")}
            AND regexp_full_match(r.timestamp, '{_MILLISECONDS}')
            AND (r.rating IS NULL OR regexp_full_match(r.rating, '{_RATING}')) AS is_read,
        known.key AS item,
        CASE WHEN item IS NOT NULL THEN substr(r.user_id, 2, length(r.user_id) - 2) END AS user_id,
        TRY_CAST(trim(r.timestamp, '"') AS BIGINT) AS timestamp,
        TRY_CAST(trim(r.rating, '"') AS DOUBLE) AS rating"""
