"""The promises of every shipped reward; ``reward_name`` runs over all of them, see conftest.py."""

import importlib
import inspect
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards.declaration import NEEDS, Reward
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.types import TARGET_KINDS
from tests.shipped_rewards.conftest import NANO_KWARGS, REQUIRED

ROOT = Path(__file__).parents[2]
README = (ROOT / "rewards" / "README.md").read_text(encoding="utf-8")
TITLE = "Acme Red Cotton Tote Bag, Large, Pack of 2"

Factories = dict[str, Callable[..., Any]]


def built(name: str, factories: Factories) -> Any:
    return factories[name](**REQUIRED.get(name, {}))


def test_every_reward_is_built_without_loading_a_model_and_declares_itself(
    reward_name: str, factories: Factories
) -> None:
    reward = built(reward_name, factories)  # an encoder that is not on this machine must not be looked for yet
    lowest, highest = reward.value_range
    assert factories[reward_name].__name__ == reward_name
    assert lowest == reward.worst_score < highest
    assert set(reward.targets) <= set(TARGET_KINDS)
    assert reward.targets
    assert set(reward.needs) <= set(NEEDS)
    assert (reward.fit is not None or reward.fit_images is not None) == ("corpus" in reward.needs)
    assert (reward.prepare is not None) == bool({"encoder", "server"} & {*reward.needs})


def test_building_all_rewards_imports_no_heavy_package() -> None:
    code = (
        "import json, sys; from importlib import import_module\n"
        "required = json.loads(sys.argv[1])\n"
        "for target in sys.argv[2:]:\n"
        "    module, _, name = target.partition(':')\n"
        "    getattr(import_module(module), name)(**required.get(name, {}))\n"
        "print(sorted({'torch', 'transformers', 'diffusers', 'sklearn', 'py3langid'} & set(sys.modules)))\n"
    )
    targets = [f"{factory.__module__}:{name}" for name, factory in _all_factories().items()]
    output = subprocess.run(
        [sys.executable, "-c", code, json.dumps(REQUIRED), *targets],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout.strip() == "[]"


def _all_factories() -> Factories:
    import configparser

    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options.entry_points"]["grpo_mmpc.rewards"].strip().splitlines()
    targets = [line.split("=")[1].strip().partition(":") for line in lines]
    return {name: getattr(importlib.import_module(module), name) for module, _, name in targets}


def test_every_reward_says_its_range_needs_cost_and_how_it_is_gamed(reward_name: str, factories: Factories) -> None:
    docstring = " ".join((inspect.getdoc(factories[reward_name]) or "").split())
    lowest, highest = built(reward_name, factories).value_range
    for promise in ("Range: [", "Needs: ", "Cost: ", "Gamed by: "):
        assert promise in docstring, f"{reward_name}: {promise}"
    if "floor" not in inspect.signature(factories[reward_name]).parameters:
        assert f"Range: [{lowest:g}, {highest:g}]" in docstring


def test_the_readme_table_has_one_full_row_for_every_reward_and_no_other(factories: Factories) -> None:
    rows = [line.strip("|").split("|") for line in README.splitlines() if line.startswith("| `")]
    assert [row[0].strip(" `") for row in rows] == list(factories)
    for row in rows:
        name, value_range, targets, *others = (cell.strip() for cell in row)
        assert len(others) == 3 and all(others), name
        reward = built(name.strip("`"), factories)
        assert targets == ("any" if reward.targets == TARGET_KINDS else ", ".join(reward.targets))
        lowest, highest = reward.value_range
        assert value_range in (f"[{lowest:g}, {highest:g}]", "[floor, 1], floor 0", "{0, 0.5, 1}")


def test_every_kwarg_is_keyword_only_with_a_default_and_described(reward_name: str, factories: Factories) -> None:
    docstring = inspect.getdoc(factories[reward_name]) or ""
    for name, parameter in inspect.signature(factories[reward_name]).parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, reward_name
        has_default = parameter.default is not inspect.Parameter.empty
        assert has_default != (name in REQUIRED.get(reward_name, {})), reward_name
        assert f"    {name}: " in docstring, f"{reward_name}: {name}"


def test_needs_are_words_that_the_mix_knows() -> None:
    with pytest.raises(RewardError, match="found 'images'"):
        Reward(score=lambda **_: [], value_range=(0.0, 1.0), needs=("images",))


TITLE_REWARDS = [
    "bleu",
    "rouge_l",
    "chrf",
    "token_f1",
    "jaccard",
    "chrf_idf",
    "tfidf_cosine",
    "attribute_f1",
    "bertscore",
    "embedding_cosine",
]


@pytest.mark.parametrize("name", TITLE_REWARDS)
def test_rewards_of_titles_order_them_and_leave_unreferenced_ones_unscored(
    name: str, make_reward: Callable[..., Any]
) -> None:
    scores = make_reward(name)(
        predictions=[TITLE, "Acme Red Mug, Large", "zzzz", TITLE, TITLE],
        references=[TITLE, TITLE, TITLE, None, "  "],
        tasks=["image_to_text"] * 5,
        item_ids=list("abcde"),
        color=["red"] * 5,  # a catalogue column of its own
    )
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] > scores[1] > scores[2] >= 0.0
    assert scores[3:] == [None, None]


@pytest.mark.parametrize("name", ["bleu", "rouge_l", "chrf", "token_f1", "jaccard", "tfidf_cosine"])
def test_text_rewards_score_what_the_metric_scores(name: str, factories: Factories) -> None:
    from grpo_mmpc.metrics.metric import MetricInputs
    from grpo_mmpc.metrics.table import METRICS

    predictions, references = ["Red Bag, Large", "mug", TITLE], [TITLE, "Blue Mug", "Red bag"]
    metric = METRICS[name].score(MetricInputs(task="image_to_text", predictions=predictions, references=references))
    reward = factories[name]()
    if reward.fit is not None:
        reward.fit(references)
    assert reward(predictions=predictions, references=references) == pytest.approx(metric)


