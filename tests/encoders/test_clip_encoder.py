"""ClipEncoder against a plain CLIPModel forward pass, with a tiny random model."""

import logging
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_mmpc.encoders.clip import ClipEncoder, clip_encoder
from grpo_mmpc.encoders.images import middle
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable

MAX_TOKENS = 12
WORDS = ["a", "red", "blue", "green", "tote", "bag", "mug", "of", "the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of 16-pixel images and a word-level tokenizer, saved as from_pretrained expects."""
    ensure_importable()
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<pad>", "<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=24,
    )
    model = CLIPModel(config)
    for parameter in model.parameters():  # the default initialisation makes all embeddings alike
        parameter.data = torch.randn_like(parameter) * 0.3
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder(model=str(folder))


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = []
    for i, colour in enumerate(["red", "blue", "green"]):
        path = tmp_path / f"{i}.png"
        image = Image.new("RGB", (40, 30), "white")
        image.paste(colour, (5 * i, 2, 5 * i + 12, 25))
        image.save(path)
        paths.append(str(path))
    return paths


def plain_cosine(folder: Path, *, image: str, text: str) -> float:
    """Image and text through the full model, one at a time; its logits are scaled cosines."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    with Image.open(image) as opened:
        pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=opened, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], **pixels)
        return (out.logits_per_image / model.logit_scale.exp()).item()


def count_calls(encoder: ClipEncoder, name: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that reach one of the model's two towers."""
    sizes: list[int] = []
    tower = getattr(encoder._model, name)
    original = tower.forward

    def counted(**inputs: Any) -> Any:
        sizes.append(len(next(iter(inputs.values()))))
        return original(**inputs)

    monkeypatch.setattr(tower, "forward", counted)
    return sizes


def test_image_text_equals_the_models_own_logits(encoder: ClipEncoder, folder: Path, images: list[str]) -> None:
    texts = ["a red tote bag", "mug", "the blue mug of the bag"]
    expected = [plain_cosine(folder, image=i, text=t) for i, t in zip(images, texts, strict=True)]
    assert encoder.image_text(image_paths=images, texts=texts) == pytest.approx(expected, abs=1e-5)
    assert len({round(cosine, 3) for cosine in expected}) == 3


def test_image_image_is_one_for_equal_images_and_symmetric(encoder: ClipEncoder, images: list[str]) -> None:
    a, b, _ = images
    same, forth, back = encoder.image_image(image_paths=[a, a, b], other_paths=[a, b, a])
    assert same == pytest.approx(1.0, abs=1e-6)
    assert forth == pytest.approx(back, abs=1e-6)
    assert forth < 0.999


def test_an_image_in_memory_scores_like_its_file(encoder: ClipEncoder, images: list[str]) -> None:
    with Image.open(images[1]) as opened:
        in_memory = opened.convert("RGB")
    assert encoder.image_image(image_paths=images[:2], other_paths=[in_memory] * 2) == pytest.approx(
        encoder.image_image(image_paths=images[:2], other_paths=[images[1]] * 2), abs=1e-6
    )


