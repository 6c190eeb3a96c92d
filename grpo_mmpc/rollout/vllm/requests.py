"""Prompts as requests of vLLM's chat API, with images as data URLs and no parameter left to a default."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_mmpc.rollout.vllm.protocol import Prompt
from grpo_mmpc.types import SamplingConfig


class DataUrls:
    """Images as PNG data URLs, each object encoded once; valid as long as the images live."""

    def __init__(self) -> None:
        self._urls: dict[int, str] = {}

    def of(self, image: Any) -> str:
        """The data URL of a PIL image."""
        url = self._urls.get(id(image))
        if url is None:
            plain = image.convert("RGB")
            plain.info = {}  # an orientation tag would turn the image a second time
            stream = io.BytesIO()
            plain.save(stream, format="PNG", compress_level=1)
            url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
            self._urls[id(image)] = url
        return url


def chat_request(
    prompt: Prompt, sampling: SamplingConfig, *, images: DataUrls, suppressed_token_ids: Sequence[int]
) -> dict[str, Any]:
    """Body of the request for all completions of a prompt, without the name of the model.

    Args:
        prompt: What is asked.
        sampling: How completions are drawn.
        images: Encodes the prompt's images; one for all prompts of a batch.
        suppressed_token_ids: Never sampled.
    """
    greedy = sampling.temperature == 0
    bias = {str(token): -100.0 for token in suppressed_token_ids}
    return {
        "messages": [_message(message, images) for message in prompt.conversation],
        "n": 1 if greedy else prompt.count,  # vLLM refuses several equal greedy completions
        "seed": None if greedy else prompt.seed,
        "max_completion_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0 if greedy else sampling.top_p,
        "top_k": 0 if greedy else sampling.top_k,
        "logit_bias": bias or None,
        "logprobs": True,
        "return_token_ids": True,
        # Named so that no default of a server or model can stand in.
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def _message(message: Mapping[str, Any], images: DataUrls) -> dict[str, Any]:
    """A chat message in the form that vLLM's API takes."""
    if isinstance(message["content"], str):
        return {"role": message["role"], "content": message["content"]}
    parts = [
        {"type": "image_url", "image_url": {"url": images.of(part["image"])}}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in message["content"]
    ]
    return {"role": message["role"], "content": parts}
