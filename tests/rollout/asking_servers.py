"""A few prompts to fake servers, and the completions that are due."""

import time
from typing import Any

from PIL import Image

from grpo_mmpc.models.adapter import Adapter
from grpo_mmpc.rollout.vllm.protocol import Prompt
from grpo_mmpc.rollout.vllm.server_facts import ExpectedEngine
from grpo_mmpc.rollout.vllm.servers import ServerVLLM
from grpo_mmpc.types import SamplingConfig
from tests.rollout.fake_vllm_server import FakeVLLM

EXPECTED = ExpectedEngine(
    model="base",
    model_identity="aaaa",
    lora_rank=8,
    processor_kwargs={"max_pixels": 7056},
    context_tokens=100,
    structured=True,
)
ADAPTER = Adapter(name="policy-1", config=b'{"r": 8}', weights=b"tensors")
SAMPLED = SamplingConfig(max_tokens=5, temperature=0.7, top_p=0.9, top_k=40)


def connect(*servers: FakeVLLM, timeout: float = 5.0, **options: Any) -> ServerVLLM:
    return ServerVLLM([server.url for server in servers], expected=EXPECTED, timeout=timeout, **options)


def asking(number: int, *, count: int = 2, image: Image.Image | None = None) -> Prompt:
    """A prompt whose ids are [1, number] and whose completions start with token ``number``."""
    content: list[dict[str, Any]] = [{"type": "text", "text": f"1 {number}"}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image, "text": None})
    return Prompt(token_ids=[1, number], conversation=[{"role": "user", "content": content}], count=count, seed=number)


def tokens(engine: ServerVLLM, num_prompts: int, *, adapter: str | None = None) -> list[list[list[int]]]:
    outputs = engine.generate([asking(i) for i in range(num_prompts)], SAMPLED, adapter=adapter)
    return [[completion.token_ids for completion in output.completions] for output in outputs]


def wait_for_all(fakes: list[FakeVLLM], chats: int, _: int) -> None:
    """Wait until so many requests have come in, on all servers together."""
    deadline = time.monotonic() + 30
    while sum(len(fake.chats) for fake in fakes) < chats:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def due(num_prompts: int) -> list[list[list[int]]]:
    """Every completion of every prompt, once, in order."""
    return [[[number, 0], [number, 1]] for number in range(num_prompts)]
