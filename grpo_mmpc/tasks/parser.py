"""The parser of completions: the one that rewards and evaluation share."""

import json
import re

from grpo_mmpc.types import ParsedCompletion

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)


def parse_completion(completion: str, *, json_key: str) -> ParsedCompletion:
    """Read the answer out of a completion.

    The whole completion as a JSON object comes first, then the last fenced block that holds one,
    then the first object found inside other text. The object must have ``json_key`` as its only key
    and a non-empty string under it; anything else is malformed, a wrong answer rather than an
    error.

    Args:
        completion: The sampled text, without special tokens.
        json_key: The only key of the expected object: ``title`` or ``prompt``.
    """
    text = completion.strip()
    prediction = _read_object(text, json_key)
    if prediction is not None:
        return ParsedCompletion(prediction=prediction, format="json")
    for candidate in [*reversed(_FENCE.findall(text)), *_embedded_objects(text)]:
        prediction = _read_object(candidate.strip(), json_key)
        if prediction is not None:
            return ParsedCompletion(prediction=prediction, format="embedded")
    return ParsedCompletion(prediction=None, format="malformed")


def _read_object(text: str, json_key: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return None
    if not isinstance(value, dict) or set(value) != {json_key}:
        return None
    answer = value[json_key]
    if not isinstance(answer, str):
        return None
    # Half a surrogate pair is legal in JSON and nowhere else: no file and no tokenizer takes it.
    return answer.encode("utf-8", "replace").decode("utf-8").strip() or None


def _embedded_objects(text: str) -> list[str]:
    """Return every balanced JSON object that starts at a brace of the text, first to last."""
    decoder = json.JSONDecoder()
    objects = []
    position = text.find("{")
    while position != -1:
        try:
            _, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position = text.find("{", position + 1)
            continue
        objects.append(text[position:end])
        position = text.find("{", end)
    return objects
