"""Every recipe and every mix: passes the checks of the command line, fits its model, its launch
file and its world sizes."""

import itertools
import json
import math
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from grpo_mmpc.cli import build_parser
from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.loading import merge_layers
from grpo_mmpc.config.sections import AdapterSection
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.rendering.registry import check_renderer
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()  # before the first import of transformers' models

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").glob("*.yaml"))
RENDERED = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes" / "rendered").glob("*.yaml"))
MIXES = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes" / "mixes").rglob("*.yaml"))
GPU_RECIPES = [path for path in RECIPES if not path.stem.startswith("nano")]
IN_4_BITS = [path for path in GPU_RECIPES if path.stem.endswith("_nf4")]
CONFIGS = Path(__file__).parent / "model_configs"
LANGUAGE = re.compile(r"model\.(language|text)_model\.layers\.\d+\.(self_attn|mlp)\.")
"""Attention and feed-forward layers of a language model: Gemma-4 has small ones beside them."""
HUB_ENCODERS = {"bertscore": "roberta-large", "clip_similarity": "openai/clip-vit-base-patch32"}
NANO_ENCODERS = {"bertscore": "nano:minilm", "clip_similarity": "nano:clip"}

each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
each_gpu = pytest.mark.parametrize("recipe", GPU_RECIPES, ids=lambda path: path.stem)
each_mix = pytest.mark.parametrize("mix", MIXES, ids=lambda path: "/".join(path.with_suffix("").parts[2:]))


@pytest.fixture(autouse=True)
def in_the_checkout_on_a_machine_with_gpus(monkeypatch):
    """Recipes name files relative to the checkout; TRL asks for a bf16 GPU as soon as a recipe says
    bf16."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)


def header(path: Path) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), (ROOT / path).read_text("utf-8").splitlines())
    return "\n".join(line[1:] for line in lines)


def commands(path: Path) -> list[list[str]]:
    """The indented commands of a file's header, split as a shell would."""
    return [shlex.split(line) for line in header(path).splitlines() if line.startswith("   ") and line.strip()]


def recipe_arguments(command: list[str]) -> list[str]:
    return command[command.index("train") + 1 :]


def launch_file(command: list[str]) -> dict:
    if "--config_file" not in command:
        return {"num_processes": 1}
    return yaml.safe_load((ROOT / command[command.index("--config_file") + 1]).read_text())


def world_sizes(path: Path) -> list[int]:
    found = re.search(r"^ World sizes: ([\d, ]+)$", header(path), re.MULTILINE)
    assert found, f"{path}: the header names no world sizes"
    return [int(size) for size in found[1].split(",")]


def raw(path: Path) -> dict:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def encoders_of(config: RunConfig) -> dict[str, str]:
    return {spec.name: spec.kwargs["model"] for spec in config.rewards.mix if "model" in spec.kwargs}


def test_every_model_of_the_paper_the_newer_ones_and_both_nano_policies_have_a_recipe():
    paper = {f"qwen2_5_vl_{size}" for size in ("3b", "7b", "32b", "72b")} | {
        f"gemma3_{size}" for size in ("4b", "12b", "27b")
    }
    newer = {f"qwen3_vl_{size}" for size in ("4b", "8b", "32b")} | {"gemma4_e4b", "gemma4_31b"}
    assert {path.stem for path in RECIPES} >= paper | newer | {"smolvlm2_2b", "internvl3_8b", "nano", "nano_gemma3"}


@each
def test_a_recipe_passes_every_check_by_itself(recipe):
    config = load_recipe([str(recipe)])
    assert config.run_dir == f"runs/{recipe.stem}"


@each_mix
def test_a_mix_fits_on_the_nano_recipe_and_changes_nothing_but_rewards_and_tasks(mix):
    plain, mixed = load_recipe(["recipes/nano.yaml"]), load_recipe(["recipes/nano.yaml", str(mix)])
    assert mixed.rewards != plain.rewards
    changed = {name for name in RunConfig.model_fields if getattr(mixed, name) != getattr(plain, name)}
    assert changed <= {"rewards", "tasks"} | ({"trainer"} if mix.stem == "both_tasks" else set())


