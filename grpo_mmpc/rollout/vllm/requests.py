"""Prompts as requests of vLLM, and the check that it used the trainer's prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.prompts import conversation, load_prompt_image, too_long
from grpo_mmpc.rollout.vllm.protocol import Prompt
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils import hashing
from grpo_mmpc.utils.api_servers import png_data_url
from grpo_mmpc.utils.single_out import Failure


def prompt_of(row: PromptRow, processor: Any, *, count: int, seed: int) -> Prompt:
    """Return a row as a request, tokenised as the trainer tokenises it."""
    messages = conversation(row, processor)
    encoded = processor.apply_chat_template(
        [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors=None
    )
    return Prompt(token_ids=list(encoded["input_ids"][0]), conversation=messages, count=count, seed=seed)


def by_path(prompt: Prompt) -> Prompt:
    """Return a prompt to be sent to a process that sees the same files: paths in place of images.

    An image that is from no file stays.
    """
    return _with_images(prompt, lambda image: getattr(image, "filename", image))


def read_images(prompt: Prompt, processor: Any) -> Prompt:
    """Return a prompt that was sent ``by_path`` with its images, as its sender has them."""
    return _with_images(prompt, lambda shown: load_prompt_image(shown, processor) if isinstance(shown, str) else shown)


def _with_images(prompt: Prompt, change: Callable[[Any], Any]) -> Prompt:
    conversation = [
        message
        if isinstance(message["content"], str)
        else {
            **message,
            "content": [
                {**part, "image": change(part["image"])} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in prompt.conversation
    ]
    return replace(prompt, conversation=conversation)


def derived_seed(*parts: int) -> int:
    """Hash integers into a 31-bit seed; neighbours share nothing: no group repeats another."""
    return hashing.seed(",".join(map(str, parts)))


def unfit(prompt: Prompt, sampling: SamplingConfig, *, context: int) -> Failure | None:
    """Refuse a prompt whose completion vLLM would shorten without a word; None if it fits."""
    if len(prompt.token_ids) + sampling.max_tokens <= context:
        return None
    return Failure(reason=too_long(len(prompt.token_ids), max_tokens=sampling.max_tokens, context=context))


def sampling_parameters(prompt: Prompt, sampling: SamplingConfig) -> dict[str, Any]:
    """Return sampling parameters by the names that ``SamplingParams`` and the chat API share."""
    greedy = sampling.temperature == 0
    return {
        "n": 1 if greedy else prompt.count,  # vLLM refuses several equal greedy completions
        "seed": None if greedy else prompt.seed,
        "temperature": sampling.temperature,
        "top_p": 1.0 if greedy else sampling.top_p,
        "top_k": 0 if greedy else sampling.top_k,
    }


def chat_request(
    prompt: Prompt,
    sampling: SamplingConfig,
    *,
    images: "DataUrls",
    suppressed_token_ids: Sequence[int],
    chat_template_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the chat API's request for all completions of a prompt, without the name of the model.

    Args:
        prompt: What is asked.
        sampling: How completions are sampled.
        images: Encodes the prompt's images; one for all prompts of a batch.
        suppressed_token_ids: Never sampled.
        chat_template_kwargs: See ``arguments.template_options``.
    """
    return {
        "messages": [_message(message, images) for message in prompt.conversation],
        **sampling_parameters(prompt, sampling),
        "max_completion_tokens": sampling.max_tokens,
        **({"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}),
        **({} if sampling.schema is None else {"structured_outputs": {"json": sampling.schema}}),
        "logit_bias": {str(token): -100.0 for token in suppressed_token_ids} or None,
        "logprobs": True,
        "return_token_ids": True,
        # Named so that no default of a server or model can stand in.
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


class DataUrls:
    """Images as PNG data URLs, each object encoded once; valid as long as the images live."""

    def __init__(self) -> None:
        self._urls: dict[int, str] = {}

    def of(self, image: Any) -> str:
        """Return the data URL of a PIL image."""
        url = self._urls.get(id(image))
        if url is None:
            url = self._urls[id(image)] = png_data_url(image)
        return url


def _message(message: Mapping[str, Any], images: DataUrls) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {"role": message["role"], "content": message["content"]}
    parts = [
        {"type": "image_url", "image_url": {"url": images.of(part["image"])}}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in message["content"]
    ]
    return {"role": message["role"], "content": parts}


def check_prompt_ids(trainer: Sequence[int], engine: Sequence[int]) -> None:
    """Refuse a prompt that trainer and engine see differently.

    Raises:
        RolloutError: Shows where they part and the usual causes.
    """
    if list(trainer) == list(engine):
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(trainer, engine, strict=False)) if a != b), min(len(trainer), len(engine))
    )
    raise RolloutError(
        f"trainer and engine see different prompts: {len(trainer)} and {len(engine)} tokens, parting at position {at} "
        f"(trainer ...{list(trainer[max(0, at - 3) : at + 4])}, engine ...{list(engine[max(0, at - 3) : at + 4])}). "
        "Usual causes: another number of image tokens (min_pixels and max_pixels differ: both sides must use "
        "model.processor_kwargs), a begin-of-sequence token added twice, or another chat template"
    )
