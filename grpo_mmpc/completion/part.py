"""One part of a completion: its gaps in, one file of answers out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from grpo_mmpc.completion.plan import PARTS, Gap, gaps_file, part_name
from grpo_mmpc.completion.proposal import Source
from grpo_mmpc.evaluation.completions import COMPLETIONS_FILE
from grpo_mmpc.rendering.store import is_whole
from grpo_mmpc.utils.files import check_inside, json_lines, open_own, read_own, remove_partial, write_json_lines
from grpo_mmpc.utils.hashing import file_digest, hex_digest
from grpo_mmpc.utils.locks import hold

GENERATED = "images/generated"
"""Folder of rendered images, inside the completed catalogue: one folder a part."""
NOT_COMPLETED = "not completed"
"""The reason of a gap that is asked again at the next start: the engine did not take it."""
_ANSWERS = "answers.jsonl"
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a gap; a line of a part's file."""

    item_id: str
    field: str
    key: str
    """The hash of all that the policy's answer depends on; empty if it was not asked."""
    answer: str | None
    """The policy's: the text or object, or the prompt of the image. None if it gave none."""
    value: str | None
    """As that of a ``Proposal``."""
    reason: str = ""
    """The reason why there is none."""
    detail: str = ""
    samples: Sequence[str | None] = ()
    """Further answers of the policy, at temperature 1; None is a malformed one."""
    source: Source = "model"
    source_item: str | None = None
    doubt: str = ""
    """See ``Beside``; of what the catalogue itself gave."""


class Gaps(NamedTuple):
    """The gaps of a part, and the hash of the file that they were read from."""

    gaps: list[Gap]
    digest: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a completion, and its files in the output folder."""

    out: Path
    number: int
    count: int

    @property
    def name(self) -> str:
        """The name of its files and folders."""
        return part_name(self.number, self.count)

    @property
    def folder(self) -> Path:
        """The folder of its answers, and of the completions so far while it is worked on."""
        return self.out / PARTS / self.name

    @property
    def images(self) -> Path:
        """The folder of the images that were rendered for it."""
        return self.out / GENERATED / self.name

    @property
    def log(self) -> Path:
        """The file of the completions so far while it is worked on."""
        return self.folder / COMPLETIONS_FILE

    @property
    def lock(self) -> Path:
        """The lock of who works on it."""
        return self.folder / ".lock"

    def gaps(self) -> Gaps:
        """Read its gaps, in the catalogue's order."""
        content = read_own(gaps_file(self.out, self.name), folder=self.out)
        return Gaps(
            [Gap.from_json(line.values or {}) for line in json_lines(content.splitlines())], hex_digest(content)
        )

    def progress(self) -> tuple[int, int]:
        """Return its gaps, and how many of them are completed while it is worked on."""
        return _lines(gaps_file(self.out, self.name)), _lines(self.log)

    def stamp(self) -> int:
        """Return when its answers were written, in nanoseconds; 0 without any."""
        with suppress(FileNotFoundError):
            return (self.folder / _ANSWERS).stat().st_mtime_ns
        return 0

    def check(self) -> None:
        """Refuse folders that lead out of the completion's, in which files are written and removed.

        Raises:
            OSError: Says which and where.
        """
        for folder in (self.folder, self.images):
            check_inside(folder, folder=self.out)

    def alone(self) -> AbstractContextManager[str]:
        """Wait until no other process works on it, and keep others out.

        Raises:
            OSError: A folder of its own leads elsewhere.
        """
        self.check()
        return hold(self.lock, refuse=None)

    def is_there(self) -> bool:
        """Return whether it holds an answer to every gap of the plan, be it that there is none."""
        return self._head().get("gaps") == file_digest(gaps_file(self.out, self.name))

    def is_done(self) -> bool:
        """Return whether nothing is left to do: all answers are there, and all images whole."""
        if not self.is_there() or self._head()[NOT_COMPLETED] or self.log.exists():
            return False
        images = (line.value for line in self.answers() if line.field == "image" and line.value is not None)
        return all(is_whole(self.out / image) for image in images)

    def answers(self) -> Iterator[Answer]:
        """Read its answers in the order of the gaps, a few at a time; none where it has no file."""
        offset = 0
        # A merge reads all parts at once, more of them than a process may have files open.
        while lines := self._block(offset):
            yield from (Answer(**json.loads(line)) for line in lines[offset == 0 :])
            offset += sum(map(len, lines))

    def _block(self, offset: int) -> list[bytes]:
        with suppress(FileNotFoundError), open_own(self.folder / _ANSWERS, folder=self.out) as file:
            file.seek(offset)
            return file.readlines(_BLOCK_BYTES)
        return []

    def _head(self) -> Mapping[str, Any]:
        with suppress(FileNotFoundError), open_own(self.folder / _ANSWERS, folder=self.out) as file:
            return dict(json.loads(file.readline()))
        return {}

    def write(self, answers: Sequence[Answer], *, gaps: str) -> None:
        """Write the answers to all gaps, in their order; the part is there when this returns.

        Args:
            answers: One for each gap.
            gaps: ``Gaps.digest`` of what they answer.
        """
        head = {"gaps": gaps, NOT_COMPLETED: sum(answer.reason == NOT_COMPLETED for answer in answers)}
        write_json_lines(self.folder / _ANSWERS, [head, *map(asdict, answers)], sync=True)
        self.log.unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what killed workers have left; only for who works on it alone."""
        remove_partial(self.folder)
        remove_partial(self.images)

    def former(self) -> "list[Part]":
        """Return the parts of other plans in this folder that may hold answers of its items."""
        others = (Part(self.out, *map(int, path.name.split("-of-"))) for path in self.folder.parent.glob("*-of-*"))
        # Counts are powers of two, so that the larger one is a multiple of the smaller.
        return [
            other
            for other in sorted(others, key=lambda other: other.name)
            if other.count != self.count and (other.number - self.number) % min(other.count, self.count) == 0
        ]


def parts_of(out: Path, count: int) -> list[Part]:
    """Return all parts of a plan."""
    return [Part(out, number, count) for number in range(count)]


def _lines(path: Path) -> int:
    with suppress(FileNotFoundError), open_own(path) as file:
        return sum(1 for _ in file)
    return 0
