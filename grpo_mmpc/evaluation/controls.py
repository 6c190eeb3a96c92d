"""Controls: baselines and ablated inputs that are evaluated beside a policy."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.tasks import SHIPPED, Task
from grpo_mmpc.tasks.task import Source
from grpo_mmpc.types import PromptRow, SamplingConfig, TargetKind
from grpo_mmpc.utils.files import replace_atomically
from grpo_mmpc.utils.hashing import digest_of, stable_order

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from grpo_mmpc.evaluation.scorers import Scorers

MAX_POOL = 20_000
"""Training items that retrieval looks at, chosen by stable hash: each costs one encoding."""
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Control:
    """One control."""

    name: str
    label: str
    """For tables."""
    _: KW_ONLY
    targets: tuple[TargetKind, ...]
    """The answers that it stands beside."""
    shows: Source | None = None
    """The field that prompts must show; None = any."""
    needs: str | None = None
    """Scorer it cannot do without: ``sentence``, ``clip`` or ``renderer``."""
    asks_policy: bool = False
    """True if it is a policy with changed prompts; the others are the same whatever the policy."""

    def suits(self, task: Task) -> bool:
        """Return whether it can stand beside a task."""
        is_known = self.name != "sibling_title" or task.target == "title"
        return is_known and task.kind in self.targets and self.shows in (None, *task.source)


_TEXT: tuple[TargetKind, ...] = ("text",)
_IMAGE: tuple[TargetKind, ...] = ("image",)
CONTROLS = {
    control.name: control
    for control in (
        # The training title nearest to the mean of its category: knows the department only.
        Control("category_title", "category title", targets=_TEXT, needs="sentence"),
        # The title of another evaluated item of the category: knows the style, not the item.
        Control("other_title", "another item's title", targets=_TEXT),
        # The title of the training item with the most similar image: retrieval instead of a model.
        Control("nearest_title", "nearest image's title", targets=_TEXT, shows="images", needs="clip"),
        # The title of a variant or of an item with the same image, in words of this item; where the
        # catalogue has none, the same retrieval.
        Control("sibling_title", "variant's title, else nearest image's", targets=_TEXT, shows="images", needs="clip"),
        # The policy, shown a white image, and shown the image of another item.
        Control("blank_image", "policy, blank image", targets=_TEXT, shows="images", asks_policy=True),
        Control("shuffled_image", "policy, wrong image", targets=_TEXT, shows="images", asks_policy=True),
        # The title itself as image prompt: the worth of the policy's prompt.
        Control("raw_title", "title as prompt", targets=_IMAGE, shows="title", needs="renderer"),
        # The image of the training item with the most similar title.
        Control("nearest_image", "nearest title's image", targets=_IMAGE, shows="title", needs="sentence"),
    )
}


class NoTitleBesideError(EvaluationError):
    """A catalogue without variants, which ``sibling_title`` has nothing to say of."""


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """An ``Engine`` whose answers are known beforehand."""

    predictions: Mapping[str, str]
    """By prompt."""
    tasks: Mapping[str, Task]
    rows_at_once: int = 1 << 20

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        """See ``Engine.generate``."""
        return [self.tasks[row.task].answer(self.predictions[row.prompt_id]) for row in rows]


@dataclass(frozen=True, slots=True)
class CatalogueImages:
    """A ``Renderer`` that looks a title's image up."""

    paths: Mapping[str, str]
    """Path by title."""

    def render(self, prompts: list[str], *, seeds: list[int]) -> "list[Image | None]":
        """See ``Renderer.render``; seeds do not matter."""
        return [open_image(self.paths[prompt]) for prompt in prompts]

    def fingerprint(self) -> str:
        """Return the hash of all images: one that was replaced is looked up again."""
        parts = (part for title in sorted(self.paths) for part in (title, Path(self.paths[title]).read_bytes()))
        return digest_of(parts, size=8).hex()


