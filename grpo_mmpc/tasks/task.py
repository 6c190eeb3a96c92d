"""The two completion tasks: which field is shown, which is withheld, and how the answer is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.tasks import parser, prompts
from grpo_mmpc.types import ParsedCompletion, SamplingConfig
from grpo_mmpc.utils.hashing import hex_digest


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
        """Return the chat messages of one prompt, ready for any processor's chat template.

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

    @property
    def version(self) -> str:
        """The hash of prompt text and parser: an answer under another one may be another answer."""
        return hex_digest(f"{self.instruction}\0{self.json_key}\0", Path(parser.__file__).read_bytes(), size=6)

    def greedy(self, max_tokens: Mapping[Any, int] | None = None) -> SamplingConfig:
        """Return greedy decoding, up to a limit of new tokens by task, or else the task's own."""
        return SamplingConfig(max_tokens=(max_tokens or {}).get(self.name, self.max_completion_tokens), temperature=0.0)

    def parse(self, completion: str) -> ParsedCompletion:
        """Read the answer out of a completion; see ``parse_completion``."""
        return parser.parse_completion(completion, json_key=self.json_key)

    def answer(self, text: str) -> str:
        """Return the completion a perfect policy would give: ``{"title": "..."}``."""
        return json.dumps({self.json_key: text}, ensure_ascii=False)


IMAGE_TO_TEXT = Task(
    name="image_to_text",
    source_modality="image",
    target_modality="title",
    json_key="title",
    instruction=prompts.IMAGE_TO_TEXT,
    max_completion_tokens=128,
)

TEXT_TO_IMAGE = Task(
    name="text_to_image",
    source_modality="title",
    target_modality="image",
    json_key="prompt",
    instruction=prompts.TEXT_TO_IMAGE,
    max_completion_tokens=256,
)

TASKS: dict[str, Task] = {task.name: task for task in (IMAGE_TO_TEXT, TEXT_TO_IMAGE)}
"""Every task by name."""
