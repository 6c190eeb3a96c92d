"""A task as data: the fields shown, the field withheld, and the way the answer is read."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from grpo_mmpc.tasks import parser
from grpo_mmpc.tasks.schema import Property, as_answer, json_schema, read_object, true_object
from grpo_mmpc.types import ParsedCompletion, ProductRecord, SamplingConfig, TargetKind
from grpo_mmpc.utils.hashing import hex_digest

Source = Literal["images", "title", "description", "attributes", "category"]
Target = Literal["title", "description", "attributes", "image"]
_FOLDER = Path(__file__).parent / "shipped"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Names of tasks: they become keys, columns and folders."""


class Example(BaseModel):
    """A question and its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    shown: dict[str, str]
    """The texts of ``source``, by field."""
    answer: str
    """The completion, a JSON object."""


class Task(BaseModel):
    """A prompt, the field it withholds, and the parser of the answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(default="", exclude=True)
    """Its key in the recipe, or the name of its file."""
    source: Annotated[list[Source], Field(min_length=1)]
    """The fields that the policy sees: the image first, then texts in this order."""
    target: Target
    """The withheld field."""
    instruction: Annotated[str, Field(min_length=1)]
    """The prompt text; ``{language}`` and ``{keys}``, those of ``properties``, are filled in. Texts
    follow it, one on a line of its own, several each after its name."""
    language: Annotated[str, Field(min_length=1)] = "English"
    """The language of the answer, by its English name."""
    max_images: Annotated[int, Field(gt=0, le=16)] = 1
    """Images of the item that are shown: ``image``, then those of ``images``."""
    properties: dict[str, Property] = {}
    """The keys of an answer of attributes and what may stand under them, as in a JSON Schema."""
    examples: list[Example] = []
    """Questions with their answers, shown before the item; only for tasks without images."""
    max_tokens: Annotated[int, Field(gt=0)] = 128
    """New tokens of an answer at most, unless ``evaluation.max_tokens`` says otherwise."""

    @field_validator("source")
    @classmethod
    def _is_shown_once(cls, source: list[str]) -> list[str]:
        if twice := [name for name in source if source.count(name) > 1]:
            raise ValueError(f"{twice[0]} appears twice; name every field that is shown once")
        return source

    @model_validator(mode="before")
    @classmethod
    def _on_a_base(cls, content: Any) -> Any:
        """Complete a task by the shipped one that its key ``base`` names."""
        if not isinstance(content, dict) or "base" not in content:
            return content
        base = content["base"]
        if not isinstance(base, str) or base not in SHIPPED:
            raise ValueError(f"base: no shipped task {base!r}; known: {', '.join(SHIPPED)}")
        own = {name: value for name, value in content.items() if name != "base"}
        return SHIPPED[base].model_dump(exclude_defaults=True) | own

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if ("images" if self.target == "image" else self.target) in self.source:
            raise ValueError(f"source: {self.target} is the target; a prompt that shows it gives the answer away")
        if bool(self.properties) != (self.target == "attributes"):
            problem = "takes no properties" if self.properties else "needs properties, the keys of its answers"
            raise ValueError(f"target: {self.target} {problem}")
        if self.examples and self.shows_image:
            raise ValueError("examples: a task that shows images takes none; write the example into the instruction")
        for position, example in enumerate(self.examples):
            if self.parse(example.answer).format != "json":
                raise ValueError(f"examples.{position}.answer: {example.answer!r} is no valid answer of this task")
            self._content(example.shown)
        return self

    @property
    def kind(self) -> TargetKind:
        """What answers are, by which metrics and rewards are chosen."""
        return self.target if self.target in ("attributes", "image") else "text"

    @property
    def shows_image(self) -> bool:
        """True if the prompt holds the item's image."""
        return "images" in self.source

    @property
    def json_key(self) -> str:
        """The only key of the JSON object that a text is answered with."""
        return "prompt" if self.target == "image" else self.target

    def messages(self, *, num_images: int = 1, **texts: str | None) -> list[dict[str, Any]]:
        """Return the chat messages of one prompt, ready for any processor's chat template.

        Args:
            num_images: Of the item, where the task shows images.
            **texts: The texts shown, by field: those of ``source``, and no other, which might be
                the answer. None is a field that is not there.
        """
        given = {name: text for name, text in texts.items() if text is not None}
        turns = [
            {"role": role, "content": content}
            for example in self.examples
            for role, content in (
                ("user", self._content(example.shown)),
                ("assistant", [{"type": "text", "text": example.answer}]),
            )
        ]
        return [*turns, {"role": "user", "content": self._content(given, num_images=num_images)}]

    def _content(self, given: Mapping[str, str], *, num_images: int = 1) -> list[dict[str, Any]]:
        shown = [name for name in self.source if name != "images"]
        if extra := [name for name in given if name not in shown]:
            why = ": it is the reference" if extra[0] == self.target else ""
            raise ValueError(f"{self.name} must not show the {extra[0]}{why}")
        if missing := [name for name in shown if name not in given]:
            raise ValueError(f"{self.name} needs the {missing[0]} to complete from")
        lines = [given[name] if len(shown) == 1 else f"{name}: {given[name]}" for name in shown]
        text = {"type": "text", "text": "\n".join([self.prompt, *lines])}
        return [*({"type": "image", "text": None} for _ in range(num_images * self.shows_image)), text]

    @property
    def prompt(self) -> str:
        """The instruction with language and keys filled in."""
        return self.instruction.replace("{language}", self.language).replace("{keys}", ", ".join(self.properties))

    def shown(self, record: ProductRecord) -> dict[str, str | None]:
        """Return the texts of an item that the prompt shows, by field; None where it has none."""
        return {name: field_text(record, name) for name in self.source if name != "images"}

    def lacking(self, record: ProductRecord) -> list[str]:
        """Return the fields of ``source`` that an item does not have."""
        missing = [name for name, text in self.shown(record).items() if text is None]
        return [*["image"] * (self.shows_image and record.image is None), *missing]

    def has_gap(self, record: ProductRecord) -> bool:
        """Return whether an item lacks what the task asks for, or any of its attributes."""
        if self.target == "attributes":
            return bool(self.missing_keys(record.attributes))
        return getattr(record, self.target) is None

    def missing_keys(self, attributes: Mapping[str, str]) -> list[str]:
        """Return the keys of an answer that an item has no attribute of, in whatever case."""
        known = {kind.casefold() for kind in attributes}
        return [key for key in self.properties if key.casefold() not in known]

    def reference(self, record: ProductRecord) -> str | None:
        """Return an item's true answer; None where it has none, or where it is an image."""
        if self.target == "attributes":
            return true_object(record.attributes, properties=self.properties)
        return None if self.target == "image" else field_text(record, self.target)

    def more_references(self, record: ProductRecord) -> Sequence[str]:
        """Return an item's further true answers."""
        further = {"title": record.titles, "description": record.descriptions}.get(self.target, ())
        return () if self.reference(record) is None else further

    def is_complete(self, record: ProductRecord) -> bool:
        """Return whether an item has all that the task shows, and what scores the answer."""
        answer = record.image if self.target == "image" else self.reference(record)
        return answer is not None and not self.lacking(record)

    @property
    def version(self) -> str:
        """The hash of prompt text and parser: an answer under another one may be another answer."""
        answer = json.dumps(self.answer_schema) if self.properties else self.json_key
        asked = "\0".join([self.prompt, *(example.model_dump_json() for example in self.examples), answer, ""])
        return hex_digest(asked, Path(parser.__file__).read_bytes(), size=6)

    @property
    def answer_schema(self) -> dict[str, Any]:
        """The JSON Schema of valid answers."""
        if self.properties:
            return json_schema(self.properties)
        properties = {self.json_key: {"type": "string"}}
        return {"type": "object", "properties": properties, "required": [self.json_key], "additionalProperties": False}

    def greedy(self, max_tokens: Mapping[Any, int] | None = None, *, structured: bool = False) -> SamplingConfig:
        """Return greedy decoding, up to a limit of new tokens by task, or else the task's own.

        What is ``structured`` is decoded by the schema of answers.
        """
        limit = (max_tokens or {}).get(self.name, self.max_tokens)
        schema = json.dumps(self.answer_schema) if structured else None
        return SamplingConfig(max_tokens=limit, temperature=0.0, schema=schema)

    def parse(self, completion: str) -> ParsedCompletion:
        """Read the answer out of a completion; see ``parse_completion``."""
        if self.properties:
            return parser.parse_completion(completion, read=partial(read_object, properties=self.properties))
        return parser.parse_completion(completion, read=partial(parser.text_under, json_key=self.json_key))

    def answer(self, text: str) -> str:
        """Return the completion a perfect policy would give: ``{"title": "..."}``.

        Of attributes ``text`` is the object itself, as references are.
        """
        if self.properties:
            return as_answer(text, properties=self.properties)
        return json.dumps({self.json_key: text}, ensure_ascii=False)


def field_text(record: ProductRecord, name: str) -> str | None:
    """Return a field of an item as prompts show it; attributes as the text of a JSON object."""
    if name == "attributes":
        return json.dumps(dict(record.attributes), ensure_ascii=False) if record.attributes else None
    text: str | None = getattr(record, name)
    return text


def _shipped(name: str) -> Task:
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return Task(name=name, **content)


SHIPPED: dict[str, Task] = {path.stem: _shipped(path.stem) for path in sorted(_FOLDER.glob("*.yaml"))}
"""Every task that a recipe may name without a file."""
IMAGE_TO_TEXT, TEXT_TO_IMAGE = SHIPPED["image_to_text"], SHIPPED["text_to_image"]
TASKS: dict[str, Task] = {task.name: task for task in (IMAGE_TO_TEXT, TEXT_TO_IMAGE)}
"""The two tasks of MMPCBench by name."""
