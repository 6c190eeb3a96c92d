"""Every registered reward, fitted, with the embedded or tiny random encoders of this machine."""

import configparser
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.tasks import TASKS
from tests.shipped_rewards.fake_judge import FakeJudge

ROOT = Path(__file__).parents[2]
TITLES = [
    "Acme Red Tote Bag, Large, Pack of 2",
    "Brio Blue Mug, 12 oz, Pack of 2",
    "Corva Green Lamp, Small, Pack of 2",
]
NANO_KWARGS: dict[str, dict[str, Any]] = {
    "bertscore": {"model": "nano:minilm", "device": "cpu"},
    "embedding_cosine": {"model": "nano:minilm", "device": "cpu"},
    "retrieval": {"model": "nano:minilm", "device": "cpu"},
    "clip_similarity": {"model": "nano:clip", "floor": -1.0, "device": "cpu"},
    "dinov2_similarity": {"renderer": "nano", "floor": -1.0, "device": "cpu"},
    "cycle_consistency": {"model": "nano:clip", "renderer": "nano", "device": "cpu"},
    "attribute_consistency": {
        "values": {"brand": ["acme", "zenith"]},
        **{"model": "nano:clip", "renderer": "nano", "device": "cpu"},
    },
    "image_prompt_limit": {"tokenizer": "nano:clip"},
}
RUBRIC = {"criteria": {"kind": {"question": "Is it the right product?"}}}
REQUIRED: dict[str, dict[str, Any]] = {
    # Nobody listens there: for tests that ask nothing.
    "llm_judge": {"urls": "http://127.0.0.1:9", "model": "judge", "rubric": RUBRIC}
}
"""Arguments that have no default, because only a user knows a server."""


def registered() -> dict[str, str]:
    """Read the registered rewards from setup.cfg: the tests do not depend on what is installed."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options.entry_points"]["grpo_mmpc.rewards"].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


def load(target: str) -> Callable[..., Any]:
    module, _, factory = target.partition(":")
    return getattr(importlib.import_module(module), factory)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "reward_name" in metafunc.fixturenames:
        metafunc.parametrize("reward_name", list(registered()))
    if "quick_reward_name" in metafunc.fixturenames:  # those without an encoder, for many examples
        slow = ("bertscore", "embedding_cosine", "retrieval", "clip_similarity", "dinov2_similarity")
        slow += ("cycle_consistency", "attribute_consistency", "llm_judge")
        metafunc.parametrize("quick_reward_name", [name for name in registered() if name not in slow])


@pytest.fixture(scope="session")
def factories() -> dict[str, Callable[..., Any]]:
    """Factories of all registered rewards by name."""
    return {name: load(target) for name, target in registered().items()}


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of random weights that sees 28 pixels."""
    from grpo_mmpc.utils.cpu_compat import ensure_importable

    ensure_importable()
    import torch
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    model = Dinov2Model(config)
    for parameter in model.parameters():  # the default initialisation makes all embeddings alike
        parameter.data = torch.randn_like(parameter) * 0.3
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def judge_url() -> Iterator[str]:
    """A judge that likes every text equally well."""
    judge = FakeJudge()
    yield judge.url
    judge.stop()


@pytest.fixture(scope="session")
def make_reward(factories: dict[str, Callable[..., Any]], dinov2_folder: Path, judge_url: str) -> Callable[..., Any]:
    """A function that builds a registered reward with what this machine has, and fits it."""

    def make(name: str, **kwargs: Any) -> Any:
        known = REQUIRED.get(name, {}) | NANO_KWARGS.get(name, {})
        if name == "llm_judge":
            known["urls"] = judge_url
        if name == "dinov2_similarity":
            known["model"] = str(dinov2_folder)
        reward = factories[name](**known | kwargs)
        if reward.fit is not None:
            reward.fit(TITLES)
        return reward

    return make


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real image."""
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    image = Image.new("RGB", (60, 40), "white")
    image.paste("red", (10, 5, 40, 30))
    image.save(path)
    return str(path)


@pytest.fixture(scope="session")
def make_batch(photo: str) -> Callable[..., dict[str, list[Any]]]:
    """A function that makes the columns of a batch of one task from its predictions."""

    def make(predictions: list[str], *, task: str, references: list[str | None] | None = None) -> dict[str, list[Any]]:
        count = len(predictions)
        return {
            "predictions": predictions,
            "references": references or [TITLES[0]] * count,
            "completions": [f'{{"title": "{position}"}}' for position in range(count)],
            "formats": ["json"] * count,
            "tasks": [task] * count,
            "targets": [TASKS[task].kind] * count,
            "title": references or [TITLES[0]] * count,
            "item_ids": ["item"] * count,
            "prompts": ["Write a title."] * count,
            "image_paths": [photo] * count,
            "attributes": [{"brand": "acme"}] * count,
            "categories": ["Bags"] * count,
        }

    return make