def test_images_and_texts_are_encoded_once(
    encoder: ClipEncoder, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image_batches = count_calls(encoder, "vision_model", monkeypatch)
    text_batches = count_calls(encoder, "text_model", monkeypatch)
    for _ in range(2):
        encoder.image_text(image_paths=[images[0]] * 4 + [images[1]], texts=["red bag", "mug", "mug", "red bag", "mug"])
    assert image_batches == [2]
    assert text_batches == [2]


def test_a_file_that_was_replaced_is_read_again(encoder: ClipEncoder, images: list[str]) -> None:
    before = encoder.image_image(image_paths=[images[0]], other_paths=[images[1]])
    Path(images[0]).write_bytes(Path(images[1]).read_bytes())
    os.utime(images[0], ns=(1, 1))
    after = encoder.image_image(image_paths=[images[0]], other_paths=[images[1]])
    assert before[0] < 0.999
    assert after[0] == pytest.approx(1.0, abs=1e-6)


def test_texts_beyond_the_limit_are_cut_counted_and_reported_once(
    encoder: ClipEncoder, images: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fits = " ".join(["red"] * (MAX_TOKENS - 2))  # the start and the end token take the rest
    longer = [fits + " blue", fits + " blue bag"]
    with caplog.at_level(logging.WARNING, logger="grpo_mmpc"):
        scores = encoder.image_text(image_paths=[images[0]] * 3, texts=[fits, *longer])
        encoder.image_text(image_paths=[images[0]] * 2, texts=longer)  # cached: not counted again
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-5)
    assert encoder.truncated_texts == 2
    assert [record.message for record in caplog.records if "tokens" in record.message] == [
        f"CLIP {encoder.model_name} reads at most 12 tokens of a text; a longer one (14 tokens) is scored by its "
        "beginning. Further ones are counted silently."
    ]


def test_an_unreadable_image_is_unscored_and_named_once(
    encoder: ClipEncoder, images: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    absent = str(tmp_path / "absent.png")
    with caplog.at_level(logging.WARNING, logger="grpo_mmpc"):
        for _ in range(2):
            scores = encoder.image_text(image_paths=[str(broken), images[0], absent], texts=["mug"] * 3)
    assert [math.isnan(score) for score in scores] == [True, False, True]
    assert [
        name in record.message for record, name in zip(caplog.records, ["broken.png", "absent.png"], strict=True)
    ] == [
        True,
        True,
    ]


def test_scores_inside_an_autocast_region_keep_full_precision(
    encoder: ClipEncoder, folder: Path, images: list[str]
) -> None:
    fresh = ClipEncoder(model=str(folder))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fresh.image_text(image_paths=images, texts=["red bag"] * 3)
    assert inside == pytest.approx(encoder.image_text(image_paths=images, texts=["red bag"] * 3), abs=1e-6)


def test_half_precision_comes_close(encoder: ClipEncoder, folder: Path, images: list[str]) -> None:
    half = ClipEncoder(model=str(folder), dtype="bfloat16")
    assert half._model.dtype == torch.bfloat16
    texts = ["a red tote bag", "mug", "the blue mug"]
    assert half.image_text(image_paths=images, texts=texts) == pytest.approx(
        encoder.image_text(image_paths=images, texts=texts), abs=0.05
    )
    assert half.embed_images(images).dtype == torch.float32


def test_nothing_in_nothing_out_and_uneven_lists_are_refused(encoder: ClipEncoder, images: list[str]) -> None:
    assert encoder.image_text(image_paths=[], texts=[]) == []
    assert encoder.image_image(image_paths=[], other_paths=[]) == []
    with pytest.raises(ValueError, match="3 images for 1 texts"):
        encoder.image_text(image_paths=images, texts=["mug"])
    with pytest.raises(ValueError, match="3 images for 0 others"):
        encoder.image_image(image_paths=images, other_paths=[])


def test_a_configuration_is_loaded_once_per_process(folder: Path) -> None:
    assert clip_encoder(model=str(folder), device="cpu") is clip_encoder(model=str(folder), device="cpu")


def test_a_line_of_pixels_is_seen_by_its_middle_and_takes_little_memory(encoder: ClipEncoder) -> None:
    """CLIP's processor scales the short side up before it crops the centre."""
    colours = np.zeros((1, 20_000, 3), np.uint8)
    colours[:, 9_900:10_100] = 255
    line = Image.fromarray(colours)
    tracemalloc.start()
    (cosine,) = encoder.image_image(image_paths=[line], other_paths=[Image.new("RGB", (84, 84), "white")])
    assert cosine == pytest.approx(1.0, abs=1e-3)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    wide = Image.effect_noise((160, 10), 80).convert("RGB")
    assert middle(wide) is wide


def test_an_image_that_the_processor_refuses_leaves_its_own_item_unscored(
    encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    processor = encoder._processor

    def refusing(images: list[Image.Image], **options: Any) -> Any:
        if any(image.height == 9 for image in images):
            raise KeyError("no such shape")
        return processor(images=images, **options)

    monkeypatch.setattr(encoder, "_processor", refusing)
    images = [Image.new("RGB", (8, side), "navy") for side in (7, 9, 11)]
    with caplog.at_level(logging.WARNING):
        cosines = encoder.image_text(image_paths=images, texts=["a mug"] * 3)
    assert [math.isnan(cosine) for cosine in cosines] == [False, True, False]
    assert "KeyError: 'no such shape'" in caplog.text


def test_a_model_of_another_kind_is_refused_in_words(tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    SiglipModel(
        SiglipConfig(text_config=small | {"vocab_size": 50}, vision_config=small | {"image_size": 32, "patch_size": 16})
    ).save_pretrained(tmp_path)
    with pytest.raises(ScoringError, match=r"CLIP: cannot load .* from that folder"):
        ClipEncoder(model=str(tmp_path))