@pytest.mark.parametrize("name", TITLE_REWARDS)
def test_equal_completions_of_a_group_are_scored_once(name: str, make_reward: Callable[..., Any]) -> None:
    reward = make_reward(name)
    one = reward(predictions=["Red Bag"], references=[TITLE], attributes=[{}])
    assert reward(predictions=["Red Bag"] * 3, references=[TITLE] * 3, attributes=[{}] * 3) == one * 3


def test_a_pair_is_scored_once_in_a_batch() -> None:
    from grpo_mmpc_rewards.batches import ScorePairs, ScoreTexts

    pairs: list[tuple[str, str]] = []
    texts: list[str] = []

    def compare(*, predictions: list[str], references: list[str]) -> list[float]:
        pairs.extend(zip(predictions, references, strict=True))
        return [float(len(prediction)) for prediction in predictions]

    def judge(text: str) -> float:
        texts.append(text)
        return float(len(text))

    batch = {"predictions": ["a", "bb", "a", "a", "a"], "references": ["r", "r", "r", None, "s"]}
    assert ScorePairs(compare)(**batch) == [1.0, 2.0, 1.0, None, 1.0]
    assert pairs == [("a", "r"), ("bb", "r"), ("a", "s")]
    assert ScoreTexts(judge)(**batch) == [1.0, 2.0, 1.0, 1.0, 1.0]
    assert texts == ["a", "bb"]


def test_without_a_reference_in_the_batch_no_encoder_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo_mmpc_rewards import image, semantic

    def refuse(**_: Any) -> None:
        raise AssertionError("loaded for nothing")

    for module, name in [(semantic, "bertscore_encoder"), (semantic, "sentence_encoder"), (image, "dinov2_encoder")]:
        monkeypatch.setattr(module, name, refuse)
    nothing = {"predictions": ["a"], "references": [None], "image_paths": [None], "item_ids": ["i"]}
    for reward in (semantic.bertscore(), semantic.embedding_cosine(), image.dinov2_similarity(renderer="nano")):
        assert reward(**nothing) == [None]
        assert reward.prepare is not None
        reward.prepare(references=[None], image_paths=[None])


def test_bleu_takes_nltk_smoothings_and_refuses_others(factories: Factories) -> None:
    bleu = factories["bleu"]
    # bigrams of "b a" in "a b": none. method3 counts 1/2 of 1, method1 counts 1/10 of 1
    assert bleu()(predictions=["b a"], references=["a b"]) == pytest.approx([0.5**0.5])
    assert bleu(smoothing="method1")(predictions=["b a"], references=["a b"]) == pytest.approx([0.1**0.5])
    with pytest.raises(ValueError, match="method3"):
        bleu(smoothing="none")


@pytest.mark.parametrize("module", ["text", "format", "attributes", "length", "language", "judge"])
def test_docstring_examples_are_right(module: str) -> None:
    import doctest

    results = doctest.testmod(importlib.import_module(f"rewards.{module}"))
    assert results.attempted and not results.failed


@pytest.mark.parametrize("page", [ROOT / "rewards" / "README.md", ROOT / "docs" / "rewards.md"])
def test_the_example_of_each_page_is_a_working_reward(page: Path) -> None:
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    columns = {
        "predictions": ["Acme Bag", "acme bag", "Bag"],
        "brand": ["Acme", "Acme", None],
        "attributes": [{"brand": "Acme"}, {"brand": "Acme"}, {}],
        "item_ids": ["a", "b", "c"],
    }
    assert namespace["brand_match"]()(**columns) == [1.0, 1.0, None]
    assert namespace["brand_match"](strict=True)(**columns) == [1.0, 0.0, None]


def test_every_reward_survives_pickle_and_gives_the_same_scores(
    reward_name: str, make_reward: Callable[..., Any], make_batch: Callable[..., dict[str, list[Any]]]
) -> None:
    reward = make_reward(reward_name)
    copy = pickle.loads(pickle.dumps(reward))
    for task in (name for name, task in TASKS.items() if task.kind in reward.targets):
        batch = make_batch(["Acme Red Bag, Large", "blue mug", "blue mug", TITLE], task=task)
        assert copy(**batch) == reward(**batch)
    assert (copy.targets, copy.needs, copy.worst_score) == (reward.targets, reward.needs, reward.worst_score)
    if reward.prepare is not None:
        copy.prepare(**{name: batch[name] for name in ("references", "title", "image_paths", "item_ids", "tasks")})


def test_a_pickled_reward_is_fitted_by_its_own_fit(reward_name: str, factories: Factories) -> None:
    reward = factories[reward_name](**REQUIRED.get(reward_name, {}), **NANO_KWARGS.get(reward_name, {}))
    if reward.fit is None:
        return
    copy = pickle.loads(pickle.dumps(reward))
    copy.fit([TITLE, "Blue Mug"])
    batch = {"predictions": [TITLE], "references": [TITLE], "title": [TITLE], "item_ids": ["item"]}
    assert copy(**batch) == pytest.approx([1.0], abs=1e-4)
    with pytest.raises(RewardError, match="was not fitted"):
        reward(**batch)


def test_scores_are_plain_numbers(
    reward_name: str, make_reward: Callable[..., Any], make_batch: Callable[..., dict[str, list[Any]]]
) -> None:
    reward = make_reward(reward_name)
    (score,) = reward(
        **make_batch(["red bag, large"], task="image_to_text" if "text" in reward.targets else "text_to_image")
    )
    assert type(score) is float
    assert math.isfinite(score)
