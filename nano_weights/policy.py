"""Nano policies of the real architectures: configuration, initial weights, saving, loading."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.utils.cpu_compat import ensure_importable
from nano_weights.tokenizer import VOCABULARY_SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

FAMILIES = ("qwen2_5_vl", "gemma3")
"""Model families with a nano policy; each is also the name of its asset folder."""

IMAGE_SIZE_PX = 84
PATCH_SIZE_PX = 14
NUM_IMAGE_TOKENS = 9
"""A square image is 6 x 6 patches, merged two by two into nine tokens, in both families."""

HIDDEN_SIZE = 192
INTERMEDIATE_SIZE = 512
NUM_LAYERS = 4
NUM_HEADS = 6
NUM_KEY_VALUE_HEADS = 2
HEAD_DIM = HIDDEN_SIZE // NUM_HEADS
"""32: a head size that vLLM's CPU and GPU attention both support."""
VISION_HIDDEN_SIZE = 128
VISION_INTERMEDIATE_SIZE = 384
VISION_LAYERS = 4
VISION_HEADS = 4
MAX_POSITIONS = 1024


def build_policy(family: str, tokenizer: "PreTrainedTokenizerFast", *, seed: int) -> "PreTrainedModel":
    """Build an untrained policy in float32, initialised to learn from scratch within minutes.

    Every matrix starts at 1/sqrt(fan-in). The 0.02 of the published configurations suits wide
    models; at this width it shrinks the signal layer by layer until the image no longer reaches
    the words.
    """
    import torch  # heavy: imported on use

    ensure_importable()
    from transformers import AutoModelForImageTextToText, GenerationConfig

    torch.manual_seed(seed)  # the library draws some biases
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(_CONFIGS[family](tokenizer), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(
                    0.0, _initial_std(name, parameter.shape, tied=model.config.tie_word_embeddings), generator=generator
                )
    model.generation_config = GenerationConfig(**_special_ids(tokenizer))
    return model


def build_processor(family: str, tokenizer: "PreTrainedTokenizerFast") -> "ProcessorMixin":
    """Build the family's own processor for images of at most 84 x 84 pixels' worth of patches."""
    ensure_importable()
    if family == "qwen2_5_vl":
        from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

        area = {"shortest_edge": IMAGE_SIZE_PX**2, "longest_edge": IMAGE_SIZE_PX**2}
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(size=area, patch_size=PATCH_SIZE_PX, merge_size=2),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(size=dict(area), patch_size=PATCH_SIZE_PX, merge_size=2),
            chat_template=tokenizer.chat_template,
        )
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    half = [0.5, 0.5, 0.5]
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessor(
            size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}, image_mean=half, image_std=half
        ),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=NUM_IMAGE_TOKENS,
    )


def load_policy(folder: Path | str) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """Load a saved policy in float32 and evaluation mode, and its processor."""
    import torch  # heavy: imported on use

    ensure_importable()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def save_policy(model: "PreTrainedModel", processor: "ProcessorMixin", folder: Path) -> None:
    """Write weights (float16), configuration and processor so that the Auto classes load them."""
    import torch  # heavy: imported on use
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).to(torch.float16)
    for part in (half.config, half.config.text_config, half.config.vision_config):
        part.dtype = torch.float16
    half.save_pretrained(folder)
    processor.save_pretrained(folder)
    if half.config.model_type == "gemma3":
        # Published checkpoints say vision_tower.vision_model; Transformers reads both but writes
        # the short name, which vLLM does not know.
        weights = load_file(folder / "model.safetensors")
        renamed = {name.replace("vision_tower.", "vision_tower.vision_model."): w for name, w in weights.items()}
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def language_layers_only(name: str) -> bool:
    """True for a parameter of the language model, not of vision tower or projector."""
    return not any(part in name for part in ("visual.", "vision_tower.", "multi_modal_projector."))


def _initial_std(name: str, shape: Sequence[int], *, tied: bool) -> float:
    if "position_embedding" in name:
        return 0.5  # looked up, not multiplied: must be seen beside patches of unit size
    if "embed_tokens" in name and not tied:
        return 0.5  # the same; a tied embedding is also the output matrix, and Gemma-3 scales it up when looked up
    # the projector of Gemma-3 multiplies from the left: its fan-in is the first dimension
    fan_in = shape[0] if "mm_input_projection" in name else math.prod(shape[1:])
    return 1.0 / math.sqrt(fan_in)


def _special_ids(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _text_config(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KEY_VALUE_HEADS,
        "max_position_embeddings": MAX_POSITIONS,
        **_special_ids(tokenizer),
    }


def _qwen2_5_vl_config(tokenizer: "PreTrainedTokenizerFast") -> Any:
    from transformers import Qwen2_5_VLConfig  # heavy: imported on use

    ids = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config={
            **_text_config(tokenizer),
            # time, height, width share the 16 rotary frequencies of a 32-wide head
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": VISION_LAYERS,
            "hidden_size": VISION_HIDDEN_SIZE,
            "intermediate_size": VISION_INTERMEDIATE_SIZE,
            "num_heads": VISION_HEADS,
            "out_hidden_size": HIDDEN_SIZE,
            "patch_size": PATCH_SIZE_PX,
            "window_size": 112,
            "fullatt_block_indexes": list(range(VISION_LAYERS)),
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def _gemma3_config(tokenizer: "PreTrainedTokenizerFast") -> Any:
    from transformers import Gemma3Config  # heavy: imported on use

    ids = tokenizer.convert_tokens_to_ids
    return Gemma3Config(
        text_config={
            **_text_config(tokenizer),
            "head_dim": HEAD_DIM,
            "query_pre_attn_scalar": HEAD_DIM,
            # never shorter than a sequence: local and global layers then see the same tokens
            "sliding_window": MAX_POSITIONS,
            "layer_types": ["sliding_attention"] * (NUM_LAYERS - 1) + ["full_attention"],
        },
        vision_config={
            "hidden_size": VISION_HIDDEN_SIZE,
            "intermediate_size": VISION_INTERMEDIATE_SIZE,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": VISION_HEADS,
            "image_size": IMAGE_SIZE_PX,
            "patch_size": PATCH_SIZE_PX,
            "vision_use_head": False,
        },
        mm_tokens_per_image=NUM_IMAGE_TOKENS,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
    )


_CONFIGS: dict[str, Callable[["PreTrainedTokenizerFast"], Any]] = {
    "qwen2_5_vl": _qwen2_5_vl_config,
    "gemma3": _gemma3_config,
}
