"""What a text is padded to, and what else is in its batch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_mmpc.encoders.bertscore import BertScoreEncoder
from grpo_mmpc.encoders.clip import ClipEncoder
from grpo_mmpc.encoders.sentence import SentenceEncoder
from grpo_mmpc.encoders.texts import length_batches, padded_length
from grpo_mmpc.utils.cpu_compat import ensure_importable

LIMIT = 512


def test_a_text_is_padded_by_its_own_length_alone() -> None:
    assert [padded_length(n, limit=LIMIT) for n in (0, 1, 16, 17, 128, 129, 260, 500)] == [
        *(0, 16, 16, 32),  # multiples of 16
        *(128, 160, 320, 512),  # from 128 on of an eighth of the next power of two
    ]


def test_no_text_is_padded_beyond_what_the_model_takes() -> None:
    assert padded_length(70, limit=77) == 77
    assert padded_length(80, limit=77) == 80  # one that is too long stays whole


def test_every_item_is_in_one_batch_of_its_padded_length_longest_first() -> None:
    assert length_batches([3, 20, 16, 31], limit=LIMIT) == [(32, [1, 3]), (16, [0, 2])]


def test_a_batch_is_bounded_in_items_and_padded_tokens() -> None:
    assert [len(batch) for _, batch in length_batches([10] * 130, limit=LIMIT)] == [64, 64, 2]
    assert [len(batch) for _, batch in length_batches([512] * 17, limit=LIMIT)] == [16, 1]  # 16 * 512 = 8192


def test_an_oversized_item_is_a_batch_of_its_own() -> None:
    assert length_batches([9000, 9000], limit=10_000) == [(10_000, [0]), (10_000, [1])]


def test_no_items_no_batches() -> None:
    assert length_batches([], limit=LIMIT) == []


WORDS = ["red", "blue", "cotton", "mug", "shirt", "with", "stripes", "large", "pack", "Nordhaus", "classic", "leather"]


def titles(number: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=2 + i % 30)) for i in range(number)]


def noise(number: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)) for _ in range(number)]


def bertscores() -> Callable[[Any], torch.Tensor]:
    encoder = BertScoreEncoder(model="nano:minilm", num_layers=6)

    def score(texts: Sequence[str]) -> torch.Tensor:
        scores = encoder.score(predictions=texts, references=[text[::-1] + " red mug" for text in texts])
        return torch.tensor([scores.precision, scores.recall, scores.f1]).T

    return score


ENCODINGS: dict[str, tuple[Callable[[int], Any], Callable[[], Callable[[Any], torch.Tensor]]]] = {
    "BERTScore": (titles, bertscores),
    "sentence": (titles, lambda: SentenceEncoder(model="nano:minilm").encode),
    "CLIP text": (titles, lambda: ClipEncoder(model="nano:clip").embed_texts),
    "CLIP image": (noise, lambda: ClipEncoder(model="nano:clip").embed_images),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_is_the_same_to_the_bit_whatever_else_is_in_its_batch(name: str) -> None:
    ensure_importable()
    inputs, encoder = ENCODINGS[name]
    items = inputs(40)
    together = encoder()(items)
    for size in (1, 3, 20):
        encode = encoder()  # which remembers nothing yet
        apart = [encode(items[start : start + size]) for start in range(0, len(items), size)]
        assert torch.equal(torch.cat(apart), together), size
