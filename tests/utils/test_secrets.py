"""Tokens in what is written down."""

import pytest

from grpo_mmpc.utils.secrets import masked, secret_keys, without_secrets

HF = "hf_" + "aB3" * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"token: {HF}", "token: ***"),
        ("hub_token: plain", "hub_token: ***"),
        ("trainer.hub_token=plain x=1", "trainer.hub_token=*** x=1"),
        ('{"api_key": "plain", "seed": 1}', '{"api_key": "***", "seed": 1}'),
        (f"seen anywhere {HF}", "seen anywhere ***"),
        ("hub_token: null", "hub_token: null"),
        ("pad_token: <pad>", "pad_token: <pad>"),
        ("include_num_input_tokens_seen: all", "include_num_input_tokens_seen: all"),
        ("max_tokens: 40", "max_tokens: 40"),
    ],
)
def test_the_values_of_keys_of_tokens_are_masked_and_no_others(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_plain_data_keeps_its_shape() -> None:
    content = {"trainer": {"hub_token": "x", "eos_token": "</s>"}, "mix": [{"kwargs": {"api_key": "x"}}], "token": None}
    assert without_secrets(content) == {
        "trainer": {"hub_token": None, "eos_token": "</s>"},
        "mix": [{"kwargs": {"api_key": None}}],
        "token": None,
    }
    assert list(secret_keys(content)) == ["trainer.hub_token", "mix.0.kwargs.api_key"]
