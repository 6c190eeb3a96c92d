"""A plan's numbers are those that were measured, and its verdict says what to turn."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.analysis.plan.hardware import DEVICES, GIB, STRATEGIES, strategy_of
from grpo_mmpc.analysis.plan.memory import memory_of, weight_bytes
from grpo_mmpc.analysis.plan.plan import Plan, make_plan
from grpo_mmpc.analysis.plan.speed import speed_of
from grpo_mmpc.analysis.plan.workload import workload_of
from grpo_mmpc.cli import main
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.loading import merge_layers, validate
from grpo_mmpc.models.shapes import read_shape

ROOT = Path(__file__).parents[3]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml") if not path.stem.startswith("nano"))
MEASURED = {
    "qwen2_5_vl_3b": (10.0, 10.9),
    "gemma3_4b": (12.7, 13.4),
    "qwen2_5_vl_7b": (19.3, 10.1),
    "gemma3_12b": (29.6, 18.8),
}
"""GiB at the peak and seconds a step, on one H100: benchmarks/RESULTS.md."""
AS_MEASURED = ("rollout.backend=transformers", "rewards.mix=[{name: bleu, weight: 1.0}]")
IMAGES_OF_256_TOKENS = "model.processor_kwargs={min_pixels: 200704, max_pixels: 200704}"


def recipe(name: str, *overrides: str) -> RunConfig:
    return validate(RunConfig, merge_layers([str(ROOT / f"recipes/{name}.yaml")], list(overrides)))


def planned(config: RunConfig, *, gpus: int = 8, gpu: str = "h100", nodes: int = 1, **options: Any) -> Plan:
    return make_plan(config, read_shape(config.model), device=DEVICES[gpu], gpus=gpus, nodes=nodes, **options)


@pytest.mark.parametrize("name", MEASURED)
def test_memory_and_time_are_near_what_was_measured_on_a_gpu(name: str) -> None:
    config = recipe(name, *AS_MEASURED, *([IMAGES_OF_256_TOKENS] if "qwen" in name else []))
    work = workload_of(config, read_shape(config.model), sizes=[(448, 448)])
    memory = memory_of(work, STRATEGIES["ddp"], processes=1, device_bytes=80 * GIB)
    speed = speed_of(work, config, STRATEGIES["ddp"], DEVICES["h100"], processes=1, nodes=1)
    peak, seconds = MEASURED[name]
    assert memory.tensors / GIB == pytest.approx(peak, rel=0.05)
    assert speed.step_s == pytest.approx(seconds, rel=0.25)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits_the_gpus_and_launch_files_that_its_header_names(name: str) -> None:
    header = (ROOT / f"recipes/{name}.yaml").read_text("utf-8").partition("\nbase:")[0]
    [(gpus, memory)] = re.findall(r"meant for (one|\d) GPUs? of (\d+) GB", header)
    device = replace(DEVICES["h100"], memory_gib=int(memory))
    config = recipe(name)
    plan = make_plan(config, read_shape(config.model), device=device, gpus=1 if gpus == "one" else 8, nodes=1)
    assert not plan.problems
    for file in re.findall(r"launch/accelerate/(\w+)\.yaml", header):
        assert file.replace("single_gpu", "ddp") in plan.fitting


def test_weights_in_4_bits_are_those_of_the_header() -> None:
    config = recipe("qwen2_5_vl_7b_nf4")
    assert round(weight_bytes(workload_of(config, read_shape(config.model), sizes=[])) / 1e9, 1) == 6.9


def test_sharding_divides_what_it_shards() -> None:
    config = recipe("qwen2_5_vl_7b")
    work = workload_of(config, read_shape(config.model), sizes=[])
    by_name = {n: memory_of(work, s, processes=8, device_bytes=80 * GIB).resident for n, s in STRATEGIES.items()}
    assert by_name["ddp"]["weights"] == by_name["zero2"]["weights"] == 8 * by_name["zero3"]["weights"]
    assert by_name["ddp"]["optimizer"] == 8 * by_name["zero2"]["optimizer"] == 8 * by_name["zero3"]["optimizer"]
    assert by_name["zero3_offload"]["weights"] == 0
    # 80.7 million parameters in float32, their gradients, two moments
    assert by_name["ddp"]["adapter"] == by_name["ddp"]["gradients"] == by_name["ddp"]["optimizer"] / 2 == 4 * 80740352


def test_all_weights_are_counted_where_all_are_trained() -> None:
    config = recipe("qwen2_5_vl_3b", "adapter=null", "model.init_kwargs.dtype=bfloat16", "trainer.beta=0.0")
    work = workload_of(config, read_shape(config.model), sizes=[])
    resident = memory_of(work, STRATEGIES["ddp"], processes=1, device_bytes=80 * GIB).resident
    # 8 bytes a parameter in pure bfloat16: weights, gradients, two moments
    assert sum(resident[part] for part in ("weights", "gradients", "optimizer")) == 8 * work.shape.parameters


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_the_weights_of_an_engine_that_sleeps_lie_in_the_hosts_memory(tensor_parallel: int) -> None:
    parallel = f"rollout.engine.tensor_parallel_size={tensor_parallel}"
    asleep, awake = (
        workload_of(config, read_shape(config.model), sizes=[])
        for config in (recipe("qwen2_5_vl_7b", parallel, f"rollout.sleep={sleep}") for sleep in ("true", "false"))
    )
    first, second = (
        memory_of(work, STRATEGIES["ddp"], processes=2, device_bytes=80 * GIB).host for work in (asleep, awake)
    )
    assert (first, second) == (weight_bytes(asleep) / tensor_parallel, 0.0)


def test_what_does_not_fit_names_changes_that_make_it_fit() -> None:
    config = recipe("qwen2_5_vl_7b", "rollout.backend=transformers")
    alone: dict[str, Any] = {"gpus": 1, "gpu": "rtx4090", "strategies": [STRATEGIES["ddp"]]}
    plan = planned(config, **alone)
    assert plan.fitting == []
    assert plan.remedies
    for overrides, strategy, peak in plan.remedies:
        changed = planned(
            recipe("qwen2_5_vl_7b", "rollout.backend=transformers", *overrides.split()), gpus=1, gpu="rtx4090"
        )
        assert changed.memory[strategy].peak == peak < 0.95 * 24 * GIB


@pytest.mark.parametrize(
    ("overrides", "gpus", "said"),
    [
        (["trainer.num_generations=6"], 8, "128 completions of a generation batch (16 a GPU on 8 GPUs) do not divide"),
        (["rollout.engine.tensor_parallel_size=3"], 8, "tensor_parallel_size=3 does not divide 8 GPUs"),
        (["rollout.engine.max_model_len=512"], 8, "exceed rollout.engine.max_model_len=512"),
        (["rollout.engine.gpu_memory_utilization=0.15"], 8, "gpu_memory_utilization=0.15 leaves 11: raise it"),
    ],
)
def test_what_would_fail_later_is_said(overrides: list[str], gpus: int, said: str) -> None:
    [problem] = planned(recipe("qwen2_5_vl_7b", *overrides), gpus=gpus).problems
    assert said in problem


def test_the_sizes_of_a_catalogues_images_count(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number, side in enumerate((280, 280, 448)):
        Image.new("RGB", (side, side)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "damaged.png").write_bytes(b"\x89PNG")
    plan = planned(recipe("qwen2_5_vl_7b", f"data.catalogue={tmp_path}"))
    assert (plan.num_images, plan.work.image_tokens) == (3, 256)
    assert plan.work.prompt_tokens - plan.work.typical_prompt_tokens == 256 - 100


@pytest.mark.parametrize("file", sorted((ROOT / "launch/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launch_file_is_understood(file: Path) -> None:
    expected = {"zero2_cpu": "zero2", "single_gpu": "ddp", "multi_cpu": "ddp"}.get(file.stem, file.stem)
    assert strategy_of(file).name == expected


def test_several_machines_share_weights_and_pay_for_the_way_between_them() -> None:
    config = recipe("qwen2_5_vl_72b")
    one, two = planned(config, gpus=8), planned(config, gpus=16, nodes=2)
    assert two.memory["zero3"].resident["weights"] == one.memory["zero3"].resident["weights"] / 2
    assert two.speed["zero3"].phases["gathering weights"] > one.speed["zero3"].phases["gathering weights"]


def test_the_command_says_what_fits_and_how_to_start_it(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", "recipes/qwen2_5_vl_72b.yaml", "--nodes", "2"]) == 0
    shown = capsys.readouterr().out
    assert "fits with zero3, zero3_offload, fsdp2" in shown
    assert "--config_file launch/accelerate/zero3.yaml --num_processes 16 --num_machines 2" in shown
    assert main(["plan", "recipes/qwen2_5_vl_72b.yaml", "--gpus", "1", "--launch", "launch/accelerate/ddp.yaml"]) == 1
    assert "does not fit on 1 such GPU" in capsys.readouterr().out


def test_a_family_without_a_rule_for_images_is_planned_without_them(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(ROOT)
    shape = replace(read_shape(recipe("qwen2_5_vl_3b").model), model_type="my_own")
    monkeypatch.setattr("grpo_mmpc.models.shapes.read_shape", lambda section: shape)
    assert main(["plan", "recipes/qwen2_5_vl_3b.yaml"]) == 0
    assert "without its image: what one takes is not known for my_own, and left out below" in capsys.readouterr().out


def test_json_holds_every_part_in_bytes(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(ROOT)
    share = "rollout.engine.gpu_memory_utilization=0.6"
    assert main(["plan", "recipes/qwen2_5_vl_7b.yaml", share, "--gpu-memory", "40", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["gpu_memory_bytes"] == 40 * GIB
    assert content["memory"]["ddp"]["resident"]["weights"] == 2 * content["parameters"]


def test_planning_every_recipe_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\nfrom grpo_mmpc.cli import main\n"
        f"for name in {RECIPES!r}: main(['plan', f'recipes/{{name}}.yaml'])\n"
        "assert not {'torch', 'transformers', 'trl', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_device_of_another_memory_changes_only_what_depends_on_it() -> None:
    config = recipe("qwen2_5_vl_7b")
    small = make_plan(config, read_shape(config.model), device=replace(DEVICES["h100"], memory_gib=40), gpus=8, nodes=1)
    large = planned(config)
    assert small.memory["ddp"].resident == large.memory["ddp"].resident
    assert 2 * small.memory["ddp"].phases["rollouts"]["vLLM"] == large.memory["ddp"].phases["rollouts"]["vLLM"]


def test_supervised_training_has_no_rollouts_rewards_or_groups() -> None:
    plan = planned(recipe("qwen2_5_vl_7b", "method=sft", "trainer.per_device_train_batch_size=3"))
    assert plan.problems == []
    assert "encoders" not in {part for part, size in plan.memory["ddp"].resident.items() if size}
    assert set(plan.memory["ddp"].phases) == {"update"}
    assert set(plan.speed["ddp"].phases) == {"update", "gradients between GPUs"}


def test_servers_hold_no_memory_of_the_trainer_and_need_not_divide_its_gpus() -> None:
    plan = planned(recipe("qwen2_5_vl_32b", "rollout.mode=server"), gpus=6)
    assert "vLLM" not in plan.memory["zero3"].resident and set(plan.memory["zero3"].phases) == {"update"}
    assert not any("tensor_parallel_size" in problem for problem in plan.problems)


def test_rollouts_one_step_ahead_cost_what_the_rest_of_the_step_does_not_hide() -> None:
    def phases(*overrides: str, **options: Any) -> dict[str, float]:
        config = recipe("qwen2_5_vl_7b", "rollout.mode=server", *overrides)
        return dict(planned(config, **options).speed["ddp"].phases)

    lockstep, hidden = phases(), phases("rollout.ahead=1")
    assert hidden == {name: seconds for name, seconds in lockstep.items() if name != "rollouts"}
    long = ("trainer.max_completion_length=4096", "rollout.engine.max_model_len=8192")
    lockstep, waiting = phases(*long), phases(*long, "rollout.ahead=1")
    rest = sum(lockstep.values()) - lockstep["rollouts"] - lockstep["adapter to engines"]
    assert waiting["waiting for rollouts"] == pytest.approx(lockstep["rollouts"] - rest)
    assert sum(waiting.values()) == pytest.approx(lockstep["rollouts"] + lockstep["adapter to engines"])


@pytest.mark.parametrize("override", ["rollout.mode=colocate", "rollout.backend=transformers", "method=sft"])
def test_rollouts_ahead_without_servers_are_a_problem(override: str) -> None:
    plan = planned(recipe("qwen2_5_vl_7b", "rollout.ahead=1", override))
    assert any("rollout.ahead=1 samples on servers" in problem for problem in plan.problems)
    assert "waiting for rollouts" not in plan.speed["ddp"].phases
