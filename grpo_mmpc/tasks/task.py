"""The two completion tasks: one prompt text for every model family, one parser for rewards and evaluation."""

import json
import re
from dataclasses import dataclass
from typing import Any

from grpo_mmpc.types import ParsedCompletion

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt, the field it withholds, and the parser of the answer."""

    name: str
    """``image_to_text`` or ``text_to_image``."""
    source_modality: str
    """The field the policy sees: ``image`` or ``title``."""
    target_modality: str
    """The withheld field: ``title`` or ``image``."""
    json_key: str
    """The only key of the JSON object the policy must answer with."""
    instruction: str
    """The prompt text. In text_to_image the title follows it on a line of its own."""
    max_completion_tokens: int
    """New tokens the official protocol allows."""

    def messages(self, *, title: str | None = None) -> list[dict[str, Any]]:
        """Chat messages of one prompt, ready for any processor's chat template.

        Args:
            title: The title shown to the policy; required in text_to_image, refused in
                image_to_text, where it is the answer.
        """
        if self.source_modality == "image":
            if title is not None:
                raise ValueError("image_to_text must not show the title: it is the reference")
            content = [{"type": "image", "text": None}, {"type": "text", "text": self.instruction}]
        else:
            if title is None:
                raise ValueError("text_to_image needs the title to complete from")
            content = [{"type": "text", "text": f"{self.instruction}\n{title}"}]
        return [{"role": "user", "content": content}]

    def parse(self, completion: str) -> ParsedCompletion:
        """Read the answer out of a completion.

        The whole completion as a JSON object comes first, then the last fenced block that holds
        one, then the first object found inside other text. The object must have the task's key as
        its only key and a non-empty string under it; anything else is malformed, a wrong answer
        rather than an error.
        """
        text = completion.strip()
        prediction = self._read_object(text)
        if prediction is not None:
            return ParsedCompletion(prediction=prediction, format="json")
        for candidate in [*reversed(_FENCE.findall(text)), *_embedded_objects(text)]:
            prediction = self._read_object(candidate.strip())
            if prediction is not None:
                return ParsedCompletion(prediction=prediction, format="embedded")
        return ParsedCompletion(prediction=None, format="malformed")

    def answer(self, text: str) -> str:
        """The completion a perfect policy would give: ``{"title": "..."}``."""
        return json.dumps({self.json_key: text}, ensure_ascii=False)

    def _read_object(self, text: str) -> str | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
            return None
        if not isinstance(value, dict) or set(value) != {self.json_key}:
            return None
        answer = value[self.json_key]
        if not isinstance(answer, str):
            return None
        # Half a surrogate pair is legal in JSON and nowhere else: no file and no tokenizer takes
        # it.
        return answer.encode("utf-8", "replace").decode("utf-8").strip() or None


def _embedded_objects(text: str) -> list[str]:
    """Every balanced JSON object that starts at a brace of the text, first to last."""
    decoder = json.JSONDecoder()
    found = []
    position = text.find("{")
    while position != -1:
        try:
            _, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position = text.find("{", position + 1)
            continue
        found.append(text[position:end])
        position = text.find("{", end)
    return found


IMAGE_TO_TEXT = Task(
    name="image_to_text",
    source_modality="image",
    target_modality="title",
    json_key="title",
    instruction=(
        "Write the title that a seller would give this product on Amazon. Use English only. Name the brand, the product "
        "type and every visible attribute such as colour, material, size and pack count. Answer with one JSON object and "
        'nothing else, for example {"title": "Acme Cotton Tote Bag, Striped Blue, Large, Pack of 2"}.'
    ),
    max_completion_tokens=128,
)

TEXT_TO_IMAGE = Task(
    name="text_to_image",
    source_modality="title",
    target_modality="image",
    json_key="prompt",
    instruction=(
        "Write a prompt for a text-to-image model that draws the product with this title as a catalogue photo. Use English "
        "only and at most 77 tokens. Keep the product type and every attribute of the title. Answer with one JSON object "
        'and nothing else, for example {"prompt": "catalogue photo of a large blue striped cotton tote bag, pack of 2"}. '
        "The title:"
    ),
    max_completion_tokens=256,
)

TASKS: dict[str, Task] = {task.name: task for task in (IMAGE_TO_TEXT, TEXT_TO_IMAGE)}
"""Every task by name."""
