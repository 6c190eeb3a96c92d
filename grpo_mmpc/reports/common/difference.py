"""A difference as every page and terminal writes it: sign, interval, glyph, tone."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from grpo_mmpc.reports.common.labels import p_value, signed
from grpo_mmpc.statistics.verdicts import (
    BETTER,
    NO_EVIDENCE,
    NO_INTERVAL,
    SAME,
    TOO_FEW,
    TOO_FEW_CHANGED,
    UNSCORED,
    WORSE,
)

if TYPE_CHECKING:
    from grpo_mmpc.evaluation.records import Cell

Tone = Literal["better", "worse", "unclear"]
"""Class of the colour in which a result is shown."""
REFERENCE = ""
"""The verdict on what the others are compared with."""
_GLYPHS = {BETTER: "▲", WORSE: "▼", NO_EVIDENCE: "·", UNSCORED: "", REFERENCE: "=", SAME: "="}
_UNKNOWN = "?"
"""The glyph of every verdict that says why there is none, such as too few items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference with what is known of it."""

    value: float | None
    """None when nothing was scored, and for the reference itself."""
    interval: Sequence[float] | None
    """The interval of this difference alone: (low, high)."""
    verdict: str
    """One of ``statistics.verdicts``, or a page's own reason why there is none."""
    p: float | None = None
    """Corrected for everything that is shown together."""
    wider: Sequence[float] | None = None
    """The interval that holds for all lines of a panel at once."""

    @property
    def change(self) -> str:
        """``+0.312``; ``reference`` for the reference itself."""
        return "reference" if self.verdict == REFERENCE else signed(self.value)

    @property
    def interval_text(self) -> str:
        """``+0.284 to +0.341``; empty without an interval."""
        return interval_text(self.interval)

    @property
    def p_text(self) -> str:
        """``0.012`` or ``<0.001``."""
        return p_value(self.p)

    @property
    def verdict_text(self) -> str:
        """The verdict in words."""
        return self.verdict or "reference"

    @property
    def glyph(self) -> str:
        """One character for the verdict."""
        return glyph(self.verdict)

    @property
    def tone(self) -> Tone:
        """The colour of the verdict."""
        return tone(self.verdict)

    def evidence(self, percent: str = "95%") -> str:
        """``+0.312, 95% interval +0.284 to +0.341, corrected p 0.004``, as far as it is known."""
        if self.interval is None:
            return self.change
        return f"{self.change}, {percent} interval {self.interval_text}, corrected p {self.p_text}"


def difference_of(cell: "Cell") -> Difference:
    """Return the change of a cell with what is known of it."""
    return Difference(
        value=cell.delta, interval=cell.interval, verdict=cell.verdict, p=cell.p_holm, wider=cell.corrected
    )


def glyph(verdict: str) -> str:
    """▲ better, ▼ worse, · no evidence, = reference or same, ? no verdict; empty if not scored."""
    return _GLYPHS.get(verdict, _UNKNOWN)


def tone(verdict: str) -> Tone:
    """``better`` and ``worse`` as they are; everything else is unclear."""
    return "better" if verdict == BETTER else "worse" if verdict == WORSE else "unclear"


def common_tone(verdicts: Iterable[str]) -> Tone:
    """The colour of several verdicts: that of the better and worse ones, where they agree."""
    clear = {tone(verdict) for verdict in verdicts} - {"unclear"}
    return clear.pop() if len(clear) == 1 else "unclear"


def interval_text(interval: Sequence[float] | None, *, write: Callable[[float], str] = signed) -> str:
    """``+0.284 to +0.341``; empty without an interval; levels are written by ``number``."""
    return f"{write(interval[0])} to {write(interval[1])}" if interval else ""


def tally(verdicts: Iterable[str]) -> str:
    """``7 better, 1 worse, 2 no evidence``: better and worse are always counted."""
    counts = Counter(verdicts)
    order = (BETTER, WORSE, NO_EVIDENCE, TOO_FEW_CHANGED, NO_INTERVAL, TOO_FEW)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict] or verdict in order[:2])
