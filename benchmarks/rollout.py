"""Grouped rollouts by vLLM against Transformers, and adapter syncs against full weights.

    python benchmarks/rollout.py                    # about six minutes on two cores
    python benchmarks/rollout.py --quick            # noisier, fewer syncs

The policy is a randomly initialised Qwen2.5-VL of about 65M parameters whose prompts show pictures
of 168 x 168 pixels (36 image tokens). Fifty token ids end a completion, so that lengths are mixed
on every side, and most are far below the limit of 128. The three ways of generating alternate
within this process, with one adapter and temperature 1; tokens per second count completion tokens.
Two base models that differ in the vision tower only, and so have the same adapter, show what a sync
depends on. ``sync_vs_full_weights`` is merging, writing and reading the full weights over a sync of
ours, without the engine's own loading of those weights. ``large_pictures`` is the processor's work
for a rollout batch of the embedded policy, with photographs of 12 megapixels as they are read here
against handing them over whole; ``--only-pictures`` measures nothing else.

The last line is one JSON object; ``ratio`` is how many times better ours is.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()  # before anything imports transformers' models
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from grpo_mmpc.config import ModelSection, RunConfig  # noqa: E402
from grpo_mmpc.models.adapter import read_adapter  # noqa: E402
from grpo_mmpc.models.families import suppressed_token_ids  # noqa: E402
from grpo_mmpc.models.policy import load_policy  # noqa: E402
from grpo_mmpc.models.processor import load_processor  # noqa: E402
from grpo_mmpc.nano.drawing import draw  # noqa: E402
from grpo_mmpc.nano.items import sample_items  # noqa: E402
from grpo_mmpc.rollout.prompts import load_prompt_image  # noqa: E402
from grpo_mmpc.rollout.vllm.arguments import engine_arguments  # noqa: E402
from grpo_mmpc.rollout.vllm.engine import LocalVLLM  # noqa: E402
from grpo_mmpc.rollout.vllm.protocol import Prompt  # noqa: E402
from grpo_mmpc.rollout.vllm.requests import derived_seed  # noqa: E402
from grpo_mmpc.rollout.vllm.rollouts import VLLMRollouts  # noqa: E402
from grpo_mmpc.tasks import IMAGE_TO_TEXT  # noqa: E402
from grpo_mmpc.types import SamplingConfig  # noqa: E402
from grpo_mmpc.utils.api_servers import png_data_url  # noqa: E402
from grpo_mmpc.utils.manifest import environment  # noqa: E402

TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
GROUP = 8
PICTURES, PICTURE_GROUP = 2, 8  # a rollout batch of 16
SHAPED = {"min_pixels": 784, "max_pixels": 7056}  # up to the 84 x 84 pixels of the embedded policy, in any shape
PHOTO_SIDE_PX = 1500  # large product photographs of Amazon Reviews 2023 are of this size; the processor shrinks them
IMAGE_SIDE_PX = 168
MAX_TOKENS = 128
VISION_DEPTH = {"small": 2, "large": 12}


def write_model(folder: Path, size: str) -> None:
    """A randomly initialised policy with the embedded tokenizer and processor.

    About 50M and 70M parameters.
    """
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    from grpo_mmpc.utils.model_paths import resolve_model

    source = resolve_model("nano:qwen2_5_vl")
    config = AutoConfig.from_pretrained(source)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 768, 2048, 6
    text.num_attention_heads, text.num_key_value_heads = 12, 4
    text.layer_types = ["full_attention"] * 6
    text.rope_parameters = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 12, 12]}
    vision.hidden_size, vision.intermediate_size, vision.num_heads = 384, 1024, 6
    vision.depth, vision.out_hidden_size = VISION_DEPTH[size], 768
    vision.fullatt_block_indexes = list(range(VISION_DEPTH[size]))
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    tokenizer = load_processor_of(source).tokenizer
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = sorted({tokenizer.eos_token_id, *range(100, 149)})
    model.save_pretrained(folder)
    load_processor_of(source).save_pretrained(folder)


def load_processor_of(source: str) -> Any:
    """The processor of a local model."""
    return load_processor(ModelSection(name_or_path=str(source)))


def recipe(folder: Path, *, rank: int) -> RunConfig:
    """What engine and policy are started from."""
    return RunConfig.model_validate(
        {
            "run_dir": str(folder / "run"),
            "model": {
                "name_or_path": str(folder),
                "init_kwargs": {"dtype": "float32"},
                "processor_kwargs": {"min_pixels": IMAGE_SIDE_PX**2, "max_pixels": IMAGE_SIDE_PX**2},
            },
            "adapter": {"r": rank, "lora_alpha": 2 * rank, "target_modules": TARGETS},
            "data": {"catalogue": "nano:catalogue"},
            "rewards": {"mix": [{"name": "bleu", "weight": 1.0}]},
            "rollout": {"backend": "vllm", "engine": {"max_model_len": 512, "max_num_seqs": 256}},
        }
    )


def adapted(config: RunConfig) -> Any:
    """The policy with a random adapter."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_policy(config.model), LoraConfig(task_type="CAUSAL_LM", **config.adapter.options()))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.02, generator=generator)
    return model.eval()


