"""The sentence-embedding reward."""

import pytest

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.encoders.sentence import sentence_encoder
from grpo_mmpc.metrics.metric import MetricInputs
from grpo_mmpc.metrics.table import METRICS
from grpo_mmpc.rewards import check_mix
from grpo_mmpc.tasks import TASKS
from grpo_mmpc_rewards import semantic
from grpo_mmpc_rewards.semantic import embedding_cosine


def test_it_is_the_metric_cut_at_zero() -> None:
    predictions, references = ["red bag", "steel mug", "quarterly tax return"], ["red tote bag"] * 3
    encoder = sentence_encoder(model="nano:minilm", device="cpu")
    metric = METRICS["embedding_cosine"].score(
        MetricInputs(task="image_to_text", predictions=predictions, references=references, sentence=encoder)
    )
    scores = embedding_cosine(model="nano:minilm", device="cpu")(predictions=predictions, references=references)
    assert scores == pytest.approx([max(0.0, cosine) for cosine in metric], abs=1e-6)
    assert scores[0] > scores[1] > scores[2] >= 0.0


def test_negative_cosines_count_as_zero_and_unknown_titles_are_unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Encoder:
        def reads(self, texts: list[str]) -> list[bool]:
            return [True] * len(texts)

        def cosine(self, *, predictions: list[str], references: list[str]) -> list[float]:
            asked.append((predictions, references))
            return [-0.25, 0.5]

    monkeypatch.setattr(semantic, "sentence_encoder", lambda **_: Encoder())
    reward = embedding_cosine()
    assert reward(predictions=["a", "b", "c", "a"], references=["r", None, "s", "r"]) == [0.0, None, 0.5, 0.0]
    assert asked == [(["a", "c"], ["r", "s"])]


@pytest.mark.parametrize("name", ["bertscore", "embedding_cosine"])
def test_references_are_encoded_while_the_policy_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    class Encoder:
        def encode(self, texts: list[str], *, keep: bool) -> None:
            assert keep  # references come back, and have a place of their own
            encoded.extend(texts)

        def score(self, *, predictions: list[str], references: list[str]) -> None:
            assert predictions == references
            encoded.extend(references)

    monkeypatch.setattr(semantic, "sentence_encoder", lambda **_: Encoder())
    monkeypatch.setattr(semantic, "bertscore_encoder", lambda **_: Encoder())
    prepare = getattr(semantic, name)().prepare
    prepare(references=["red bag", None, "mug", "red bag", " "], tasks=["image_to_text"] * 5, item_ids=list("abcde"))
    assert encoded == ["red bag", "mug"]


def test_a_prepared_reference_is_not_encoded_again() -> None:
    from grpo_mmpc.encoders.bertscore import bertscore_encoder

    encoder = bertscore_encoder(model="nano:minilm", device="cpu")
    reward = semantic.bertscore(model="nano:minilm", device="cpu")
    reward.prepare(references=["a title that no other test encodes"])
    before = encoder.encoded_texts
    reward(predictions=["nor this one, ever"], references=["a title that no other test encodes"])
    assert encoder.encoded_texts == before + 1


@pytest.mark.parametrize("name", ["bertscore", "embedding_cosine", "clip_similarity", "dinov2_similarity"])
def test_an_unknown_precision_is_refused_before_any_encoder_loads(name: str) -> None:
    problems = list(check_mix([RewardSpec(name=name, weight=1.0, kwargs={"dtype": "half"})], tuple(TASKS)))
    assert "dtype must be one of float32, bfloat16, float16, found 'half'" in problems[0][1]


@pytest.mark.parametrize("name", ["bertscore", "embedding_cosine"])
def test_a_reference_in_a_script_that_the_encoder_does_not_know_is_unscored(name: str) -> None:
    # Every Thai title is one unknown token to MiniLM: any two would get the full reward.
    reward = getattr(semantic, name)(model="nano:minilm", device="cpu")
    scores = reward(predictions=["สีแดง", "สีแดง", "red bag"], references=["กาต้มน้ำ", "red bag", "red bag"])
    assert scores[0] is None
    assert scores[1] is not None
    assert scores[1] < 0.9
    assert scores[2] == pytest.approx(1.0, abs=1e-4)
