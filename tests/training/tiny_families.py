"""Tiny random models of the architectures that are trained; their processors need no hub."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAD, END = "<pad>", "<end>"
SIDE = {"height": 56, "width": 56}
GRIDS = [[56, 112], [112, 56]]
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer(
    *, shows: str, others: Sequence[str] = (), bos: str | None = None, lines: Sequence[str] = (), **named: str
) -> Any:
    """Return a tokenizer of bytes and special tokens; ``shows`` stands for an image in a prompt."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, END, *([bos] if bos else ()), *others, *named.values()]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *letters])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(line, special=False, normalized=False) for line in lines])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        **({"bos_token": bos} if bos else {}),
        extra_special_tokens=list(others),
        model_specific_special_tokens=named,
    )
    made.chat_template = ("{{ bos_token }}" if bos else "") + TEMPLATE.replace("IMAGE", shows)
    return made


def text(tokens: Any, **changes: Any) -> dict[str, Any]:
    """Return the configuration of a language model of two layers."""
    return {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,  # the least that vLLM computes on a CPU
        "max_position_embeddings": 1024,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    } | changes


def _qwen(family: str, vision: dict[str, Any], text_changes: dict[str, Any], **sizes: Any) -> tuple[Any, Any]:
    """Return a Qwen-VL, whose generations differ in class, vision tower and position encoding."""
    import transformers

    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokens = tokenizer(shows="<|vision_start|><|image_pad|><|vision_end|>", others=names)
    keys = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    config = getattr(transformers, f"{family}Config")(
        text_config=text(tokens, **text_changes),
        vision_config=vision,
        **dict(zip(keys, tokens.convert_tokens_to_ids(names), strict=True)),
    )
    kind = "Qwen3VL" if family == "Qwen3_5" else family
    video = "Qwen3VL" if kind == "Qwen3VL" else "Qwen2VL"
    processor = getattr(transformers, f"{kind}Processor")(
        transformers.Qwen2VLImageProcessor(**sizes),
        tokens,
        getattr(transformers, f"{video}VideoProcessor")(**sizes),
        chat_template=tokens.chat_template,
    )
    return config, processor


def _rope(*sections: int, **changes: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), **changes}


_AREA_14 = {"size": {"shortest_edge": 56 * 56, "longest_edge": 84 * 84}}
_AREA_16 = {"size": {"shortest_edge": 64 * 64, "longest_edge": 96 * 96}}
_PATCH_16 = {**_AREA_16, "patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
_VISION_16 = {**VISION, "num_heads": 2, "depth": 2, "out_hidden_size": 64, "num_position_embeddings": 16}


def qwen2_vl() -> tuple[Any, Any]:
    vision = {"embed_dim": 32, "hidden_size": 64, "num_heads": 2, "depth": 2, "mlp_ratio": 2}
    return _qwen("Qwen2VL", vision, {"rope_parameters": _rope(4, 6, 6)}, **_AREA_14)


def qwen2_5_vl() -> tuple[Any, Any]:
    vision = {**VISION, "num_heads": 2, "depth": 2, "out_hidden_size": 64, "fullatt_block_indexes": [1]}
    return _qwen("Qwen2_5_VL", vision | {"window_size": 56}, {"rope_parameters": _rope(4, 6, 6)}, **_AREA_14)


def qwen3_vl() -> tuple[Any, Any]:
    rope = _rope(4, 6, 6, mrope_interleaved=True)
    return _qwen("Qwen3VL", {**_VISION_16, "deepstack_visual_indexes": [0]}, {"rope_parameters": rope}, **_PATCH_16)


def qwen3_5() -> tuple[Any, Any]:
    linear = {"linear_num_key_heads": 1, "linear_num_value_heads": 2}
    changes = {
        "rope_parameters": _rope(2, 3, 3, mrope_interleaved=True, partial_rotary_factor=0.25),
        "head_dim": 64,
        "num_hidden_layers": 4,  # three of linear attention, one of full attention
        **linear,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
    }
    return _qwen("Qwen3_5", _VISION_16, changes, **_PATCH_16)


def gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ImageProcessor, Gemma3Processor

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    lines = ["\n" * count for count in range(1, 5)]  # vLLM looks for them
    tokens = tokenizer(shows="<start_of_image>", bos="<bos>", lines=lines, **named)
    ids = dict(zip(named, tokens.convert_tokens_to_ids(list(named.values())), strict=True))
    config = Gemma3Config(
        text_config=text(tokens, query_pre_attn_scalar=32, layer_types=["sliding_attention", "full_attention"]),
        vision_config={**VISION, "num_hidden_layers": 2, "image_size": 56, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
    )
    images = Gemma3ImageProcessor(size=SIDE)
    return config, Gemma3Processor(images, tokens, chat_template=tokens.chat_template, image_seq_length=4)


def gemma4(*, attention: str | None = None) -> tuple[Any, Any]:
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4Config,
        Gemma4ImageProcessor,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )

    named = {"boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>"}
    named |= {"boa_token": "<|audio>", "audio_token": "<|audio|>", "eoa_token": "<audio|>"}
    tokens = tokenizer(shows="<|image|>", bos="<bos>", others=["<|video|>"], **named)
    ids = {f"{name}_id": tokens.convert_tokens_to_ids(token) for name, token in named.items()}
    config = Gemma4Config(
        text_config=text(
            tokens,
            global_head_dim=32,
            use_bidirectional_attention=attention,
            sliding_window=512,
            layer_types=["sliding_attention", "full_attention"],
            vocab_size_per_layer_input=320,
            hidden_size_per_layer_input=8,
        ),
        vision_config={
            **VISION,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "position_embedding_size": 64,
            "default_output_length": 70,
        },
        audio_config=None,
        video_token_id=tokens.convert_tokens_to_ids("<|video|>"),
        eoa_token_index=ids.pop("eoa_token_id"),
        **ids,
    )
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(max_soft_tokens=70),
        tokens,
        Gemma4VideoProcessor(max_soft_tokens=70),
        chat_template=tokens.chat_template,
        image_seq_length=70,
    )
    return config, processor


