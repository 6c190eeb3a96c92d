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
        ("judge --token=plain --api-key s", "judge --token=*** --api-key s"),
        ('{"api_key": "plain", "seed": 1}', '{"api_key": "***", "seed": 1}'),
        (f"seen anywhere {HF}", "seen anywhere ***"),
        ("hub_token: null", "hub_token: null"),
        ("pad_token: <pad>", "pad_token: <pad>"),
        ("include_num_input_tokens_seen: all", "include_num_input_tokens_seen: all"),
        ("max_tokens: 40", "max_tokens: 40"),
        ("servers: [http://user:s3cret@gpu:8000]", "servers: [http://***@gpu:8000]"),
        ("proxies: {http: http://u:s3@cret@p:80}", "proxies: {http: http://***@p:80}"),
        ("see http://gpu:8000/a@b, and mail@example.org", "see http://gpu:8000/a@b, and mail@example.org"),
        ("headers: {Authorization: Bearer s3cret}", "headers: {***}"),
        ("x: {Authorization: Bearer s3cret, n: 1}", "x: {Authorization: ***, n: 1}"),
        ("Proxy-Authorization: Basic s3cret", "Proxy-Authorization: ***"),
        ("kwargs.headers={X-Gateway: s3cret} seed=1", "kwargs.headers={***} seed=1"),
        ("headers:\n  X-Gateway: s3cret\n  B: s3cret\nseed: 1\n", "headers: ***\nseed: 1\n"),
        ("- headers:\n    A: s3cret\n  name: x\n", "- headers: ***\n  name: x\n"),
        ("api_keys: [s3cret, s3cret]", "api_keys: [***]"),
        ("a:\n  api_keys:\n  - s3cret\n  - s3cret\n  b: 1\n", "a:\n  api_keys: ***\n  b: 1\n"),
        ('{\n "api_keys": [\n  "s3cret"\n ],\n "b": 1\n}', '{\n "api_keys": ***\n ],\n "b": 1\n}'),
        ("judge_key: s3cret", "judge_key: ***"),
        ("auth: s3cret and more", "auth: ***"),
        ("credentials: 's3cret and more'", "credentials: '***'"),
        ("x-api-key: s3cret", "x-api-key: ***"),
        ("auth: null", "auth: null"),
        ("# Behind a server with credentials:\n# correct", "# Behind a server with credentials:\n# correct"),
        ("headers: {}", "headers: {}"),
        *(
            (f"{name}: a", f"{name}: a")
            for name in (
                *("key", "keys", "cache_key", "sort_key", "json_key", "monkey", "max_new_tokens", "token_f1"),
                *("tokenizer", "eos_token", "author", "header", "authors", "key_value", "authentic"),
            )
        ),
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


def test_data_lose_users_of_urls_headers_and_lists_of_keys_and_tasks_keep_their_attributes() -> None:
    content = {
        "servers": ["http://user:s3cret@gpu:8000", "http://gpu:8000"],
        "kwargs": {"headers": {"X-Gateway": "s3cret"}, "api_keys": ["s3cret"], "cache_key": "a", "auth": True},
        "own_tasks": {"facts": {"properties": {"headers": {"type": "string"}}}},
    }
    assert without_secrets(content) == {
        "servers": ["http://gpu:8000", "http://gpu:8000"],
        "kwargs": {"headers": None, "api_keys": None, "cache_key": "a", "auth": True},
        "own_tasks": content["own_tasks"],
    }
    assert list(secret_keys(content)) == ["servers.0", "kwargs.headers", "kwargs.api_keys"]
