"""The page on 1 to 64 nodes shows what the plan says now, and traffic is arithmetic."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from grpo_mmpc.analysis.plan.hardware import DEVICES, STRATEGIES
from grpo_mmpc.analysis.plan.plan import make_plan
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.loading import merge_layers, split_words, validate
from grpo_mmpc.models.shapes import read_shape

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks/scaling.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_picture_and_tables_of_the_page_are_those_that_its_command_writes(benchmark: ModuleType) -> None:
    svg, tables = benchmark.paper()
    assert (ROOT / "docs/images/scaling.svg").read_text(encoding="utf-8") == svg
    assert tables in (ROOT / "docs/scaling.md").read_text(encoding="utf-8").replace("\n\n\n", "\n\n")


def traffic(strategy: str, *words: str, nodes: int) -> dict[str, float]:
    config = validate(RunConfig, merge_layers(*split_words([str(ROOT / "recipes/qwen2_5_vl_7b.yaml"), *words])))
    plan = make_plan(
        config,
        read_shape(config.model),
        device=DEVICES["h100"],
        gpus=8 * nodes,
        nodes=nodes,
        strategies=[STRATEGIES[strategy]],
    )
    shape, trained = plan.work.shape, plan.work.trained_parameters
    assert (trained, round(shape.parameters / 1e9, 2)) == (80_740_352, 8.29)
    return dict(plan.speed[strategy].traffic)


def test_with_a_copy_on_each_gpu_gradients_travel_and_nothing_else() -> None:
    # 80,740,352 parameters of 4 bytes, there and back
    assert traffic("ddp", nodes=4) == {"gradients between GPUs": 2 * 4 * 80_740_352}


def test_sharded_weights_are_gathered_for_each_pass_of_each_micro_batch() -> None:
    """Twice as large micro-batches halve it."""
    few, many = (
        traffic(
            "zero3",
            f"trainer.per_device_train_batch_size={micro_batch}",
            f"trainer.gradient_accumulation_steps={16 // micro_batch}",
            nodes=2,
        )["gathering weights"]
        for micro_batch in (8, 4)
    )
    assert many == 2 * few > 0


def test_servers_get_prompts_once_a_group_and_the_adapter_from_the_ranks_together() -> None:
    sent = traffic("ddp", "rollout.mode=server", nodes=4)
    assert sent["adapter to servers"] == 2 * 80_740_352  # one of 32 servers
    assert traffic("ddp", "rollout.mode=server", "rollout.servers=[http://a]", nodes=4)["adapter to servers"] == (
        2 * 80_740_352
    )
    # 16 completions of 8 a group show 2 images of 512 tokens of 4 patches of 14 x 14 pixels
    assert sent["prompts and answers"] == pytest.approx(2 * 512 * 4 * 196 * 1.8 + 16 * 128 * 60)
