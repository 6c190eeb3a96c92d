"""Align multimodal LLMs with GRPO to fill gaps of product catalogues, and measure the result.

    from grpo_mmpc import load_config, train

    run = train(load_config("recipes/nano.yaml", "trainer.max_steps=10"))

Everything public is loaded when it is first asked for: importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_mmpc.pipelines.api import compare, complete, evaluate, load_config, score, train
    from grpo_mmpc.rewards.declaration import Reward
    from grpo_mmpc.tasks import Task

__version__ = "0.1.0"

_MODULES = {
    **dict.fromkeys(("compare", "complete", "evaluate", "load_config", "score", "train"), "pipelines.api"),
    "Reward": "rewards.declaration",
    "Task": "tasks",
}
__all__ = ["Reward", "Task", "compare", "complete", "evaluate", "load_config", "score", "train"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
