"""The visible text of a page against a golden file: the one place that asserts its wording.

After a change of wording that is wanted, write the files again and read the difference:

    UPDATE_GOLDEN=1 python -m pytest -k golden tests/{reports,ablation,recbench,cli}
    git diff tests/reports/golden
"""

import os
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
_BLOCKS = {
    *("h1", "h2", "h3", "h4", "p", "li", "tr", "dt", "dd", "summary", "pre", "section", "article", "div", "figcaption"),
    *("table", "title", "details", "dl", "ul", "ol"),
}
_HIDDEN = {"style", "svg"}


class _Text(HTMLParser):
    """Lines of text, one for each block that a reader sees; a bar divides cells."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag in _BLOCKS:
            self.lines.append({"h1": "# ", "h2": "## ", "h3": "### ", "h4": "#### ", "li": "- "}.get(tag, ""))
        elif tag in ("td", "th") and self.lines[-1].strip():
            self.lines[-1] += " | "

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden -= 1
        elif tag in _BLOCKS:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.lines[-1] += re.sub(r"\s+", " ", data)


def visible_text(html: str) -> str:
    """Return what a reader sees of a page, figures left out, one line for each block."""
    parser = _Text()
    parser.feed(html)
    return "\n".join(line.strip() for line in parser.lines if line.strip(" #-|")) + "\n"


def check_golden(name: str, text: str, *, replaced: Mapping[str, str] | None = None) -> None:
    """Compare a text with ``golden/NAME.txt``; with UPDATE_GOLDEN=1, write it.

    Args:
        name: Of the file.
        text: As the reader sees it.
        replaced: By regular expression of what differs from run to run, what replaces it.
    """
    for pattern, word in (replaced or {}).items():
        text = re.sub(pattern, word, text)
    path = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text("utf-8"), f"the wording has changed; see {__name__}"
