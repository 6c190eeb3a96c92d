"""Plain records that flow between the stages. Standard library only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

TargetKind = Literal["text", "attributes", "image"]
"""What a task asks for, by which metrics and rewards are chosen: a text of the item, a JSON object
of its attributes, or the prompt of an image."""
TARGET_KINDS: tuple[TargetKind, ...] = ("text", "attributes", "image")

RewardFn = Callable[..., list[float | None]]
"""A batch reward function, called with keyword arguments only.

It receives, for N well-formed completions of one batch, lists of length N: ``predictions`` (parsed
text), ``references`` (true text or None), ``more_references`` (lists of texts as right as that),
``completions`` (raw text), ``formats`` (see
``ParsedCompletion``), ``prompts``, ``tasks``, ``targets`` (``TargetKind``), ``item_ids``,
``categories``, ``image_paths`` (absolute path of the item's real image, or None), and every further
catalogue column under its own name. It returns N values; None means "cannot be scored". NaN,
infinity and exceptions are failures, handled by ``rewards.on_error``. A malformed completion never
reaches it: it gets the function's ``worst_score`` attribute, 0.0 if there is none.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRecord:
    """One catalogue item. A field that the catalogue does not know is None."""

    item_id: str
    """Unique in the catalogue."""
    category: str
    """Department; the stratum of every evaluation."""
    title: str | None
    """Seller's title."""
    description: str | None
    """Seller's description."""
    image: str | None
    """Path of the product image relative to the catalogue folder, with forward slashes."""
    images: Sequence[str] = ()
    """Paths of further images, in the same form."""
    titles: Sequence[str] = ()
    """Further titles that are as right as ``title``; none is shown."""
    descriptions: Sequence[str] = ()
    """Further descriptions that are as right as ``description``."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Known facts by kind, for instance ``{"type": "backpack", "color": "red"}``; empty where
    unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One row that was set aside, and why."""

    file: str
    """File the row came from, relative to the catalogue folder where possible."""
    row: int
    """1-based data row (the header of a CSV is not counted)."""
    item_id: str | None
    """Identifier, if it could be read."""
    reason: str
    """The content that stands there, the one expected, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCompletion:
    """A completion as the parser reads it."""

    prediction: str | None
    """The text under the task's key, stripped, or attributes as the text of a JSON object of texts;
    None when the completion is malformed."""
    format: str
    """``json`` (the whole completion is the object), ``embedded`` (fenced or inside other text),
    ``malformed``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Sampling options, one object for rollouts and evaluation."""

    max_tokens: int
    """Upper limit of new tokens."""
    temperature: float
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    seed: int = 0
    schema: str | None = None
    """JSON Schema, as text, that every completion is decoded by; None decodes freely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """One prompt of one item for one task, with everything needed to score its completions."""

    prompt_id: str
    """``{task}:{item_id}``."""
    item_id: str
    category: str
    task: str
    messages: list[dict[str, Any]]
    """Chat messages; image content is a placeholder, the picture itself is
    ``prompt_image_path``."""
    prompt_image_path: str | None
    """Absolute path of the image shown to the policy, or None for a text-only prompt."""
    more_image_paths: Sequence[str] = ()
    """Absolute paths of the images shown after it."""
    image_path: str | None
    """Absolute path of the item's real image (for scoring; never shown in text_to_image)."""
    reference: str | None
    """The true text; None where the task asks for an image, which is the reference then. Scoring
    only."""
    more_references: Sequence[str] = ()
    """Further texts that are as right."""
    title: str
    """The item's title, whatever the task."""
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def truth(self) -> str:
        """The text that is right: the reference; where an image is asked for, the title."""
        return self.title if self.reference is None else self.reference

    @property
    def shown_images(self) -> list[str]:
        """The absolute paths of all images shown to the policy, one for each placeholder."""
        return [] if self.prompt_image_path is None else [self.prompt_image_path, *self.more_image_paths]