def known_answers(
    name: str,
    rows: Sequence[PromptRow],
    *,
    pool: Callable[[str], Sequence[PromptRow]],
    beside: Callable[[Sequence[PromptRow]], Mapping[str, str]],
    scorers: "Scorers",
    known_tasks: Mapping[str, Task] = SHIPPED,
) -> tuple[KnownAnswers, "Scorers"]:
    """Return the answers of a control that asks no policy, and the scorers to use with it.

    Args:
        name: The control.
        rows: The evaluated prompts of the tasks that it suits.
        pool: Gives those of a task's training items, at most ``MAX_POOL``.
        beside: Gives, by item, the titles that the rest of the catalogue has for items.
        scorers: Those of the recipe.
        known_tasks: By name.

    Raises:
        EvaluationError: The scorer that the control needs is missing; says which.
        NoTitleBesideError: The catalogue has no title beside.
    """
    needed = CONTROLS[name].needs
    if needed is not None and getattr(scorers, needed) is None:
        raise EvaluationError(f"control {name} needs {needed}: {scorers.missing.get(needed, 'not loaded')}")
    texts: dict[str, str] = {}
    images: dict[str, str] = {}
    for task, mine in _by_task(rows).items():
        if name == "raw_title":
            answers = [row.title for row in mine]
        elif name == "other_title":
            answers = [other.truth for other in another_row(mine)]
        elif name == "category_title":
            typical = _typical_texts(pool(task), scorers)
            answers = [typical.get(row.category, typical[""]) for row in mine]
        elif name == "nearest_image":
            near = _nearest(mine, pool(task), scorers.sentence.encode, lambda row: row.title)
            images |= {one.title: str(one.image_path) for one in near}
            answers = [one.title for one in near]
        else:
            titles = beside(mine) if name == "sibling_title" else {}
            if name == "sibling_title" and not titles:
                raise NoTitleBesideError(
                    f"control {name}: no evaluated item has a variant, or an equal image, with a title"
                )
            near = _nearest(mine, pool(task), scorers.clip.embed_images, lambda row: str(row.image_path))
            answers = [titles.get(row.item_id, one.truth) for row, one in zip(mine, near, strict=True)]
        texts |= {row.prompt_id: answer for row, answer in zip(mine, answers, strict=True)}
    if images:
        renderer = CatalogueImages(images)
        scorers = replace(scorers, renderer=renderer, renderer_identity=f"{name} {renderer.fingerprint()}")
    return KnownAnswers(texts, known_tasks), scorers


def _by_task(rows: Sequence[PromptRow]) -> dict[str, list[PromptRow]]:
    tasks: dict[str, list[PromptRow]] = defaultdict(list)
    for row in rows:
        tasks[row.task].append(row)
    return tasks


def changed_rows(name: str, rows: Sequence[PromptRow], *, folder: Path) -> list[PromptRow]:
    """Return the prompts of ``blank_image`` or ``shuffled_image``: the right item, a wrong image.

    ``folder`` receives the white images.
    """
    if name == "shuffled_image":
        others = another_row(rows)
        return [
            _showing(row, islice(cycle(other.shown_images), len(row.shown_images)))
            for row, other in zip(rows, others, strict=True)
        ]
    from PIL import Image  # heavy: imported on use

    def blank(image: str) -> str:
        # Of the same size: another one would change the number of image tokens as well.
        size = open_image(image).size
        path = folder.resolve() / f"blank-{size[0]}x{size[1]}.png"
        if not path.is_file():
            with replace_atomically(path) as temporary:  # several ranks may be drawing the same one
                Image.new("RGB", size, "white").save(temporary, format="PNG")
        return str(path)

    return [_showing(row, map(blank, row.shown_images)) for row in rows]


def _showing(row: PromptRow, images: Iterable[str]) -> PromptRow:
    first, *more = images
    return replace(row, prompt_image_path=first, more_image_paths=more)


def another_row(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Return another row for each: the next of its category in a stable shuffle, else of all.

    It is of the same task.
    """
    if len(tasks := _by_task(rows)) > 1:
        others = {
            row.prompt_id: other for mine in tasks.values() for row, other in zip(mine, another_row(mine), strict=True)
        }
        return [others[row.prompt_id] for row in rows]
    by_category: dict[str, list[int]] = defaultdict(list)
    everything = stable_order([row.item_id for row in rows], salt="another")
    for position in everything:
        by_category[rows[position].category].append(position)
    next_of = dict(zip(everything, [*everything[1:], *everything[:1]], strict=True))
    for positions in by_category.values():
        if len(positions) > 1:
            next_of |= dict(zip(positions, [*positions[1:], *positions[:1]], strict=True))
    return [rows[next_of[i]] for i in range(len(rows))]


def _typical_texts(pool: Sequence[PromptRow], scorers: "Scorers") -> dict[str, str]:
    embeddings = scorers.sentence.encode([row.truth for row in pool])  # [N, D]
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(pool):
        groups[row.category].append(i)
        groups[""].append(i)
    typical = {}
    for category, members in groups.items():
        inside = embeddings[members]
        typical[category] = pool[members[int((inside @ inside.mean(dim=0)).argmax())]].truth
    return typical


def _nearest(
    rows: Sequence[PromptRow],
    pool: Sequence[PromptRow],
    encode: Callable[[list[str]], "torch.Tensor"],
    content: Callable[[PromptRow], str],
) -> list[PromptRow]:
    import torch  # heavy: imported on use

    queries, keys = (torch.nan_to_num(encode([content(row) for row in side])) for side in (rows, pool))
    blocks = [queries[start : start + _BLOCK] for start in range(0, len(queries), _BLOCK)]
    return [pool[int(i)] for block in blocks for i in (block @ keys.T).argmax(dim=1)]
