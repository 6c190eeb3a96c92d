"""The sentences that a result supports, rendered by pages and terminals alike."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from grpo_mmpc.reports.common.difference import Tone, glyph
from grpo_mmpc.utils.console import coloured, columns, printable

Kind = Literal["supported", "not supported", "no verdict", "caution"]
_MOST_COLUMNS = 110
_COLOURS = {"better": "green", "worse": "red"}
_MARKS = {"supported": "-", "not supported": "·", "no verdict": "?", "caution": "!"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sentence about a result."""

    text: str
    """A whole sentence, which can be read without the others."""
    kind: Kind = "supported"
    """The data support a claim, or do not, or allow no verdict; a caution says how far to trust the
    others."""
    tone: Tone = "unclear"
    """``better`` and ``worse`` for claims of that direction."""

    @property
    def mark(self) -> str:
        """One character for kind and tone, the same on pages and terminals."""
        return _MARKS[self.kind] if self.tone == "unclear" else glyph(self.tone)


def caution(text: str) -> Finding:
    """Return a sentence that says how far to trust the others."""
    return Finding(text=text, kind="caution")


def texts(findings: Iterable[Finding]) -> list[str]:
    """Return the sentences alone, as they are written into JSON files."""
    return [finding.text for finding in findings]


def terminal_lines(findings: Iterable[Finding], *, colour: bool = False, width: int | None = None) -> list[str]:
    """Render findings for a terminal: a mark, then the sentence, wrapped with a hanging indent.

    ``colour`` writes better and worse ones in ANSI colours. Lines are as wide as the terminal (or
    ``width``), but at most 110 columns.
    """
    width = min(columns() if width is None else width, _MOST_COLUMNS)
    lines: list[str] = []
    for finding in findings:
        wrapped = textwrap.wrap(
            printable(finding.text),
            width,
            initial_indent=f"{finding.mark} ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [coloured(line, _COLOURS.get(finding.tone) if colour else None) for line in wrapped]
    return lines