@each_mix
def test_the_name_of_a_mix_lists_what_is_trained(mix):
    trained = {spec["name"] for spec in raw(mix)["rewards"]["mix"] if spec["weight"] > 0} - {"json_format"}
    if mix.stem == "both_tasks":
        assert trained == {"bleu", "bertscore", "clip_similarity"}
    else:
        assert {name.removesuffix("_similarity") for name in trained} == set(mix.stem.split("_"))


@each_mix
def test_the_weights_of_a_mix_sum_to_one_beside_the_format_reward(mix):
    weights = {spec["name"]: spec["weight"] for spec in raw(mix)["rewards"]["mix"]}
    assert weights.pop("json_format") == 0.1
    assert math.isclose(sum(weights.values()), 1.0)


@each_mix
def test_a_nano_mix_is_the_mix_of_the_same_name_with_embedded_encoders(mix):
    config = load_recipe(["recipes/nano.yaml", str(mix)])
    nano = mix.parent.name == "nano"
    expected = NANO_ENCODERS if nano else HUB_ENCODERS
    assert all(expected[name] == model for name, model in encoders_of(config).items())
    if nano:
        hub = raw(mix.parent.parent / mix.name)
        assert hub["rewards"]["aggregation"] == raw(mix)["rewards"]["aggregation"]
        assert [(s["name"], s["weight"]) for s in hub["rewards"]["mix"]] == [
            (s["name"], s["weight"]) for s in raw(mix)["rewards"]["mix"]
        ]


@pytest.mark.parametrize("overlay", RENDERED, ids=lambda path: path.stem)
def test_a_renderer_in_the_loop_is_one_server_for_rewards_and_evaluation_of_both_families(overlay, monkeypatch):
    serve, *trainings = commands(overlay)
    parsed = build_parser().parse_args(serve[serve.index("serve") :])
    reference, *overrides = parsed.recipe
    kwargs = merge_layers([], overrides).merged
    check_renderer(reference, kwargs)
    assert parsed.images and reference == "diffusers" and kwargs["batch_size"] > 1
    models = []
    for command in trainings:
        size = int(command[command.index("--num_processes") + 1])
        monkeypatch.setattr("transformers.TrainingArguments.world_size", size)
        config = load_recipe(recipe_arguments(command))
        models.append(config.model.name_or_path)
        named = [spec.kwargs["renderer_kwargs"] for spec in config.rewards.mix if "renderer" in spec.kwargs]
        assert named and all(one == config.evaluation.renderer_kwargs for one in named)
        assert config.evaluation.renderer == "images_api"
        assert config.evaluation.renderer_kwargs["urls"] == [f"http://127.0.0.1:{parsed.port}"]
        assert config.trainer["max_completion_length"] == TASKS["text_to_image"].max_tokens
    assert models == ["Qwen/Qwen2.5-VL-7B-Instruct", "google/gemma-3-12b-it"]


def test_the_mix_of_both_directions_is_that_of_the_nano_recipe():
    nano, real = (
        raw(Path(path))["rewards"]["mix"] for path in ("recipes/nano.yaml", "recipes/rendered/both_tasks.yaml")
    )
    assert [(spec["name"], spec["weight"]) for spec in nano] == [(spec["name"], spec["weight"]) for spec in real]


def test_the_nano_recipes_differ_in_the_policy_and_the_run_folder_only():
    qwen, gemma = (load_recipe([f"recipes/{name}.yaml"]).model_dump() for name in ("nano", "nano_gemma3"))
    assert gemma.pop("run_dir") == "runs/nano_gemma3"
    assert gemma["model"].pop("name_or_path") == "nano:gemma3"
    del qwen["run_dir"], qwen["model"]["name_or_path"]
    assert qwen == gemma


