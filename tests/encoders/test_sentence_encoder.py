"""Sentence embeddings against a plain forward pass and, if installed, sentence-transformers."""

import math
from pathlib import Path

import pytest
import torch

from grpo_mmpc.encoders.sentence import SentenceEncoder, sentence_encoder
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import resolve_model

TEXTS = [
    "Acme Cotton Tote Bag, Striped Blue, Large, Pack of 2",
    "bag",
    "",
    "  padded  ",
    "Café Naïve Größe حقيبة 红色 🎒",
    "<b>NaN</b> !!!",
    "bag " * 1250,
]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return sentence_encoder(model="nano:minilm", device="cpu")


def test_equals_the_mean_of_the_last_hidden_states_one_text_at_a_time(encoder: SentenceEncoder) -> None:
    ensure_importable()
    from transformers import AutoModel, AutoTokenizer

    folder = resolve_model("nano:minilm")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            hidden = model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state
            mean = hidden[0].mean(dim=0)
            rows.append(mean / mean.norm())
    assert torch.allclose(encoder.encode(TEXTS), torch.stack(rows), atol=1e-5)


def test_equals_sentence_transformers(encoder: SentenceEncoder) -> None:
    ensure_importable()
    package = pytest.importorskip("sentence_transformers")
    expected = package.SentenceTransformer(resolve_model("nano:minilm"), device="cpu").encode(TEXTS)
    assert torch.allclose(encoder.encode(TEXTS), torch.tensor(expected), atol=1e-5)


def test_cosines_pair_texts_in_order(encoder: SentenceEncoder) -> None:
    same, alike, other = encoder.cosine(
        predictions=["red tote bag", "a red tote", "steel water bottle"], references=["red tote bag"] * 3
    )
    assert same == pytest.approx(1.0, abs=1e-5)
    assert 1.0 > alike > other


def test_nothing_in_nothing_out(encoder: SentenceEncoder) -> None:
    assert encoder.cosine(predictions=[], references=[]) == []
    assert encoder.encode([]).shape == (0, 384)


def test_a_model_that_pools_otherwise_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": false}')
    with pytest.raises(ScoringError, match="does not pool by the mean"):
        SentenceEncoder(model=str(tmp_path))


def test_uneven_lists_are_refused(encoder: SentenceEncoder) -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        encoder.cosine(predictions=["a", "b"], references=["a"])


def test_half_precision_comes_close(encoder: SentenceEncoder) -> None:
    half = SentenceEncoder(model="nano:minilm", dtype="bfloat16").encode(TEXTS)
    assert half.dtype == torch.float32
    assert torch.allclose((half * encoder.encode(TEXTS)).sum(dim=1), torch.ones(len(TEXTS)), atol=0.01)


def test_a_text_that_cannot_be_tokenised_leaves_its_own_pair_unscored(caplog: pytest.LogCaptureFixture) -> None:
    encoder = SentenceEncoder(model="nano:minilm")
    half = "half a smiley \ud83d"  # as JSON may hold it; UTF-8 has no such letter
    with caplog.at_level("WARNING"):
        cosines = encoder.cosine(predictions=["a mug", half, "a mug"], references=["a mug", "a mug", half])
    assert cosines[0] == pytest.approx(1.0)
    assert all(math.isnan(cosine) for cosine in cosines[1:])
    assert "half a smiley" in caplog.text
