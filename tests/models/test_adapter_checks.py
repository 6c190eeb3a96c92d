"""An adapter is held to its model before any weights are read: by names, and by ranks."""

from typing import Any

import pytest

from grpo_mmpc.models.adapter_checks import check_adapter

ATTENTION = r".*language_model.*\.(q|k|v|o)_proj"


def problems(name: str = "nano:qwen2_5_vl", **adapter: Any) -> dict[str, str]:
    return dict(
        check_adapter({"model": {"name_or_path": name}, "adapter": {"r": 4, "target_modules": ATTENTION} | adapter})
    )


@pytest.mark.parametrize(
    "adapter",
    [
        {},
        {"r": 192},  # k and v have 64 features: their rank is wasted, that of q and o is not
        {"target_modules": "all-linear"},
        {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 8}},
        {"layers_to_transform": [0], "target_modules": ["q_proj"]},
        {"use_dora": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["nano:qwen2_5_vl", "nano:gemma3"])
def test_an_adapter_that_fits_is_no_problem(name: str, adapter: dict[str, Any]) -> None:
    assert problems(name, **adapter) == {}


@pytest.mark.parametrize(
    ("adapter", "key", "message"),
    [
        ({"r": 2_000_000}, "adapter.r", "2,000,000 is above 192, the largest rank that a layer it adapts can have"),
        ({"r": 193}, "adapter.r", "193 is above 192"),
        (
            {"rank_pattern": {"q_proj": 2_000_000}},
            "adapter.rank_pattern",
            "2,000,000 is above 192",
        ),
        ({"rank_pattern": {"query": 8}}, "adapter", "did not match any targeted module and were ignored: ['query']"),
        ({"alpha_pattern": {"query": 8}}, "adapter", "alpha_pattern keys did not match any targeted module"),
        ({"target_modules": ["query"]}, "adapter", "not found in the base model"),
        ({"target_modules": "query"}, "adapter", "Its linear layers: "),
        ({"target_modules": None, "target_parameters": ["experts.w"]}, "adapter", "PEFT refuses these values"),
        ({"target_parameters": ["experts.w"]}, "adapter", "were set but no parameter was matched. Correct or remove"),
        ({"fan_in_fan_out": True}, "adapter", "Setting fan_in_fan_out to False. Correct or remove it"),
        ({"lora_bias": True}, "adapter", "q_proj.lora_B.bias: engines and checkpoints would not take them"),
        ({"exclude_modules": ".*"}, "adapter", "All modules were excluded"),
    ],
    ids=str,
)
def test_ranks_and_names_that_the_model_cannot_use_are_refused(adapter: dict[str, Any], key: str, message: str) -> None:
    found = problems(**adapter)
    assert list(found) == [key]
    assert message in found[key]


def test_a_model_that_is_not_here_is_left_to_its_loading() -> None:
    assert problems("somebody/elsewhere", r=2_000_000) == {}
