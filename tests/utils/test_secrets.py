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
        ("judge --token=plain -n 1", "judge --token=*** -n 1"),
        ('{"api_key": "plain", "seed": 1}', '{"api_key": "***", "seed": 1}'),
        (f"seen anywhere {HF}", "seen anywhere ***"),
        ("hub_token: null", "hub_token: null"),
        ("pad_token: <pad>", "pad_token: <pad>"),
        ("include_num_input_tokens_seen: all", "include_num_input_tokens_seen: all"),
        ("max_tokens: 40", "max_tokens: 40"),
        ("servers: [http://user:s3cret@gpu:8000]", "servers: [http://***@gpu:8000]"),
        ("proxies: {http: http://u:s3@cret@p:80}", "proxies: {http: http://***@p:80}"),
        ("see http://gpu:8000/a@b, and mail@example.org", "see http://gpu:8000/a@b, and mail@example.org"),
        ("headers: {Authorization: Bearer s3cret, n: 1}", "headers: {Authorization: ***, n: 1}"),
        ("Proxy-Authorization: Basic s3cret", "Proxy-Authorization: ***"),
        ("kwargs.headers={X-Api-Key: s3cret} seed=1", "kwargs.headers={X-Api-Key: ***} seed=1"),
        ("api_keys: [s3cret, s3cret]", "api_keys: ***"),
        ("api_keys={a: s3cret} b=1", "api_keys=*** b=1"),
        ("judge_key: s3cret", "judge_key: ***"),
        ("credentials: 's3cret'", "credentials: '***'"),
        ("x-api-key: s3cret", "x-api-key: ***"),
        ("auth: null", "auth: null"),
        ("# Behind a server with credentials:\n# correct", "# Behind a server with credentials:\n# correct"),
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


def test_data_lose_users_of_urls_keys_in_headers_and_lists_of_keys_and_tasks_keep_their_attributes() -> None:
    content = {
        "servers": ["http://user:s3cret@gpu:8000", "http://gpu:8000"],
        "kwargs": {
            "headers": {"X-Api-Key": "s3cret", "Accept": "text"},
            "api_keys": ["s3cret"],
            "key": "a",
            "auth": True,
        },
        "own_tasks": {"facts": {"properties": {"auth": {"type": "string"}}}},
    }
    assert without_secrets(content) == {
        "servers": ["http://gpu:8000", "http://gpu:8000"],
        "kwargs": {"headers": {"X-Api-Key": None, "Accept": "text"}, "api_keys": None, "key": "a", "auth": True},
        "own_tasks": content["own_tasks"],
    }
    assert list(secret_keys(content)) == ["servers.0", "kwargs.headers.X-Api-Key", "kwargs.api_keys"]
