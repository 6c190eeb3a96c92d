"""The parser of completions: the one that rewards and evaluation share."""

import json
import re
from collections.abc import Iterator
from typing import Any

from grpo_mmpc.types import ParsedCompletion

# What models think before they answer: Qwen and DeepSeek; Claude's and others' longer words;
# Mistral; gpt-oss and Gemma, whose channels end with a mark of their own; Kimi.
_THOUGHT = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)"
    r"|\[THINK\].*?(?:\[/THINK\]|\Z)"
    r"|<\|?channel\|?>\s*(?:analysis|commentary|thought)\b.*?(?:<\|end\|>|<channel\|>|\Z)"
    r"|◁think▷.*?(?:◁/think▷|\Z)",
    re.DOTALL | re.IGNORECASE,
)
# The prompt of some models already holds the opening mark.
_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_MOST_CHARACTERS = 50_000
"""From the end, where the last object is; a text without end must not take time without end."""
_ARGUMENTS = ("arguments", "parameters")
"""Hold the answer where a model writes it as a call of a tool."""


def parse_completion(completion: str, *, json_key: str) -> ParsedCompletion:
    """Read the answer out of a completion.

    What the model thought before it answered is left out. The rest as a JSON object comes first,
    then the last object inside other text, a code fence or a tool call. The object must have
    ``json_key`` as its only key and a non-empty string under it; anything else is malformed, a
    wrong answer rather than an error.

    Args:
        completion: The sampled text, without special tokens.
        json_key: The only key of the expected object: ``title`` or ``prompt``.
    """
    prediction = _answer(_read(completion), json_key)  # first, for a title may speak of thinking
    if prediction is not None:
        return ParsedCompletion(prediction=prediction, format="json")
    text = _without_thoughts(completion)[-_MOST_CHARACTERS:]
    prediction = _answer(_read(text), json_key)
    if prediction is not None:
        return ParsedCompletion(prediction=prediction, format="json")
    answers = [answer for value in _objects(text) if (answer := _answer(_called(value), json_key)) is not None]
    if answers:
        return ParsedCompletion(prediction=answers[-1], format="embedded")
    return ParsedCompletion(prediction=None, format="malformed")


def _without_thoughts(text: str) -> str:
    rest = _THOUGHT.sub(" ", text)
    return _END_OF_THOUGHT.split(rest)[-1]


def _answer(value: Any, json_key: str) -> str | None:
    if not isinstance(value, dict) or set(value) != {json_key} or not isinstance(value[json_key], str):
        return None
    # Half a surrogate pair is legal in JSON and nowhere else: no file and no tokenizer takes it.
    return value[json_key].encode("utf-8", "replace").decode("utf-8").strip() or None


def _called(value: dict[str, Any]) -> Any:
    """Return the arguments of a tool call, which some models write as text; others as they are."""
    if isinstance(value.get("function"), dict):
        value = value["function"]
    for name in _ARGUMENTS:
        if name in value:
            return _read(value[name]) if isinstance(value[name], str) else value[name]
    return value


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield every JSON object that starts at a brace of the text and is not inside another."""
    decoder = json.JSONDecoder()
    position = text.find("{")
    while position != -1:
        try:
            value, position = decoder.raw_decode(text, position)
            yield value
        except (ValueError, RecursionError):
            position += 1
        position = text.find("{", position)
