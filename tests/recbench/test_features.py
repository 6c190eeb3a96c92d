"""Features of items: the shared encoders' vectors, NaN where there is nothing to encode."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grpo_mmpc.encoders import clip_encoder, sentence_encoder
from grpo_mmpc.encoders.store import EncodingStore
from grpo_mmpc.errors import RecBenchError, ScoringError
from grpo_mmpc.recbench import features
from grpo_mmpc.recbench.features import image_features, rows_without_vector, text_features
from grpo_mmpc.recbench.settings import ImageEncoderSection, TextEncoderSection

MINILM = TextEncoderSection(model="nano:minilm", device="cpu")
CLIP = ImageEncoderSection(model="nano:clip", device="cpu")
TITLES = ["red tote bag", None, "steel water bottle", " \n", "red tote bag", ""]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "blue", "green")]
    for path in paths:
        Image.new("RGB", (40, 20), path.stem).save(path)
    return paths


def test_texts_get_the_sentence_encoder_s_vectors_and_blank_ones_none() -> None:
    vectors = text_features(TITLES, MINILM)
    assert vectors.shape == (6, 384)
    assert vectors.dtype == np.float32
    assert rows_without_vector(vectors).tolist() == [False, True, False, True, False, True]
    alone = sentence_encoder(model="nano:minilm", device="cpu").encode(["red tote bag", "steel water bottle"]).numpy()
    np.testing.assert_allclose(vectors[[0, 2, 4]], alone[[0, 1, 0]], atol=1e-6)


def test_nothing_to_encode_is_no_error() -> None:
    assert text_features([], MINILM).shape == (0, 384)
    assert np.isnan(text_features([None], MINILM)).all()
    assert np.isnan(image_features([None], CLIP)).all()


def test_progress_counts_what_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_TEXTS_PER_PIECE", 2)
    seen: list[tuple[str, int, int]] = []
    text_features(TITLES, MINILM, progress=lambda *state: seen.append(state))
    assert seen == [("encoding texts", 2, 3), ("encoding texts", 3, 3)]


def test_a_job_that_was_killed_goes_on_after_the_last_piece(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from grpo_mmpc.encoders import sentence

    store = EncodingStore(path=tmp_path / "encodings.sqlite", max_bytes=2**20)

    def fresh_process(**options: object) -> sentence.SentenceEncoder:
        made.append(sentence.SentenceEncoder(model="nano:minilm", store=store))
        return made[-1]

    def killed(_: str, done: int, __: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    made: list[sentence.SentenceEncoder] = []
    monkeypatch.setattr(sentence, "sentence_encoder", fresh_process)
    monkeypatch.setattr(features, "_TEXTS_PER_PIECE", 2)
    titles = [f"title {i}" for i in range(6)]
    with pytest.raises(KeyboardInterrupt):
        text_features(titles, MINILM, progress=killed)
    text_features(titles, MINILM)
    assert [encoder._texts.encoded_texts for encoder in made] == [4, 2]


def test_the_embedded_clip_encodes_images_in_both_modes(images: list[Path]) -> None:
    expected = clip_encoder(model="nano:clip", device="cpu").embed_images([str(path) for path in images]).numpy()
    for mode in ("corrected", "paper"):
        vectors = image_features(images, CLIP, mode=mode)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_absent_and_unreadable_images_have_no_vector_and_the_latter_are_named(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:40])
    vectors = image_features([None, images[0], broken, tmp_path / "gone.png"], CLIP)
    assert rows_without_vector(vectors).tolist() == [True, False, True, True]
    assert [path in caplog.text for path in ("broken.png", "gone.png")] == [True, True]


def test_only_paper_mode_squashes_images(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """MMPCBench prepares images for another checkpoint than it loads; ours only when asked."""
    from grpo_mmpc.encoders import vit

    asked: list[str] = []

    def vit_encoder(*, preprocessing: str, **options: object) -> object:
        asked.append(preprocessing)
        return clip_encoder(model="nano:clip", device="cpu")

    monkeypatch.setattr(vit, "vit_encoder", vit_encoder)
    image_features(images, ImageEncoderSection(model="timm/some_vit"))
    image_features(images, ImageEncoderSection(model="timm/some_vit"), mode="paper")
    assert asked == ["checkpoint", "squashed"]


def test_an_encoder_that_sees_no_images_is_refused(images: list[Path]) -> None:
    with pytest.raises(RecBenchError, match=r"nano:minilm is no encoder of images; give nano:clip, or .*timm/vit_base"):
        image_features(images, ImageEncoderSection(model="nano:minilm"))
    with pytest.raises(ScoringError, match=r"(?s)ViT: cannot load 'timm/vit_base_patch16_224\.augreg2.*Give a folder"):
        image_features(images, ImageEncoderSection(model=features.PUBLISHED_IMAGE_MODEL, device="cpu"))
