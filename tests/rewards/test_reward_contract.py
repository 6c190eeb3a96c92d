"""What every shipped reward promises to the mix."""

import configparser
import importlib
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.tasks import TASKS

ROOT = Path(__file__).parents[2]
TITLE = "Acme Red Cotton Tote Bag, Large, Pack of 2"


def entry_points() -> dict[str, str]:
    """Registered rewards, read from setup.cfg so that the test does not depend on what is installed."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options.entry_points"]["grpo_mmpc.rewards"].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


def load(target: str) -> Callable[..., Any]:
    module, _, factory = target.partition(":")
    return getattr(importlib.import_module(module), factory)


@pytest.mark.parametrize(("name", "target"), entry_points().items())
def test_every_registered_reward_is_built_without_loading_a_model_and_declares_itself(name: str, target: str) -> None:
    factory = load(target)
    reward = factory()  # an encoder that is not on this machine must not be looked for yet
    lowest, highest = reward.value_range
    assert factory.__name__ == name
    assert lowest <= reward.worst_score < highest
    assert set(reward.tasks) <= set(TASKS)
    assert reward.tasks


@pytest.mark.parametrize(("name", "target"), entry_points().items())
def test_every_registered_reward_says_its_range_cost_and_how_it_is_gamed(name: str, target: str) -> None:
    docstring = " ".join((inspect.getdoc(load(target)) or "").split()).lower()
    for promise in ("range [", "cost:", "gamed by:"):
        assert promise in docstring, f"{name}: {promise}"
    assert f"| `{name}` |" in (ROOT / "rewards" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "target"), entry_points().items())
def test_every_kwarg_is_keyword_only_with_a_default(name: str, target: str) -> None:
    for parameter in inspect.signature(load(target)).parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, name
        assert parameter.default is not inspect.Parameter.empty, name


TEXT_REWARDS = ["bleu", "rouge_l", "chrf", "token_f1", "jaccard"]


@pytest.mark.parametrize("name", TEXT_REWARDS)
def test_text_rewards_order_titles_and_leave_unreferenced_ones_unscored(name: str) -> None:
    reward = load(entry_points()[name])()
    scores = reward(
        predictions=[TITLE, "Acme Red Mug, Large", "zzzz", TITLE, TITLE],
        references=[TITLE, TITLE, TITLE, None, "  "],
        tasks=["image_to_text"] * 5,
        item_ids=list("abcde"),
        color=["red"] * 5,  # a catalogue column of its own
    )
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] > scores[1] > scores[2] >= 0.0
    assert scores[3:] == [None, None]


@pytest.mark.parametrize("name", TEXT_REWARDS)
def test_text_rewards_score_what_the_metric_scores(name: str) -> None:
    from grpo_mmpc.metrics.table import METRICS, MetricInputs

    predictions, references = ["Red Bag, Large", "mug", TITLE], [TITLE, "Blue Mug", "Red bag"]
    metric = METRICS[name].score(MetricInputs(task="image_to_text", predictions=predictions, references=references))
    assert load(entry_points()[name])()(predictions=predictions, references=references) == metric


def test_bleu_takes_nltk_smoothings_and_refuses_others() -> None:
    bleu = load("rewards.text:bleu")
    # bigrams of "b a" in "a b": none. method3 counts 1/2 of 1, method1 counts 1/10 of 1
    assert bleu()(predictions=["b a"], references=["a b"]) == pytest.approx([0.5**0.5])
    assert bleu(smoothing="method1")(predictions=["b a"], references=["a b"]) == pytest.approx([0.1**0.5])
    with pytest.raises(ValueError, match="method3"):
        bleu(smoothing="none")


def test_json_format_prefers_the_bare_object() -> None:
    reward = load("rewards.format:json_format")()
    completions = ['{"title": "Red Bag"}', '```json\n{"title": "Red Bag"}\n```', "Red Bag", '{"prompt": "a bag"}']
    tasks = ["image_to_text", "image_to_text", "image_to_text", "text_to_image"]
    assert reward(completions=completions, tasks=tasks) == [1.0, 0.5, 0.0, 1.0]


@pytest.mark.parametrize("module", ["rewards.text", "rewards.format"])
def test_docstring_examples_are_right(module: str) -> None:
    import doctest

    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_the_readme_example_is_a_working_reward() -> None:
    code = (ROOT / "rewards" / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    columns = {
        "predictions": ["Acme Bag", "acme bag", "Bag"],
        "brand": ["Acme", "Acme", None],
        "item_ids": ["a", "b", "c"],
    }
    assert namespace["brand_match"]()(**columns) == [1.0, 1.0, None]
    assert namespace["brand_match"](strict=True)(**columns) == [1.0, 0.0, None]


def test_scores_are_plain_numbers() -> None:
    for name in TEXT_REWARDS:
        (score,) = load(entry_points()[name])()(predictions=["red bag"], references=["red tote bag"])
        assert type(score) is float
        assert math.isfinite(score)
