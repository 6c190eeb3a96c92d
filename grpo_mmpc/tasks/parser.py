"""The parser of completions: the one that rewards and evaluation share."""

import json
import re
from collections.abc import Callable, Iterator
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


def parse_completion(completion: str, *, read: Callable[[Any], str | None]) -> ParsedCompletion:
    """Read the answer out of a completion.

    What the model thought before it answered is left out. The rest as a JSON object comes first,
    then the last object inside other text, a code fence or a tool call. An object that ``read``
    refuses is malformed, a wrong answer rather than an error.

    Args:
        completion: The sampled text, without special tokens.
        read: Returns the answer that a JSON value holds, None where it holds none.
    """
    prediction = read(_read(completion))  # first, for a title may speak of thinking
    if prediction is not None:
        return ParsedCompletion(prediction=prediction, format="json")
    text = _without_thoughts(completion)[-_MOST_CHARACTERS:]
    prediction = read(_read(text))
    if prediction is not None:
        return ParsedCompletion(prediction=prediction, format="json")
    answers = [answer for value in _objects(text) if (answer := read(_called(value))) is not None]
    if answers:
        return ParsedCompletion(prediction=answers[-1], format="embedded")
    return ParsedCompletion(prediction=None, format="malformed")


def text_under(value: Any, *, json_key: str) -> str | None:
    """Return the text of an object whose only key is ``json_key``; None where there is none."""
    if not isinstance(value, dict) or set(value) != {json_key} or not isinstance(value[json_key], str):
        return None
    return clean(value[json_key])


def clean(text: str) -> str | None:
    """Return a text of an answer without space around it; None where nothing is left."""
    # Half a surrogate pair is legal in JSON and nowhere else: no file and no tokenizer takes it.
    return text.encode("utf-8", "replace").decode("utf-8").strip() or None


def _without_thoughts(text: str) -> str:
    rest = _THOUGHT.sub(" ", text)
    return _END_OF_THOUGHT.split(rest)[-1]


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
