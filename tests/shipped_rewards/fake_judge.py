"""The network's edge of a server with a language model that judges."""

import json
from collections.abc import Callable
from typing import Any

from tests.rendering.fake_images_server import FakeImages


class FakeJudge(FakeImages):
    """A server of chat completions that gives every criterion the same score, from the body."""

    route = "/v1/chat/completions"

    def __init__(self, score: Callable[[dict[str, Any]], Any] = lambda body: 4) -> None:
        super().__init__()
        self.score = score

    def reply(self, body: dict[str, Any]) -> Any:
        criteria = body["response_format"]["json_schema"]["schema"]["required"]
        return completion(json.dumps(dict.fromkeys(criteria, self.score(body))))


def completion(text: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}]}


def judged_text(body: dict[str, Any]) -> str:
    """The text that a body asks about."""
    content = body["messages"][-1]["content"]
    question = content if isinstance(content, str) else content[-1]["text"]
    text: str = json.loads(question.rpartition("to be judged: ")[2])
    return text
