"""Troubles of the learning signal: said when they begin, silent otherwise."""

from typing import Any

import pytest

from grpo_mmpc.rewards.troubles import LATEST, nano_troubles, signal_troubles

WEIGHTS = {"bleu": 0.5, "clip": 0.5, "rouge_l": 0.0}


def rows(count: int, **changes: float) -> list[dict[str, Any]]:
    healthy = {"reward": 0.5, "dead_group_share": 0.0, "reward_hacking_alarms": 0.0}
    for name in WEIGHTS:
        healthy |= {f"rewards/{name}/unscored_share": 0.0, f"rewards/{name}/raw_mean": 0.3}
        healthy |= {f"signal/{name}/dead_groups": 0.0, f"signal/{name}/advantage_share": 0.5}
    return [
        {"step": step, **healthy, **{key.replace("__", "/"): value for key, value in changes.items()}}
        for step in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("changes", "count", "key", "said"),
    [
        ({"rewards__bleu__unscored_share": 1.0}, 1, "unscored bleu", "scored not one completion in step 1"),
        ({"rewards__bleu__raw_mean": 0.0, "signal__bleu__dead_groups": 1.0}, 3, "zero bleu", "every completion 0"),
        ({"dead_group_share": 1.0}, LATEST, "zero variance", "No group has variance in steps 1 to 5"),
        ({"signal__clip__advantage_share": 0.9}, LATEST, "dominant clip", "holds 90% of the advantages' variance"),
        ({"reward_hacking_alarms": 1.0}, 1, "monitor", "A monitor falls"),
        (
            {"malformed_share": 1.0, "completions__clipped_ratio": 0.25},
            *(1, "malformed", "Not one completion of step 1 is a valid answer, and 25% are cut off"),
        ),
    ],
)
def test_each_trouble_is_one_sentence(changes: dict[str, float], count: int, key: str, said: str) -> None:
    found = signal_troubles(rows(count, **changes), WEIGHTS)
    assert list(found) == [key]
    assert said in found[key]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 20),
        ({"rewards__rouge_l__unscored_share": 1.0}, 20),  # a monitor
        ({"dead_group_share": 1.0}, LATEST - 1),
        ({"signal__clip__advantage_share": 0.9}, LATEST - 1),
        ({"signal__clip__advantage_share": 0.79}, 20),
        ({"signal__clip__advantage_share": 1.0, "signal__bleu__dead_groups": 1.0}, 20),  # nothing to have a say with
    ],
)
def test_a_healthy_signal_is_silent(changes: dict[str, float], count: int) -> None:
    assert signal_troubles(rows(count, **changes), WEIGHTS) == {}


def test_lines_of_the_log_may_stand_for_several_steps() -> None:
    sparse = [row | {"step": 20 * row["step"]} for row in rows(1, dead_group_share=1.0)]
    assert "No group has variance in step 20" in signal_troubles(sparse, WEIGHTS)["zero variance"]


def test_a_step_without_a_valid_answer_says_nothing_of_what_a_reward_can_score() -> None:
    logged = rows(4, rewards__bleu__unscored_share=1.0)
    del logged[-1]["rewards/bleu/unscored_share"]
    assert "scored not one completion in steps 1 to 4" in signal_troubles(logged, WEIGHTS)["unscored bleu"]


def test_one_reward_alone_cannot_dominate_others_and_nothing_logged_is_no_trouble() -> None:
    assert signal_troubles(rows(LATEST, signal__bleu__advantage_share=1.0), {"bleu": 1.0}) == {}
    assert signal_troubles([], WEIGHTS) == {}
    assert signal_troubles([{"step": 1, "loss": 0.0}], WEIGHTS) == {}


def test_nano_models_are_said_to_know_nothing_but_nano() -> None:
    config = {"model": {"name_or_path": "nano:qwen2_5_vl"}, "rewards": {"mix": [{"kwargs": {"model": "nano:clip"}}]}}
    assert nano_troubles(config, ["nano-00001", "nano-00002"]) == {}
    said = nano_troubles(config, ["shop-1"])["nano"]
    assert said.startswith("nano:qwen2_5_vl and nano:clip know only the products of the nano catalogue")
    # MiniLM is a real model that happens to be embedded.
    assert nano_troubles({"model": {"name_or_path": "org/model"}, "encoders": ["nano:minilm"]}, ["shop-1"]) == {}
