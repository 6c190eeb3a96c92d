"""Tokenizers of the nano models: byte-level BPE with special tokens of the real families."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from grpo_mmpc.tasks import TASKS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 1024
"""Tokens of a policy tokenizer, all included; a power of two suits tensor parallelism."""

CLIP_VOCABULARY_SIZE = 768
CLIP_MAX_TOKENS = 77
"""Text positions of CLIP; longer texts are cut, as in the published models."""

QWEN_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
GEMMA_SPECIAL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)
GEMMA_NEWLINES = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
"""Runs of newlines are single tokens in Gemma; vLLM merges those around an image."""

QWEN_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
# Gemma calls the assistant "model"; a system message becomes the first words of the user's turn.
GEMMA_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ '<start_of_turn>user\n' }}"
    "{%- elif loop.index0 > 0 and messages[loop.index0 - 1]['role'] == 'system' -%}"
    "{%- else -%}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '\n\n' if message['role'] == 'system' else '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)


def task_tokens() -> list[str]:
    """List the texts that are one token each: the instructions and the JSON around an answer.

    The instructions are long because real models need them; as single tokens they cost a nano model
    nothing.
    """
    around_answer = [part for task in TASKS.values() for part in task.answer("\0").split("\\u0000")]
    return [*(task.instruction for task in TASKS.values()), *dict.fromkeys(around_answer)]


def train_policy_tokenizer(family: str, texts: Iterable[str]) -> "PreTrainedTokenizerFast":
    """Train the tokenizer of a policy, with the special tokens and the chat template of its family.

    Raises:
        ValueError: The family is unknown.
    """
    from tokenizers import AddedToken  # heavy: imported on use
    from transformers import PreTrainedTokenizerFast

    special: tuple[str, ...]
    if family == "qwen2_5_vl":
        special, plain = QWEN_SPECIAL_TOKENS, task_tokens()
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        named_extra: dict[str, str] = {}
        template = QWEN_CHAT_TEMPLATE
    elif family == "gemma3":
        special, plain = GEMMA_SPECIAL_TOKENS, [*GEMMA_NEWLINES, *task_tokens()]
        names = {"bos_token": "<bos>", "eos_token": "<end_of_turn>", "pad_token": "<pad>", "unk_token": "<unk>"}
        named_extra = {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        }
        template = GEMMA_CHAT_TEMPLATE
    else:
        raise ValueError(f"unknown policy family {family!r}; known: qwen2_5_vl, gemma3")

    core = _train_byte_level_bpe(
        [*texts, *["user\nassistant\n", "user\nmodel\n"] * 100], special=special, size=VOCABULARY_SIZE - len(plain)
    )
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        extra_special_tokens=[token for token in special if token not in {*names.values(), *named_extra.values()}],
        model_specific_special_tokens=named_extra,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        **names,
    )
    tokenizer.chat_template = template
    return tokenizer


def train_clip_tokenizer(texts: Iterable[str]) -> "PreTrainedTokenizerFast":
    """Train CLIP's tokenizer: lower-cased, with start and end tokens around every text."""
    from tokenizers import normalizers, processors  # heavy: imported on use
    from transformers import PreTrainedTokenizerFast

    # "<|endoftext|>" must not get id 2, which CLIPTextModel takes for a wrong configuration
    special = ("<|startoftext|>", "<|endoftext|>", "<|pad|>")
    core = _train_byte_level_bpe([text.lower() for text in texts], special=special, size=CLIP_VOCABULARY_SIZE)
    core.normalizer = normalizers.Lowercase()
    core.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(token, core.token_to_id(token)) for token in special[:2]],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        model_max_length=CLIP_MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def _train_byte_level_bpe(texts: list[str], *, special: tuple[str, ...], size: int) -> "Tokenizer":
    """Train a byte-level BPE of at most ``size`` tokens; special tokens take the first ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # heavy: imported on use

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core
