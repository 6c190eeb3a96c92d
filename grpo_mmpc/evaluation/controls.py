"""Controls: baselines and ablated inputs that are evaluated beside a policy."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.encoders.images import open_image
from grpo_mmpc.errors import EvaluationError
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import PromptRow, SamplingConfig
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
    task: str
    label: str
    """For tables."""
    _: KW_ONLY
    needs: str | None = None
    """Scorer it cannot do without: ``sentence``, ``clip`` or ``renderer``."""
    asks_policy: bool = False
    """True if it is a policy with changed prompts; the others are the same whatever the policy."""


CONTROLS = {
    control.name: control
    for control in (
        # The training title nearest to the mean of its category: knows the department only.
        Control("category_title", "image_to_text", "category title", needs="sentence"),
        # The title of another evaluated item of the category: knows the style, not the item.
        Control("other_title", "image_to_text", "another item's title"),
        # The title of the training item with the most similar image: retrieval instead of a model.
        Control("nearest_title", "image_to_text", "nearest image's title", needs="clip"),
        # The title of a variant or of an item with the same image, in words of this item; where the
        # catalogue has none, the same retrieval.
        Control("sibling_title", "image_to_text", "variant's title, else nearest image's", needs="clip"),
        # The policy, shown a white image, and shown the image of another item.
        Control("blank_image", "image_to_text", "policy, blank image", asks_policy=True),
        Control("shuffled_image", "image_to_text", "policy, wrong image", asks_policy=True),
        # The title itself as image prompt: the worth of the policy's prompt.
        Control("raw_title", "text_to_image", "title as prompt", needs="renderer"),
        # The image of the training item with the most similar title.
        Control("nearest_image", "text_to_image", "nearest title's image", needs="sentence"),
    )
}


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """An ``Engine`` whose answers are known beforehand."""

    predictions: Mapping[str, str]
    """By item."""
    rows_at_once: int = 1 << 20

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        """See ``Engine.generate``."""
        return [TASKS[row.task].answer(self.predictions[row.item_id]) for row in rows]


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
    pool: Callable[[], Sequence[PromptRow]],
    beside: Callable[[Sequence[PromptRow]], Mapping[str, str]],
    scorers: "Scorers",
) -> tuple[KnownAnswers, "Scorers"]:
    """Return the answers of a control that asks no policy, and the scorers to use with it.

    Args:
        name: The control.
        rows: The evaluated prompts of its task.
        pool: Gives those of its training items, at most ``MAX_POOL``.
        beside: Gives, by item, the titles that the rest of the catalogue has for items.
        scorers: Those of the recipe.

    Raises:
        EvaluationError: The scorer that the control needs is missing, or the catalogue has no title
            beside; says which.
    """
    needed = CONTROLS[name].needs
    if needed is not None and getattr(scorers, needed) is None:
        raise EvaluationError(f"control {name} needs {needed}: {scorers.missing.get(needed, 'not loaded')}")
    if name == "raw_title":
        return KnownAnswers({row.item_id: row.title for row in rows}), scorers
    if name == "other_title":
        return KnownAnswers(
            {row.item_id: other.title for row, other in zip(rows, another_row(rows), strict=True)}
        ), scorers
    if name == "category_title":
        typical = _typical_titles(pool(), scorers)
        return KnownAnswers({row.item_id: typical.get(row.category, typical[""]) for row in rows}), scorers
    if name in ("nearest_title", "sibling_title"):
        titles = beside(rows) if name == "sibling_title" else {}
        if name == "sibling_title" and not titles:
            raise EvaluationError(f"control {name}: no evaluated item has a variant, or an equal image, with a title")
        near = _nearest(rows, pool(), scorers.clip.embed_images, lambda row: str(row.image_path))
        return KnownAnswers(
            {row.item_id: titles.get(row.item_id, one.title) for row, one in zip(rows, near, strict=True)}
        ), scorers
    near = _nearest(rows, pool(), scorers.sentence.encode, lambda row: row.title)
    images = CatalogueImages({one.title: str(one.image_path) for one in near})
    answers = KnownAnswers({row.item_id: one.title for row, one in zip(rows, near, strict=True)})
    return answers, replace(scorers, renderer=images, renderer_identity=f"{name} {images.fingerprint()}")


def changed_rows(name: str, rows: Sequence[PromptRow], *, folder: Path) -> list[PromptRow]:
    """Return the prompts of ``blank_image`` or ``shuffled_image``: the right item, a wrong image.

    ``folder`` receives the white images.
    """
    if name == "shuffled_image":
        others = another_row(rows)
        return [replace(row, prompt_image_path=o.prompt_image_path) for row, o in zip(rows, others, strict=True)]
    from PIL import Image  # heavy: imported on use

    changed = []
    for row in rows:
        # Of the same size: another one would change the number of image tokens as well.
        size = open_image(str(row.prompt_image_path)).size
        path = folder.resolve() / f"blank-{size[0]}x{size[1]}.png"
        if not path.is_file():
            with replace_atomically(path) as temporary:  # several ranks may be drawing the same one
                Image.new("RGB", size, "white").save(temporary, format="PNG")
        changed.append(replace(row, prompt_image_path=str(path)))
    return changed


def another_row(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Return another row for each: the next of its category in a stable shuffle, else of all."""
    by_category: dict[str, list[int]] = defaultdict(list)
    everything = stable_order([row.item_id for row in rows], salt="another")
    for position in everything:
        by_category[rows[position].category].append(position)
    next_of = dict(zip(everything, [*everything[1:], *everything[:1]], strict=True))
    for positions in by_category.values():
        if len(positions) > 1:
            next_of |= dict(zip(positions, [*positions[1:], *positions[:1]], strict=True))
    return [rows[next_of[i]] for i in range(len(rows))]


def _typical_titles(pool: Sequence[PromptRow], scorers: "Scorers") -> dict[str, str]:
    embeddings = scorers.sentence.encode([row.title for row in pool])  # [N, D]
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(pool):
        groups[row.category].append(i)
        groups[""].append(i)
    typical = {}
    for category, members in groups.items():
        inside = embeddings[members]
        typical[category] = pool[members[int((inside @ inside.mean(dim=0)).argmax())]].title
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