def make_prompts(processor: Any, count: int) -> list[Prompt]:
    """Image prompts of distinct products."""
    prompts = []
    for index, item in enumerate(sample_items(num_items=count, seed=9)):
        messages = IMAGE_TO_TEXT.messages()
        for part in messages[0]["content"]:
            if part["type"] == "image":
                part["image"] = draw(item.attributes, jitter=item.jitter).resize((PHOTO_SIDE_PX, PHOTO_SIDE_PX))
        ids = processor.apply_chat_template([messages], add_generation_prompt=True, tokenize=True, return_dict=True)
        prompts.append(
            Prompt(
                token_ids=list(ids["input_ids"][0]),
                conversation=messages,
                count=GROUP,
                seed=derived_seed(index),
            )
        )
    return prompts


def by_transformers(model: Any, processor: Any, prompts: list[Prompt], sampling: SamplingConfig) -> tuple[int, Any]:
    """What TRL does without vLLM: one padded ``generate`` call over all completions.

    (tokens, ids).
    """
    conversations = [prompt.conversation for prompt in prompts for _ in range(prompt.count)]
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    options = {"do_sample": False} if sampling.temperature == 0 else {"do_sample": True, "top_k": 0, "top_p": 1.0}
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=sampling.max_tokens, **options)
    ends = set(model.generation_config.eos_token_id)
    completions = []
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        length = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        completions.append(row[:length])
    return sum(map(len, completions)), completions


def by_vllm(engine: LocalVLLM, prompts: list[Prompt], sampling: SamplingConfig) -> tuple[int, Any]:
    """One request per prompt; (tokens, ids)."""
    outputs = engine.generate(prompts, sampling, adapter="policy")
    completions = [completion.token_ids for output in outputs for completion in output.completions]
    return sum(map(len, completions)), completions


def duplicated(prompts: list[Prompt]) -> list[Prompt]:
    """The same completions as requests of one each."""
    return [replace(p, count=1, seed=p.seed + copy) for p in prompts for copy in range(p.count)]


def throughput(model: Any, processor: Any, engine: LocalVLLM, *, repeats: int, num_prompts: int) -> dict[str, Any]:
    """Tokens per second of the three ways, medians over repeats that alternate."""
    prompts = make_prompts(processor, num_prompts)
    sampling = SamplingConfig(max_tokens=MAX_TOKENS, temperature=1.0)
    sides: dict[str, Any] = {
        "vllm": lambda: by_vllm(engine, prompts, sampling),
        "duplicated": lambda: by_vllm(engine, duplicated(prompts), sampling),
        "transformers": lambda: by_transformers(model, processor, prompts, sampling),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    lengths: list[int] = []
    for repeat in range(repeats + 1):
        for name, generate in sides.items():
            torch.manual_seed(repeat)
            start = time.perf_counter()
            tokens, completions = generate()
            if repeat:  # the first round warms up
                rates[name].append(tokens / (time.perf_counter() - start))
                lengths += [len(ids) for ids in completions] if name == "vllm" else []
    greedy = SamplingConfig(max_tokens=32, temperature=0.0)
    single = [replace(prompt, count=1) for prompt in prompts]
    ours, theirs = by_vllm(engine, single, greedy)[1], by_transformers(model, processor, single, greedy)[1]
    same = sum(x == y for a, b in zip(ours, theirs, strict=True) for x, y in zip(a, b, strict=False))
    grouped, separate = by_vllm(engine, prompts, sampling)[1], by_vllm(engine, duplicated(prompts), sampling)[1]
    return {
        "rates": {name: statistics.median(values) for name, values in rates.items()},
        "mean_length": statistics.mean(lengths),
        "length_spread": statistics.pstdev(lengths),
        "greedy_agreement": same / sum(max(len(a), len(b)) for a, b in zip(ours, theirs, strict=True)),
        "groups_equal_duplicates": sum(a == b for a, b in zip(grouped, separate, strict=True)) / len(grouped),
        "seconds_per_rollout": statistics.mean(lengths) * len(prompts) * GROUP / statistics.median(rates["vllm"]),
        "batch": (prompts, grouped),
    }


def update_seconds(model: Any, processor: Any, prompts: list[Prompt], completions: list[list[int]]) -> float:
    """Forward and backward over one batch of rollouts.

    The rest of a step, without the optimiser.
    """
    conversations = [prompt.conversation for prompt in prompts for _ in range(prompt.count)]
    inputs = processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    width = max(map(len, completions))
    tail = torch.tensor([ids + [0] * (width - len(ids)) for ids in completions])
    full = torch.cat([inputs["input_ids"], tail], dim=1)
    types = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tail)], dim=1)
    start = time.perf_counter()
    model.train()
    loss = model(
        input_ids=full,
        attention_mask=torch.ones_like(full),
        mm_token_type_ids=types,
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        labels=full,
    ).loss
    loss.backward()
    model.eval()
    return time.perf_counter() - start


