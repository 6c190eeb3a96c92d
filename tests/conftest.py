"""Fixtures shared by the whole suite: a small nano catalogue and a configuration that trains on it
in seconds."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRPO_MMPC_ENCODINGS_GB", "0")  # the user's own file of encodings is left alone
os.environ.setdefault("GRPO_MMPC_VLLM_CPU", "1")  # as our engines do: tests import vLLM before any engine starts

# As nohup and `&` start us; our children would ignore them too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples in every run and on slow machines; HYPOTHESIS_PROFILE=default tries new ones.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

ARCHITECTURES = {"qwen2_5_vl": "nano:qwen2_5_vl", "gemma3": "nano:gemma3"}


LONGEST = ("training", "launch", "ablation", "rollout", "package")
"""Folders of tests with files that take minutes: they come first, so that none of them is left for
one process at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by what they take; tests of a file stay in their order."""
    folders = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(folders).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(autouse=True, scope="module")
def libraries_out_of_the_collectors_way() -> None:
    """Trainers collect garbage whenever they start: a second each, were they to look through all
    that was imported."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let libraries take leave of what they hold."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def small_catalogue(tmp_path_factory) -> Path:
    """A nano catalogue of 90 items."""
    from grpo_mmpc.nano.catalogue import build_catalogue

    return build_catalogue(tmp_path_factory.mktemp("catalogue") / "nano", num_items=90, seed=11)


@pytest.fixture(scope="session")
def config_in(small_catalogue):
    """A function that makes a small but complete run configuration; keyword arguments replace whole
    sections' keys."""
    from grpo_mmpc.config import RunConfig

    def make(run_dir: Path, architecture: str = "qwen2_5_vl", **changes) -> RunConfig:
        config = {
            "run_dir": str(run_dir),
            "model": {"name_or_path": ARCHITECTURES[architecture], "init_kwargs": {"dtype": "float32"}},
            "adapter": {
                "r": 4,
                "lora_alpha": 8,
                "target_modules": r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
            },
            "data": {"catalogue": str(small_catalogue), "held_out": 0.2},
            "tasks": ["image_to_text"],
            "rewards": {"mix": [{"name": "bleu", "weight": 1.0}]},
            "trainer": {
                "per_device_train_batch_size": 8,
                "num_generations": 4,
                "max_steps": 2,
                "max_completion_length": 40,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_strategy": "no",
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
            },
            "evaluation": {
                "max_items": 6,
                "max_tokens": {"image_to_text": 12, "text_to_image": 12},
                "renderer": "nano",
                "controls": [],
                "encoders": dict.fromkeys(("bertscore", "clip", "sentence", "dinov2", "lpips", "inception")),
            },
            "report": {"enabled": False},
        }
        for key, value in changes.items():
            config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
        return RunConfig.model_validate(config)

    return make


@pytest.fixture
def make_config(config_in, tmp_path):
    """``config_in`` for a run in the test's own folder."""

    def make(architecture: str = "qwen2_5_vl", run_dir: Path = tmp_path / "run", **changes):
        return config_in(run_dir, architecture, **changes)

    return make