def gemma4_large() -> tuple[Any, Any]:
    """As the larger ones are: image tokens see each other in both directions."""
    return gemma4(attention="vision")


def idefics3(*, smol: bool = False) -> tuple[Any, Any]:
    import transformers

    named = {"fake_image_token": "<fake>", "image_token": "<image>", "global_image_token": "<global-img>"}
    tokens = tokenizer(shows="<image>", bos="<bos>", end_of_utterance_token="<end_of_utterance>", **named)
    family = "SmolVLM" if smol else "Idefics3"

    def class_of(part: str) -> Any:
        return getattr(transformers, family + part)

    config = class_of("Config")(
        text_config=text(tokens, model_type="llama"),
        vision_config={**VISION, "num_hidden_layers": 2, "image_size": 64, "patch_size": 16},
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
    )
    edge = {"longest_edge": 64}
    images = class_of("ImageProcessor")(size=edge, max_image_size=edge, do_image_splitting=False)
    video = []
    if smol:
        frames = {"fps": 1, "max_frames": 4, "video_size": edge}
        video = [class_of("VideoProcessor")(size=edge, max_image_size=edge, video_sampling=frames)]
    processor = class_of("Processor")(images, tokens, *video, image_seq_len=4, chat_template=tokens.chat_template)
    return config, processor


def smolvlm() -> tuple[Any, Any]:
    return idefics3(smol=True)


def llava_next() -> tuple[Any, Any]:
    from transformers import LlavaNextConfig, LlavaNextImageProcessor, LlavaNextProcessor

    tokens = tokenizer(shows="<image>", bos="<s>", image_token="<image>")
    vision = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "projection_dim": 16}
    config = LlavaNextConfig(
        text_config=text(tokens, model_type="llama"),
        vision_config={**VISION, "num_hidden_layers": 3, **vision},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRIDS,
        image_seq_length=16,
    )
    images = LlavaNextImageProcessor(size={"shortest_edge": 56}, crop_size=SIDE, image_grid_pinpoints=GRIDS)
    processor = LlavaNextProcessor(
        images,
        tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=tokens.chat_template,
        num_additional_image_tokens=1,
    )
    return config, processor


def llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaProcessor

    tokens = tokenizer(shows="<image>", bos="<s>", image_token="<image>")
    vision = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "projection_dim": 16}
    config = LlavaConfig(
        text_config=text(tokens, model_type="llama"),
        vision_config={**VISION, "num_hidden_layers": 3, **vision},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=SIDE),
        tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=tokens.chat_template,
        num_additional_image_tokens=1,
    )
    return config, processor


def llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tokens = tokenizer(shows="<image>", image_token="<image>", video_token="<video>")
    vision = {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14, "vision_use_head": False}
    config = LlavaOnevisionConfig(
        text_config=text(tokens, model_type="qwen2"),
        vision_config={**VISION, "num_hidden_layers": 3, **vision},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=GRIDS,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=GRIDS),
        tokens,
        LlavaOnevisionVideoProcessor(size=SIDE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=tokens.chat_template,
    )
    return config, processor


def internvl() -> tuple[Any, Any]:
    from transformers import GotOcr2ImageProcessor, InternVLConfig, InternVLProcessor, InternVLVideoProcessor

    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokens = tokenizer(shows="<IMG_CONTEXT>", video_token="<video>", **named)
    config = InternVLConfig(
        text_config=text(tokens, model_type="qwen2"),
        vision_config={**VISION, "num_hidden_layers": 2, "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=SIDE, crop_to_patches=True, min_patches=1, max_patches=3),
        tokens,
        InternVLVideoProcessor(size=SIDE),
        image_seq_length=4,
        chat_template=tokens.chat_template,
    )
    return config, processor


FAMILIES = {
    made.__name__: made
    for made in (
        *(qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5, gemma3, gemma4, gemma4_large),
        *(idefics3, smolvlm, llava, llava_next, llava_onevision, internvl),
    )
}


def write_model(family: str, folder: Path) -> Path:
    """Write a model whose weights have unit scale, so that answers depend on what is shown."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForImageTextToText, GenerationConfig

    config, processor = FAMILIES[family]()
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1 / math.sqrt(math.prod(parameter.shape[1:])), generator=generator)
    tokens = processor.tokenizer
    model.generation_config = GenerationConfig(eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if family in ("llava", "llava_next", "llava_onevision", "gemma3"):  # as published: vLLM knows no other names
        weights = load_file(folder / "model.safetensors")
        renamed = {
            name.replace("vision_tower.", "vision_tower.vision_model."): tensor for name, tensor in weights.items()
        }
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
