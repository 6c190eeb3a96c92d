"""Answers that are JSON objects, by the ``properties`` of a JSON Schema.

Every key may be left out or null: the answer abstains from it then.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grpo_mmpc.tasks.parser import clean


class Property(BaseModel):
    """What may stand under one key, in the words of JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["string", "number", "integer"] = "string"
    enum: Annotated[list[str], Field(min_length=1)] | None = None
    """The only texts that are valid; null takes any."""
    description: str = ""
    """What the key means, for people and for engines that decode by the schema."""

    @model_validator(mode="after")
    def _lists_texts(self) -> Self:
        if self.enum is not None and self.type != "string":
            raise ValueError(f"enum lists texts, and type is {self.type}; leave one of them out")
        return self

    def read(self, value: Any) -> str | None:
        """Return a valid value as text, as catalogues hold it, empty for null.

        None is an invalid one.
        """
        if value is None:
            return ""
        if self.type == "string":
            text = (clean(value) or "") if isinstance(value, str) else None
            return text if not text or text in (self.enum or [text]) else None
        is_number = isinstance(value, int if self.type == "integer" else int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            return None
        return str(int(value) if value == int(value) else value)


def read_object(value: Any, *, properties: Mapping[str, Property]) -> str | None:
    """Return a valid object as the text of one of texts, without the keys that it abstains from.

    None is an invalid one: another key, or a value of another type.
    """
    if not isinstance(value, dict) or not set(value) <= set(properties):
        return None
    texts = {key: one.read(value[key]) for key, one in properties.items() if key in value}
    return None if None in texts.values() else _object(texts)


def true_object(attributes: Mapping[str, str], *, properties: Mapping[str, Property]) -> str | None:
    """Return what an item's attributes say of the keys, as ``read_object`` does; None if nothing.

    A value that is not in ``enum`` cannot be answered, and is left out.
    """
    known = {key: attributes[key] for key in properties if key in attributes}
    stated = {key: text for key, text in known.items() if text in (properties[key].enum or [text])}
    return _object(stated) if stated else None


def as_answer(text: str, *, properties: Mapping[str, Property]) -> str:
    """Return an object of texts with the types of its values; other text as it is."""
    try:
        texts = json.loads(text)
        answer = {key: one if properties[key].type == "string" else json.loads(one) for key, one in texts.items()}
    except (ValueError, AttributeError, KeyError):
        return text
    return json.dumps(answer, ensure_ascii=False)


def json_schema(properties: Mapping[str, Property]) -> dict[str, Any]:
    """Return the JSON Schema of valid answers."""
    return {
        "type": "object",
        "properties": {
            key: ({"enum": [*one.enum, None]} if one.enum else {"type": [one.type, "null"]})
            | ({"description": one.description} if one.description else {})
            for key, one in properties.items()
        },
        "additionalProperties": False,
    }


def _object(texts: Mapping[str, str | None]) -> str:
    return json.dumps({key: text for key, text in texts.items() if text}, ensure_ascii=False)