def syncs(model: Any, engine: LocalVLLM, *, count: int) -> dict[str, float]:
    """Seconds and bytes of a sync, and what many of them leave behind."""
    rollouts = VLLMRollouts(engine, model, SamplingConfig(max_tokens=1, temperature=1.0), rank=0, step=lambda: 0)
    loaded = Path(engine._folders[0])
    rollouts.sync_weights()
    before, seconds = _resident_bytes(), []
    for _ in range(count):
        start = time.perf_counter()
        rollouts.sync_weights()
        seconds.append(time.perf_counter() - start)
    sent = sum(path.stat().st_size for path in (loaded / str(rollouts.adapter)).iterdir())
    adapter = read_adapter(model, name="size")
    grown = (_resident_bytes() - before) / 1e6
    engine.unload(str(rollouts.adapter))
    return {
        "seconds": statistics.median(seconds),
        "bytes": float(sent),
        "adapter_bytes": float(len(adapter.weights) + len(adapter.config)),
        "grown_mb": grown,
    }


def full_weight_seconds(model: Any, folder: Path, *, repeats: int) -> float:
    """Merging the adapter, writing the full weights to memory and reading them back."""
    from safetensors.torch import load_file, save_file

    seconds = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else folder) as memory:
        for _ in range(repeats):
            start = time.perf_counter()
            model.merge_adapter()
            state = {name: p.detach().contiguous() for name, p in model.named_parameters() if "lora_" not in name}
            save_file(state, Path(memory) / "full.safetensors")
            load_file(Path(memory) / "full.safetensors")
            model.unmerge_adapter()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def large_pictures(folder: Path, *, repeats: int) -> tuple[dict[str, Any], dict[str, float], dict[str, bool]]:
    """CPU seconds of a rollout batch by the size of its photographs, after the first epoch.

    A batch is what TRL does with it: read, tokenise for each completion, generate, and process once
    more for the loss.
    """
    section = ModelSection(name_or_path="nano:qwen2_5_vl", processor_kwargs=SHAPED)
    processor, model = load_processor(section), load_policy(section)
    photos = {"small": (616, 616), "large": (4000, 3000)}
    paths = {
        name: [write_photo(folder / f"{name}{index}.jpg", size, index) for index in range(PICTURES)]
        for name, size in photos.items()
    }

    def batch(name: str, reader: Any) -> float:
        start = time.process_time()
        conversations = []
        for path in paths[name]:
            image, messages = load_prompt_image(path, reader), IMAGE_TO_TEXT.messages()
            for part in messages[0]["content"]:
                if part["type"] == "image":
                    part["image"] = image
            conversations += [messages] * PICTURE_GROUP
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        processor.apply_chat_template(conversations, **options)
        inputs = processor.apply_chat_template(conversations, **options, return_tensors="pt")
        with torch.no_grad():
            model.generate(**inputs, max_new_tokens=24, do_sample=False)
        return time.process_time() - start

    sides = {"small": ("small", processor), "large": ("large", processor), "whole": ("large", None)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            taken = batch(*side)
            seconds[name] += [taken] if repeat else []  # the first is the first epoch
    small, large, whole = (statistics.median(seconds[name]) for name in sides)
    roomy = ModelSection(name_or_path="nano:qwen2_5_vl", processor_kwargs=SHAPED | {"max_pixels": 616**2})
    path = paths["large"][0]
    request, sent_whole = (
        len(png_data_url(load_prompt_image(path, reader))) for reader in (load_processor(roomy), None)
    )
    result = {
        "ours": round(large, 3),
        "baseline": round(whole, 3),
        "unit": "CPU s a batch",
        "ratio": round(whole / large, 2),
    }
    figures = {
        "cpu_seconds_of_616_pixels": round(small, 3),
        "cpu_seconds_of_12_megapixels": round(large, 3),
        "cost_of_12_megapixels": round(large / small, 2),
        "request_bytes_of_12_megapixels": request,
        "request_bytes_of_12_megapixels_whole": sent_whole,
    }
    checks = {"large_pictures_cost_at_most_1.3": large <= 1.3 * small, "request_below_a_megabyte": request < 1_000_000}
    return result, figures, checks


def write_photo(path: Path, size: tuple[int, int], seed: int) -> str:
    """A photograph: colours that change slowly, and the noise of a camera."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    noisy = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) + random.normal(0, 6, (size[1], size[0], 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return str(path)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Run everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=12, help="prompts per rollout, eight completions each")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter (%(default)s)")
    parser.add_argument("--syncs", type=int, default=1000)
    parser.add_argument("--only-pictures", action="store_true")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.prompts, arguments.syncs = 1, 3, 20
    torch._dynamo.config.disable = True
    figures: dict[str, float] = {}
    checks: dict[str, bool] = {}
    results: dict[str, Any] = {}
    sync: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        results["large_pictures"], more, passed = large_pictures(Path(scratch), repeats=arguments.repeats)
        figures |= more
        checks |= passed
        for size in () if arguments.only_pictures else VISION_DEPTH:
            folder = Path(scratch) / size
            write_model(folder, size)
            config = recipe(folder, rank=arguments.rank)
            processor, model = load_processor(config.model), adapted(config)
            model.generation_config.suppress_tokens = suppressed_token_ids(processor, model.config)
            engine = LocalVLLM(
                engine_arguments(config, beside_trainer=True),
                processor,
                suppressed_token_ids=model.generation_config.suppress_tokens,
            )
            engine.load(read_adapter(model, name="policy"))
            base = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
            figures[f"base_parameters_{size}"] = base
            print(f"{size}: {base / 1e6:.0f}M parameters", flush=True)
            if size == "large":
                found = throughput(model, processor, engine, repeats=arguments.repeats, num_prompts=arguments.prompts)
            sync[size] = syncs(model, engine, count=arguments.syncs)
            engine.close()
            if size == "large":
                full = full_weight_seconds(model, folder, repeats=arguments.repeats)
                update = update_seconds(model, processor, *found["batch"])

    if arguments.only_pictures:
        report(results, figures, checks)
        return
    rates = found["rates"]
    for key, baseline in (("vllm_vs_transformers", "transformers"), ("group_vs_duplicated", "duplicated")):
        results[key] = {
            "ours": round(rates["vllm"], 1),
            "baseline": round(rates[baseline], 1),
            "unit": "completion tokens/s",
            "ratio": round(rates["vllm"] / rates[baseline], 2),
        }
    ours = sync["large"]["seconds"]
    results["sync_vs_full_weights"] = {
        "ours": round(ours, 4),
        "baseline": round(full, 4),
        "unit": "s per sync",
        "ratio": round(full / ours, 2),
    }
    for size, values in sync.items():
        figures[f"sync_bytes_{size}"] = values["bytes"]
        figures[f"adapter_bytes_{size}"] = values["adapter_bytes"]
        figures[f"sync_seconds_{size}"] = round(values["seconds"], 4)
        figures[f"resident_growth_mb_{size}"] = round(values["grown_mb"], 1)
        checks[f"sync_moves_the_adapter_and_nothing_else_{size}"] = values["bytes"] == values["adapter_bytes"]
    step = found["seconds_per_rollout"] + update + ours
    figures |= {
        "adapter_rank": arguments.rank,
        "syncs": arguments.syncs,
        "sync_share_of_step": round(ours / step, 4),
        "step_seconds": round(step, 2),
        "mean_completion_tokens": round(found["mean_length"], 1),
        "completion_tokens_spread": round(found["length_spread"], 1),
        "greedy_agreement": round(found["greedy_agreement"], 4),
        "groups_equal_duplicates": round(found["groups_equal_duplicates"], 4),
    }
    checks["greedy_tokens_agree"] = found["greedy_agreement"] >= 0.99
    checks["same_adapter_bytes_for_both_bases"] = sync["small"]["bytes"] == sync["large"]["bytes"]
    report(results, figures, checks)


def report(results: dict[str, Any], figures: dict[str, float], checks: dict[str, bool]) -> None:
    """Print the object."""
    where = environment()
    print(
        json.dumps(
            {
                "benchmark": "rollout",
                "hardware": where["hardware"],
                "versions": where["versions"],
                "results": results,
                "figures": figures,
                "checks": checks,
            }
        )
    )


if __name__ == "__main__":
    main()
