"""Diffusion pipelines of the real classes, a few hundred kB small, saved as folders."""

from pathlib import Path

import torch

from grpo_mmpc.utils.cpu_compat import ensure_importable

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,-"
CLIP_SIZE, T5_SIZE = 32, 32


def clip_tokenizer():
    """A CLIP tokenizer without merges: one token per letter, a start and an end; limit 77."""
    from transformers import CLIPTokenizer

    pieces = [
        *(letter for letter in LETTERS if letter != " "),
        *(f"{letter}</w>" for letter in LETTERS if letter != " "),
    ]
    vocab = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5_tokenizer():
    """A T5 tokenizer of single letters: every space is a letter too, plus an end."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -1.0), *((c, -2.0) for c in LETTERS if c != " ")]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_text_config(tokenizer, *, hidden_size: int = CLIP_SIZE):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=hidden_size,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def vae(*, latent_channels: int, **config):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=[8, 16],
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=latent_channels,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        **config,
    )


def save_stable_diffusion(folder: Path) -> Path:
    """Stable Diffusion 1's pipeline: one CLIP, no ``max_sequence_length``; 32 x 32 images."""
    ensure_importable()
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=CLIP_SIZE,
            attention_head_dim=4,
        ),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        vae=vae(latent_channels=4),
        text_encoder=CLIPTextModel(clip_text_config(tokenizer)),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_stable_diffusion_3(folder: Path) -> Path:
    """The architecture of the paper's renderer, two CLIPs and a T5 read; 32 x 32 images."""
    ensure_importable()
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()
    t5 = T5Config(
        vocab_size=len(tokenizer_3),
        d_model=T5_SIZE,
        d_ff=37,
        d_kv=8,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=T5_SIZE,
            caption_projection_dim=32,
            pooled_projection_dim=CLIP_SIZE,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(
            latent_channels=4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5
        ),
        text_encoder=CLIPTextModelWithProjection(clip_text_config(tokenizer, hidden_size=CLIP_SIZE // 2)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip_text_config(tokenizer, hidden_size=CLIP_SIZE // 2)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=T5EncoderModel(t5),
        tokenizer_3=tokenizer_3,
    )
    pipeline.save_pretrained(folder)
    return folder
