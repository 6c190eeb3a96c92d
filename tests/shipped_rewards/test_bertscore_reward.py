"""The BERTScore reward."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from grpo_mmpc.encoders.bertscore import bertscore_encoder
from grpo_mmpc.errors import RewardError
from grpo_mmpc_rewards import semantic
from grpo_mmpc_rewards.semantic import bertscore


class Scores(NamedTuple):
    precision: list[float]
    recall: list[float]
    f1: list[float]


def test_the_reward_is_the_encoders_score_and_shares_its_model() -> None:
    encoder = bertscore_encoder(model="nano:minilm", device="cpu")
    reward = bertscore(model="nano:minilm", component="recall", device="cpu")
    predictions, references = ["red bag", "steel mug"], ["red tote bag", "red tote bag"]
    before = encoder.score(predictions=predictions, references=references)
    encoded = encoder.encoded_texts
    assert reward(predictions=predictions, references=references) == before.recall
    assert encoder.encoded_texts == encoded  # everything came from the encoder that the metric would use


def test_items_without_a_reference_are_unscored_and_never_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Encoder:
        def reads(self, texts: list[str]) -> list[bool]:
            return [True] * len(texts)

        def score(
            self, *, predictions: Sequence[str], references: Sequence[str], rescale_with_baseline: bool
        ) -> Scores:
            asked.extend(zip(predictions, references, strict=True))
            values = [0.75, -0.25][: len(predictions)]
            return Scores(values, values, values)

    monkeypatch.setattr(semantic, "bertscore_encoder", lambda **_: Encoder())
    reward = bertscore(model="nano:minilm")
    scores = reward(predictions=["a", "b", "c", "d"], references=["r", None, " ", "s"])
    assert scores == [0.75, None, None, 0.0]  # cut at 0, so that a malformed completion is never above it
    assert asked == [("a", "r"), ("d", "s")]


def test_nothing_is_loaded_while_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(**_: object) -> None:
        raise AssertionError("loaded too early")

    monkeypatch.setattr(semantic, "bertscore_encoder", load)
    reward = bertscore()
    with pytest.raises(AssertionError, match="too early"):
        reward(predictions=["a"], references=["b"])


def test_wrong_kwargs_are_refused_while_building(tmp_path: object) -> None:
    with pytest.raises(RewardError, match="precision, recall, f1"):
        bertscore(component="F1")
    with pytest.raises(RewardError, match="set num_layers"):
        bertscore(model=str(tmp_path))
    with pytest.raises(RewardError, match="no baseline"):
        bertscore(model="nano:minilm", rescale_with_baseline=True)
    bertscore(rescale_with_baseline=True)  # roberta-large has one