@each_gpu
def test_a_gpu_recipe_is_a_few_lines_on_a_base(recipe):
    lines = [line for line in (ROOT / recipe).read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 11
    assert lines[0].startswith("base: ")


def test_the_nano_recipes_need_no_hub():
    for recipe in ("recipes/nano.yaml", "recipes/nano_gemma3.yaml"):
        config = load_recipe([recipe])
        encoders = [options["model"] for options in config.evaluation.encoders.model_dump().values() if options]
        for reference in [config.model.name_or_path, config.data.catalogue, *encoders, *encoders_of(config).values()]:
            assert reference.startswith("nano:")


def test_gpu_recipes_differ_only_where_models_do():
    """Rewards, evaluation and adapter are the same in all, so that their results can be set side by
    side."""
    first, *others = [load_recipe([str(recipe)]) for recipe in GPU_RECIPES]
    of_the_model = {
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "ds3_gather_for_generation",
    }
    for other in others:
        for section in ("adapter", "data", "tasks", "rewards", "evaluation", "report", "seed"):
            assert getattr(other, section) == getattr(first, section), section
        assert {k: v for k, v in other.trainer.items() if k not in of_the_model} == {
            k: v for k, v in first.trainer.items() if k not in of_the_model
        }


@each
def test_groups_are_whole_at_every_world_size_of_the_header(recipe, monkeypatch):
    """TRL's own rule, asked at that world size: completions of a step divide into groups of
    ``num_generations``."""
    trainer = load_recipe([str(recipe)]).trainer
    for world_size in world_sizes(recipe):
        monkeypatch.setattr("transformers.TrainingArguments.world_size", world_size)
        checked = load_recipe([str(recipe)])  # raises ConfigError if a group is split
        assert checked.trainer == trainer
        completions = (
            trainer["per_device_train_batch_size"] * world_size * trainer.get("gradient_accumulation_steps", 1)
        )
        assert completions % trainer["num_generations"] == 0


def test_the_divisibility_check_above_can_fail(monkeypatch):
    from grpo_mmpc.errors import ConfigError

    monkeypatch.setattr("transformers.TrainingArguments.world_size", 2)
    with pytest.raises(ConfigError, match="divisible by num_generations"):  # 2 x 6 = 12 completions, groups of 8
        load_recipe(["recipes/nano.yaml", "trainer.per_device_train_batch_size=6"])


@pytest.mark.parametrize("path", [*RECIPES, *MIXES], ids=str)
def test_every_command_of_a_header_runs_that_file(path, monkeypatch):
    found = commands(path)
    assert found, f"{path}: the header holds no command"
    for command in found:
        launch = launch_file(command)
        assert command[0] == ("accelerate" if "--config_file" in command else "grpo-mmpc")
        arguments = recipe_arguments(command)
        assert str(path) in arguments
        monkeypatch.setattr("transformers.TrainingArguments.world_size", launch["num_processes"])
        config = load_recipe(arguments)
        assert config.trainer.get("use_cpu", False) == launch.get("use_cpu", True)
        if path in RECIPES:
            assert launch["num_processes"] in world_sizes(path)


@cache
def on_the_meta_device(stem: str):
    """The recipe's architecture without weights; its parameter count is checked against the
    published one."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = json.loads((CONFIGS / f"{stem.removesuffix('_nf4')}.json").read_text())
    published, source = config.pop("_parameters"), config.pop("_source")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    assert sum(parameter.numel() for parameter in model.parameters()) == published
    return model, source


def adapter_of(recipe: Path) -> AdapterSection:
    adapter = load_recipe([str(recipe)]).adapter
    assert adapter is not None
    return adapter


def adapter_linears(recipe: Path, model) -> set[str]:
    """Names of the layers that PEFT itself would give an adapter."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    config = LoraConfig(**adapter_of(recipe).options())
    return {name for name, _ in model.named_modules() if check_target_module_exists(config, name)}


@each_gpu
def test_lora_targets_are_exactly_the_linears_of_the_language_layers(recipe):
    import torch

    model, source = on_the_meta_device(recipe.stem)
    assert load_recipe([str(recipe)]).model.name_or_path == source
    matched = adapter_linears(recipe, model)
    # q k v o gate up down; the last 18 layers of E4B take keys and values of an earlier one, and
    # the ten global layers of 31B take their keys for values.
    lacking = {"gemma4_e4b": 18 * 2, "gemma4_31b": 10}.get(recipe.stem, 0)
    assert len(matched) == 7 * model.config.text_config.num_hidden_layers - lacking
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    language = {name for name in linears if LANGUAGE.match(name)}
    assert matched == language
    assert linears - matched, "the vision tower and lm_head have linears too; if there are none, the names have changed"


def test_a_target_regex_without_the_language_model_would_catch_the_vision_tower():
    """Why recipes do not list bare names: q_proj (Gemma-3) and gate_proj (Qwen2.5-VL) exist in the
    vision towers too."""
    for stem, name in (("gemma3_4b", "q_proj"), ("qwen2_5_vl_3b", "gate_proj")):
        model, _ = on_the_meta_device(stem)
        assert any(n.endswith(name) and "language_model" not in n for n, _ in model.named_modules())


def test_peft_puts_its_adapters_on_every_matched_layer_and_nowhere_else():
    from peft import LoraConfig, inject_adapter_in_model

    recipe = Path("recipes/gemma3_4b.yaml")
    model, _ = on_the_meta_device("gemma3_4b")
    expected = adapter_linears(recipe, model)
    inject_adapter_in_model(LoraConfig(**adapter_of(recipe).options()), model, low_cpu_mem_usage=True)
    on_the_meta_device.cache_clear()  # the cached model has adapters now
    with_adapter = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert with_adapter == expected


@each_gpu
def test_the_header_states_the_size_of_the_weights(recipe):
    model, _ = on_the_meta_device(recipe.stem)
    gigabytes = sum(parameter.numel() for parameter in model.parameters()) * 2 / 1e9  # bf16: 2 bytes each
    assert f"({gigabytes:.1f} GB of weights in bf16)" in header(recipe)


@pytest.mark.parametrize("recipe", IN_4_BITS, ids=lambda path: path.stem)
def test_the_header_states_the_size_of_the_weights_in_4_bits(recipe):
    """Half a byte a weight of the language layers, a byte for each 64 of them (their scale, itself
    quantised with four bytes for 256), and two bytes for every other weight."""
    model, _ = on_the_meta_device(recipe.stem)
    layers = sum(model.get_submodule(name).weight.numel() for name in adapter_linears(recipe, model))
    others = sum(parameter.numel() for parameter in model.parameters()) - layers
    gigabytes = (layers * (1 / 2 + 1 / 64 + 4 / (64 * 256)) + others * 2) / 1e9
    assert f"in 4 bits ({gigabytes:.1f} GB)" in header(recipe)
    assert load_recipe([str(recipe)]).model.quantization == "nf4"


@each_gpu
def test_a_model_that_no_gpu_holds_is_never_gathered_for_rollouts(recipe):
    """TRL's default puts a whole copy on every GPU: beside its shards and scoring models that is
    too much for 80 GB."""
    model, _ = on_the_meta_device(recipe.stem)
    too_large = sum(parameter.numel() for parameter in model.parameters()) * 2 > 40e9 and recipe not in IN_4_BITS
    assert load_recipe([str(recipe)]).trainer.get("ds3_gather_for_generation", True) == (not too_large)
    if too_large:
        assert all(launch_file(c)["deepspeed_config"]["zero_stage"] == 3 for c in commands(recipe))


@each_gpu
def test_a_header_speaks_of_gathered_weights_only_where_rollouts_are_transformers(recipe):
    """The engine of ``rollout.backend: vllm`` holds weights of its own, and nothing reads
    ds3_gather_for_generation."""
    config, text = load_recipe([str(recipe)]), header(recipe)
    assert config.rollout.backend == ("transformers" if recipe in IN_4_BITS else "vllm")
    shared = (config.rollout.engine.tensor_parallel_size or 1) > 1
    assert ("share each rollout engine (tensor_parallel_size)" in text) == shared
    for words in ("ds3_gather_for_generation", "fetches", "puts the weights together"):
        before, found, _ = text.partition(words)
        assert not found or "With rollout.backend=transformers" in before


@each_gpu
def test_the_kind_of_gradient_checkpointing_is_left_to_trl_and_transformers(recipe):
    """TRL forces the reentrant kind under PEFT and ZeRO-3, with a warning if a recipe says
    otherwise."""
    trainer = load_recipe([str(recipe)]).trainer
    assert trainer["gradient_checkpointing"] is True
    assert "gradient_checkpointing_kwargs" not in trainer


def test_transformers_checkpoints_without_reentrance_by_default():
    """What recipes lean on: the reentrant kind fails under DDP with unused parameters."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from grpo_mmpc.utils.model_paths import resolve_model

    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(resolve_model("nano:qwen2_5_vl")))
    model.gradient_checkpointing_enable()
    functions = [m._gradient_checkpointing_func for m in model.modules() if hasattr(m, "_gradient_checkpointing_func")]
    assert functions
    assert all(function.keywords == {"use_reentrant": False} for function in functions)


def test_the_page_on_rollouts_states_the_size_of_the_adapters():
    adapters, shares = {}, []
    for recipe in GPU_RECIPES:
        model, _ = on_the_meta_device(recipe.stem)
        rank = adapter_of(recipe).r
        linears = [model.get_submodule(name) for name in adapter_linears(recipe, model)]
        adapters[recipe.stem] = sum(rank * (x.in_features + x.out_features) for x in linears)  # lora_A and lora_B
        shares.append(adapters[recipe.stem] / sum(parameter.numel() for parameter in model.parameters()))
    page = (ROOT / "docs/rollouts.md").read_text("utf-8")
    for stem in ("qwen2_5_vl_7b", "qwen2_5_vl_72b"):
        assert f"{adapters[stem] * 4 / 1e6:,.0f} MB" in page  # float32: 4 bytes each
    smallest, largest = min(shares), 2 * max(shares)  # adapters in bfloat16 like the base model, and in float32
    assert f"{smallest:.1%} to {largest:.0%} of the base".replace("% to", " to").replace("%", " %") in page


def image_tokens(recipe: Path, size: tuple[int, int]) -> int:
    """Tokens of one image by the image processor of a recipe's family, within its limits."""
    import transformers
    from PIL import Image

    limits, image = load_recipe([str(recipe)]).model.processor_kwargs, Image.new("RGB", size)
    if recipe.stem.startswith("smolvlm"):
        tiles = transformers.SmolVLMImageProcessor(max_image_size={"longest_edge": 384}, **limits)
        return int(tiles(images=[image], return_tensors="pt")["pixel_values"].shape[1]) * (384 // 14 // 3) ** 2
    if recipe.stem.startswith("internvl"):  # its processor asks for tiles in every call
        crops = transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448}, **limits)
        return int(crops(images=[image], crop_to_patches=True, return_tensors="pt")["pixel_values"].shape[0]) * 256
    patch = {"patch_size": 16 if recipe.stem.startswith("qwen3") else 14}
    qwen = transformers.Qwen2VLImageProcessor(**patch, **limits)
    return int(qwen(images=[image], return_tensors="pt")["image_grid_thw"].prod()) // qwen.merge_size**2


