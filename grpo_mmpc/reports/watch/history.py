"""The steps of a run while it logs them: read on from where the last look ended, and thinned."""

import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.run_folder import finite
from grpo_mmpc.rewards.troubles import LATEST
from grpo_mmpc.utils.files import check_own, json_lines

MOST = 400
"""Rows kept of a run of any length: more points than these cannot be seen."""


@dataclass(slots=True)
class _Bin:
    """The rows of neighbouring steps, added up."""

    step: int
    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, other: "_Bin") -> None:
        self.step = other.step
        self.count += other.count
        for key, value in other.sums.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.counts[key] = self.counts.get(key, 0) + other.counts[key]

    @property
    def means(self) -> dict[str, float]:
        return {key: value / self.counts[key] for key, value in self.sums.items()} | {"step": float(self.step)}


class History:
    """What ``metrics.jsonl`` holds so far; every look costs what was added since the last one.

    A line without an end is one that is being written, or that a kill cut short: it is left to the
    next look. A file that was replaced, as by a run that goes on from a checkpoint, is read anew.
    """

    def __init__(self, run: Path) -> None:
        self._path, self._run = run / "metrics.jsonl", run
        self._forget()

    def _forget(self) -> None:
        self._inode, self._offset, self._size = 0, 0, 1
        self._bins: list[_Bin] = []
        self.latest: deque[Mapping[str, Any]] = deque(maxlen=LATEST)
        """The last rows as they were logged."""
        self.rows: list[dict[str, float]] = []
        """At most ``MOST`` rows, in order, means over neighbouring steps where there are more."""

    @property
    def step(self) -> int:
        """The last logged step; 0 before the first."""
        return self._bins[-1].step if self._bins else 0

    def read(self) -> None:
        """Take in what is new.

        Raises:
            OSError: The file is there and cannot be read, or leads out of the run.
        """
        try:
            check_own(self._path, folder=self._run)
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._forget()
                    self._inode = status.st_ino
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            self._forget()
            return
        whole = added[: added.rfind(b"\n") + 1]
        if not whole:
            return
        self._offset += len(whole)
        for line in json_lines(whole.split(b"\n")):
            if line.values is not None:
                self._add(line.values)
        self.rows = [one.means for one in self._bins]

    def _add(self, row: Mapping[str, Any]) -> None:
        step = finite(row.get("step"))
        if step is None or step < self.step:
            return
        self.latest.append(row)
        sums = {key: number for key, value in row.items() if (number := finite(value)) is not None}
        one = _Bin(step=int(step), count=1, sums=sums, counts=dict.fromkeys(sums, 1))
        if self._bins and self._bins[-1].count < self._size:
            self._bins[-1].add(one)
            return
        self._bins.append(one)
        if len(self._bins) > MOST:
            for first, second in zip(self._bins[::2], self._bins[1::2], strict=False):
                first.add(second)
            self._bins = self._bins[::2]
            self._size *= 2


def mean_of(rows: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """Return the mean of a key over rows; None where none of them holds a number."""
    known = [value for row in rows if (value := finite(row.get(key))) is not None]
    return finite(sum(known) / len(known)) if known else None
