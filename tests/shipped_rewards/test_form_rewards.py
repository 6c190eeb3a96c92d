"""Rewards of format, length and repetition: numbers to check by hand."""

from typing import Any

import pytest

from grpo_mmpc.errors import RewardError
from grpo_mmpc_rewards.format import json_format, repetition_penalty
from grpo_mmpc_rewards.length import image_prompt_limit, length_band


def test_json_format_prefers_the_bare_object() -> None:
    assert json_format()(formats=["json", "embedded", "malformed", "json"]) == [1.0, 0.5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("ngram_size", "text", "expected"),
    [
        (2, "red bag", 0.0),
        (2, "red bag red bag", -1 / 3),  # red bag, bag red, red bag: one of three was there
        (2, "Red bag; RED BAG!", -1 / 3),  # case and punctuation make no difference
        (2, "bag " * 101, -99 / 100),  # one of a hundred pairs is new
        (1, "bag bag bag bag", -3 / 4),
        (3, "a b c a b c", -1 / 4),  # abc, bca, cab, abc
        (2, "bag", 0.0),
        (2, "", 0.0),
        (2, "...", 0.0),
        (2, "حقيبة حمراء حقيبة حمراء", -1 / 3),
    ],
)
def test_repetition_is_the_share_of_ngrams_that_were_there_before(ngram_size: int, text: str, expected: float) -> None:
    assert repetition_penalty(ngram_size=ngram_size)(predictions=[text]) == [pytest.approx(expected)]


def test_more_repetitions_cost_more() -> None:
    scores = repetition_penalty()(predictions=["red tote bag" + " pack of 2" * n for n in range(1, 30)])
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 0.0


@pytest.mark.parametrize(
    ("kwargs", "text", "expected"),
    [
        ({"low": 4, "high": 8}, "", 0.0),
        ({"low": 4, "high": 8}, "abc", 3 / 4),
        ({"low": 4, "high": 8}, "abcd", 1.0),
        ({"low": 4, "high": 8}, "abcdefgh", 1.0),
        ({"low": 4, "high": 8}, "abcdefghij", 1 - 2 / 8),
        ({"low": 4, "high": 8}, "x" * 16, 0.0),
        ({"low": 4, "high": 8}, "x" * 5000, 0.0),
        ({"low": 4, "high": 4}, "🎒🎒🎒🎒", 1.0),  # code points
        ({"low": 0, "high": 8}, "", 1.0),
        ({"low": 2, "high": 3, "unit": "words"}, "bag", 1 / 2),
        ({"low": 2, "high": 3, "unit": "words"}, "a red tote-bag", 1 - 1 / 3),
        ({"low": 2, "high": 3, "unit": "words"}, "... !!!", 0.0),
    ],
)
def test_length_is_paid_in_full_within_the_band_and_by_its_share_outside(
    kwargs: dict[str, Any], text: str, expected: float
) -> None:
    assert length_band(**kwargs)(predictions=[text]) == [pytest.approx(expected)]


def test_lengths_in_tokens_are_those_of_the_tokenizer() -> None:
    from transformers import AutoTokenizer

    from grpo_mmpc.utils.model_paths import resolve_model

    text = "Acme Red Tote Bag, Large, Pack of 2"
    count = len(AutoTokenizer.from_pretrained(resolve_model("nano:qwen2_5_vl")).tokenize(text))
    kwargs: dict[str, Any] = {"unit": "tokens", "tokenizer": "nano:qwen2_5_vl"}
    assert length_band(low=count, high=count, **kwargs)(predictions=[text]) == [1.0]
    assert length_band(low=count + 1, high=count + 1, **kwargs)(predictions=[text]) == [count / (count + 1)]


def test_the_limit_of_image_prompts_is_counted_as_clip_counts() -> None:
    from transformers import AutoTokenizer

    from grpo_mmpc.utils.model_paths import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("nano:clip"))
    assert len(tokenizer("a")["input_ids"]) == 3  # start, the word, end
    prompts = [" ".join(["a"] * count) for count in (1, 75, 76, 152, 1000)]  # 3, 77, 78, 154, 1002 tokens
    assert image_prompt_limit(tokenizer="nano:clip")(predictions=prompts) == pytest.approx(
        [1.0, 1.0, 76 / 77, 0.0, 0.0]
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: repetition_penalty(ngram_size=0), "at least 1"),
        (lambda: length_band(low=5, high=4), "low=5, high=4"),
        (lambda: length_band(low=-1, high=4), "low=-1"),
        (lambda: length_band(low=0, high=0), "high above 0"),
        (lambda: length_band(unit="letters"), "characters, words, tokens"),
        (lambda: length_band(unit="tokens"), "belong together"),
        (lambda: length_band(tokenizer="nano:clip"), "belong together"),
        (lambda: length_band(unit="tokens", tokenizer="nano:qwen"), "known: nano:qwen2_5_vl, nano:gemma3, nano:clip"),
        (lambda: image_prompt_limit(tokenizer="nano:bert"), "unknown embedded model 'nano:bert'"),
    ],
)
def test_wrong_kwargs_are_refused_while_building(build: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        build()


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Any) -> None:
    from grpo_mmpc.errors import ScoringError

    with pytest.raises(ScoringError, match="tokenizer: cannot load"):
        image_prompt_limit(tokenizer=str(tmp_path))(predictions=["red"])