LIMITED = [path for path in GPU_RECIPES if not path.stem.startswith("gemma")]


@pytest.mark.parametrize("recipe", LIMITED, ids=lambda path: path.stem)
def test_the_limits_of_a_recipe_bound_the_image_tokens_of_any_photograph(recipe):
    """401,408 pixels are 512 tokens of 28 x 28, 524,288 of 32 x 32; rounding sides loses some. The
    least is 64."""
    large, small = image_tokens(recipe, (3000, 2000)), image_tokens(recipe, (60, 40))
    fixed = {"smolvlm2_2b": 405, "internvl3_8b": 256}.get(recipe.stem)
    if fixed is not None:
        assert large == small == fixed
    else:
        assert 450 <= large <= 512
        assert 64 <= small <= 80


@each_gpu
def test_plans_know_the_sizes_of_the_published_model(recipe):
    from grpo_mmpc.models.shapes import read_shape, shape_of

    model, _ = on_the_meta_device(recipe.stem)
    assert read_shape(load_recipe([str(recipe)]).model) == shape_of(model)


@each_gpu
def test_plans_count_the_parameters_of_the_adapter_as_peft_does(recipe):
    from grpo_mmpc.models.shapes import read_shape

    model, _ = on_the_meta_device(recipe.stem)
    adapter = adapter_of(recipe)
    layers = [model.get_submodule(name) for name in adapter_linears(recipe, model)]
    expected = sum(adapter.r * (layer.in_features + layer.out_features) for layer in layers)
    assert read_shape(load_recipe([str(recipe)]).model).adapter_parameters(adapter) == expected
