"""Encoders on a GPU score as on a CPU: to rounding in fp32, and closely in half precision."""

import pytest

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.encoders.bertscore import bertscore_encoder
from grpo_mmpc.encoders.clip import clip_encoder
from tests.gpu.conftest import DEVICE


@pytest.fixture
def items(make_config) -> list[tuple[str, str]]:
    """Titles and pictures."""
    catalogue = RunData(make_config()).catalogue
    records = [catalogue.record(i) for i in range(24)]
    return [(str(record.title), str(catalogue.image_path(record))) for record in records]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2), ("float16", 5e-3)])
def test_clip_similarities_are_those_of_a_cpu(items, dtype, tolerance):
    titles, images = map(list, zip(*items, strict=True))
    ours = clip_encoder(model="nano:clip", device=DEVICE, dtype=dtype).image_text(image_paths=images, texts=titles)
    theirs = clip_encoder(model="nano:clip", device="cpu").image_text(image_paths=images, texts=titles)
    assert list(ours) == pytest.approx(list(theirs), abs=tolerance)
    assert max(theirs) - min(theirs) > tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_bertscore_is_that_of_a_cpu(tmp_path, items, dtype, tolerance):
    from transformers import AutoTokenizer, BertConfig, BertModel

    from grpo_mmpc.utils.model_paths import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("nano:clip"))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    titles = [title for title, _ in items]
    scores = {}
    for device, precision in ((DEVICE, dtype), ("cpu", "float32")):
        encoder = bertscore_encoder(model=str(tmp_path), num_layers=3, device=device, dtype=precision)
        scores[device] = encoder.score(predictions=titles[1:] + titles[:1], references=titles)
    for ours, theirs in zip(scores[DEVICE], scores["cpu"], strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)
