"""A quick look at what only a GPU shows, in under eight minutes; prints one JSON object.

    make gpu-check                                 # one GPU, nothing downloaded
    python -m tests.gpu.check --cpu                # the same code with a tiny model, on CPUs

The policy is a Qwen2.5-VL-3B of its published configuration (``tests/recipes/model_configs``) with
random weights, the embedded processor and a vocabulary of the right size. In this order: vLLM in
process with the embedded policy, then with the large one (parity with images after two syncs of an
adapter, sleep and wake, memory after many syncs), three GRPO steps with it, the same with rollouts
by Transformers, with a server, under ZeRO-3 and under FSDP2. Each check is a process of its own
with a time limit of its own: one that fails or hangs costs no other. The exit code is 0 if all
passed.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import first_line
from grpo_mmpc.utils.processes import Child, log_tail

ROOT = Path(__file__).parents[2]
DEADLINE_S = 470.0
LIMITS_S = {
    "model": 80.0,
    "nano_engine": 80.0,
    "engine": 100.0,
    "grpo_steps": 110.0,
    "transformers_steps": 80.0,
    "server_steps": 110.0,
    "zero3": 80.0,
    "fsdp2": 80.0,
}
"""Seconds of each check; those that come late get what is left of ``DEADLINE_S``."""
LAUNCHED = {"zero3": ("zero3.yaml", []), "fsdp2": ("fsdp2.yaml", [])}
LAUNCHED_ON_CPU = {
    "zero3": ("zero2_cpu.yaml", ["--zero_stage=3", "--zero3_init_flag=true", "--zero3_save_16bit_model=true"]),
    "fsdp2": ("multi_cpu.yaml", []),  # Accelerate has no FSDP2 on CPUs
}
TINY = {
    "text_config": {
        **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"num_key_value_heads": 1, "vocab_size": 2000},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
    },
    "vision_config": {
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64},
        "fullatt_block_indexes": [0, 1],
    },
}
"""What the model has instead on CPUs."""
NO_ENCODERS = dict.fromkeys(("bertscore", "clip", "sentence", "dinov2", "lpips", "inception"))


def write_model(folder: Path, *, on_cpu: bool, sizes: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Write the random model with the embedded processor, whose tokenizer knows every token id.

    Args:
        folder: Where to.
        on_cpu: In float32; otherwise in bfloat16, drawn on the GPU.
        sizes: Fields of the published configuration that are others, by part.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from grpo_mmpc.utils.model_paths import resolve_model

    fields = json.loads((ROOT / "tests/recipes/model_configs/qwen2_5_vl_3b.json").read_text())
    fields = {key: value for key, value in fields.items() if not key.startswith("_")}
    for part, others in (sizes or {}).items():
        fields[part] |= others
    processor = AutoProcessor.from_pretrained(resolve_model("nano:qwen2_5_vl"))
    tokens = processor.tokenizer
    config = AutoConfig.for_model(**fields)
    for key, token in (("image", "<|image_pad|>"), ("video", "<|video_pad|>")):
        setattr(config, f"{key}_token_id", tokens.convert_tokens_to_ids(token))
    for key in ("start", "end"):
        setattr(config, f"vision_{key}_token_id", tokens.convert_tokens_to_ids(f"<|vision_{key}|>"))
    text = config.get_text_config()
    text.eos_token_id, text.pad_token_id, text.bos_token_id = tokens.eos_token_id, tokens.pad_token_id, None
    dtype = torch.float32 if on_cpu else torch.bfloat16
    torch.manual_seed(0)
    with torch.device("cpu" if on_cpu else "cuda"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    written = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = written["model"]["vocab"]
    vocabulary |= {f"<unused{token}>": token for token in range(len(tokens), text.vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps(written))
    return {"parameters": model.num_parameters()}


def overrides(run_dir: Path, model: Path | str, *, on_cpu: bool) -> list[str]:
    """Return what makes the recipe of the 3B model a short job without network and encoders."""
    small = ["trainer.use_cpu=true", "trainer.bf16=false", "rollout.sleep=false", "model.init_kwargs={dtype: float32}"]
    return [
        str(ROOT / "recipes/qwen2_5_vl_3b.yaml"),
        f"run_dir={run_dir}",
        f"model.name_or_path={model}",
        "data.catalogue=nano:catalogue",
        "rewards.mix=[{name: bleu, weight: 0.9}, {name: json_format, weight: 0.1}]",
        "trainer.max_steps=3",
        "trainer.save_steps=3",
        "trainer.warmup_steps=0",  # the first update must reach the engine
        "trainer.learning_rate=1e-3",
        "trainer.report_to=none",
        "evaluation.before=false",
        "evaluation.max_items=9",
        "evaluation.controls=[]",
        "evaluation.max_tokens={image_to_text: 8}",
        f"evaluation.encoders={json.dumps(NO_ENCODERS)}",
        "report.enabled=false",
        *([*small, "model.processor_kwargs={min_pixels: 7056, max_pixels: 7056}"] if on_cpu else []),
        *(["trainer.per_device_train_batch_size=8", "trainer.max_completion_length=16"] if on_cpu else []),
        *(["trainer.gradient_accumulation_steps=1", "rollout.engine={max_model_len: 160}"] if on_cpu else []),
    ]


def engine_figures(run_dir: Path, model: Path | str, *, on_cpu: bool, syncs: int) -> dict[str, Any]:
    """Hold a vLLM in this process to the policy with images, sync it often and watch the memory."""
    import torch
    from peft import get_peft_model

    from grpo_mmpc.catalogue.run_data import RunData
    from grpo_mmpc.models.families import suppressed_token_ids
    from grpo_mmpc.models.policy import load_policy
    from grpo_mmpc.models.processor import load_processor
    from grpo_mmpc.pipelines.recipe import load_recipe
    from grpo_mmpc.rollout.parity_check import check_parity, choose_rows
    from grpo_mmpc.rollout.vllm.arguments import engine_arguments
    from grpo_mmpc.rollout.vllm.engine import LocalVLLM
    from grpo_mmpc.rollout.vllm.requests import prompt_of
    from grpo_mmpc.rollout.vllm.rollouts import VLLMRollouts
    from grpo_mmpc.training.arguments import lora_arguments
    from grpo_mmpc.types import SamplingConfig

    whole = [] if on_cpu or isinstance(model, Path) else ["model.init_kwargs={dtype: float32}"]
    config = load_recipe([*overrides(run_dir, model, on_cpu=on_cpu), *whole])
    dtype, device = str(config.model.init_kwargs["dtype"]), "cpu" if on_cpu else "cuda"
    processor, adapter = load_processor(config.model), lora_arguments(config)
    assert adapter is not None
    policy = get_peft_model(load_policy(config.model).to(device), adapter).eval()
    suppressed = suppressed_token_ids(processor, policy.config)
    arguments = engine_arguments(config, beside_trainer=True, num_sequences=16)
    engine = LocalVLLM(arguments, processor, suppressed_token_ids=suppressed, sleep=not on_cpu)
    sampling = SamplingConfig(max_tokens=16 if on_cpu else 128, temperature=1.0)
    rollouts = VLLMRollouts(engine, policy, sampling, rank=0, step=lambda: 0)
    rows = choose_rows(RunData(config).spaced_rows(["image_to_text"]), 8)
    figures: dict[str, Any] = {}

    def used_gib() -> float:
        if on_cpu:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
        free, total = torch.cuda.mem_get_info()
        return (total - free) / 2**30

    def sync(seed: int) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0.0, 0.02, generator=generator)
        rollouts.sync_weights()

    for seed in (1, 2):
        sync(seed)
        figures["awake_gib"] = used_gib()
        report = check_parity(
            policy,
            processor,
            engine,
            rows,
            adapter=rollouts.adapter,
            adapter_is_identity=False,
            suppressed_token_ids=suppressed,
            max_tokens=16,
            temperature=1.0,
            step=seed,
            dtype=dtype,
        )
        report.raise_on_problems()
        figures[f"parity_{seed}"] = report.mean_difference
        figures["parity_max"] = max(report.max_difference, figures.get("parity_max", 0.0))
        figures["asleep_gib"] = used_gib()  # where it sleeps, an engine does so after each call
    prompts = [prompt_of(row, processor, count=8, seed=1) for row in rows[:2]]
    start = time.perf_counter()
    outputs = engine.generate(prompts, sampling, adapter=rollouts.adapter)
    sampled = sum(len(completion.token_ids) for output in outputs for completion in output.completions)
    figures["tokens_per_s"] = sampled / (time.perf_counter() - start)
    seconds = []
    for number in range(syncs):
        start = time.perf_counter()
        rollouts.sync_weights()
        seconds.append(time.perf_counter() - start)
        if number == syncs // 10:
            before = used_gib()
    figures |= {"syncs": syncs, "sync_s": statistics.median(seconds), "growth_gib": used_gib() - before}
    engine.close()
    return figures


def run_figures(run_dir: Path) -> dict[str, Any]:
    """Read from a run's folder what its steps took, and how far its engine was from the policy."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step_time" in line]
    figures: dict[str, Any] = {
        "steps": len(steps),
        "step_s": statistics.median(line["step_time"] for line in steps[1:]),  # the first warms up
        "tokens_per_s": statistics.median(line["tokens_per_second"] for line in steps[1:]),
    }
    for key in ("memory/peak_gib", "memory/gpu_peak_gib", "sampling/sampling_logp_difference/mean"):
        values = [line[key] for line in lines if key in line]
        figures |= {key: max(values)} if values else {}
    parity = run_dir / "parity.jsonl"
    if parity.exists():
        figures["parity"] = [json.loads(line)["mean_difference"] for line in parity.read_text().splitlines()]
    return figures


def command_of(name: str, work: Path, *, on_cpu: bool) -> list[str]:
    """Return the command of a check."""
    own = [sys.executable, "-m", "tests.gpu.check", "--only", name, "--work", str(work), *(["--cpu"] * on_cpu)]
    if name in ("model", "nano_engine", "engine"):
        return own
    train = ["-m", "grpo_mmpc", "train", *overrides(work / name, work / "model", on_cpu=on_cpu)]
    if name == "transformers_steps":
        return [sys.executable, *train, "rollout.backend=transformers"]
    if name in ("grpo_steps", "server_steps"):
        return [sys.executable, *train, *(["rollout.mode=server"] if name == "server_steps" else [])]
    file, options = (LAUNCHED_ON_CPU if on_cpu else LAUNCHED)[name]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch/accelerate" / file)]
    return [sys.executable, *launcher, "--num_processes=1", "--main_process_port=0", *options, *train]


def missing(name: str) -> str | None:
    """Name what a check needs that is not installed; None if it can run."""
    package = {"model": None, "transformers_steps": None}.get(name, "deepspeed" if name == "zero3" else "vllm")
    return package if package and importlib.util.find_spec(package) is None else None


def outcome(name: str, work: Path, *, limit_s: float, on_cpu: bool) -> dict[str, Any]:
    """Run one check in a process of its own and return what came of it."""
    if (package := missing(name)) is not None:
        return {"skipped": f"{package} is not installed"}
    if limit_s < 5:
        return {"skipped": f"no time left of {DEADLINE_S:g} s"}
    start, log = time.monotonic(), work / f"{name}.log"
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "GRPO_MMPC_ENCODINGS_GB": "0"}
    child = Child(
        command_of(name, work, on_cpu=on_cpu),
        log=log,
        environment=os.environ | environment,
        grace_s=2.0,
        working_directory=ROOT,
    )
    try:
        while (status := child.poll()) is None and time.monotonic() - start < limit_s:
            time.sleep(0.2)
    finally:
        child.kill()  # also what it may have left
        child.wait()
    seconds = {"seconds": round(time.monotonic() - start, 1)}
    if status is None:
        return {"ok": False, "error": f"not done after {limit_s:.0f} s: {log_tail(log)}"} | seconds
    if status != 0:
        return {"ok": False, "error": f"exit code {status}: {log_tail(log)}"} | seconds
    try:
        if name in ("model", "nano_engine", "engine"):
            figures = json.loads(log.read_text().splitlines()[-1])
        else:
            figures = run_figures(work / name)
    except (ValueError, OSError, LookupError, statistics.StatisticsError) as error:
        return {"ok": False, "error": f"no figures ({first_line(error)}): {log_tail(log)}"} | seconds
    return {"ok": True} | seconds | figures


def run_checks(names: Sequence[str], *, on_cpu: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each check with its outcome, in order."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            left = float("inf") if on_cpu else DEADLINE_S - (time.monotonic() - started)
            limit_s = min(LIMITS_S[name] * (10 if on_cpu else 1), left)
            print(f"{name} (up to {limit_s:.0f} s) ...", file=sys.stderr, flush=True)
            result = outcome(name, Path(folder), limit_s=limit_s, on_cpu=on_cpu)
            print(f"  {json.dumps(result)}", file=sys.stderr, flush=True)
            yield name, result


def main() -> int:
    """Run all checks, or in a process of its own one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="a tiny model on CPUs, without a limit in all")
    parser.add_argument("--only", nargs="+", choices=list(LIMITS_S), help="these checks")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # heavy: imported on use
    import torch

    from grpo_mmpc.utils.manifest import environment as manifest_of_this_machine

    if not arguments.cpu and not torch.cuda.is_available():
        sys.exit("this check needs a CUDA device, and torch sees none; with --cpu it runs a tiny model instead")
    if arguments.work is not None:
        (name,) = arguments.only
        if name == "model":
            figures = write_model(arguments.work / "model", on_cpu=arguments.cpu, sizes=TINY if arguments.cpu else None)
        else:
            model = "nano:qwen2_5_vl" if name == "nano_engine" else arguments.work / "model"
            syncs = {"nano_engine": 500, "engine": 50}[name] // (10 if arguments.cpu else 1)
            figures = engine_figures(arguments.work / name, model, on_cpu=arguments.cpu, syncs=syncs)
        print(json.dumps(figures))
        return 0
    started = time.monotonic()
    names = list(LIMITS_S) if arguments.only is None else ["model", *(n for n in LIMITS_S if n in arguments.only)]
    checks = dict(run_checks(list(dict.fromkeys(names)), on_cpu=arguments.cpu))
    steps = [checks.get(name, {}).get("step_s") for name in ("transformers_steps", "grpo_steps")]
    where = manifest_of_this_machine()
    print(
        json.dumps(
            {
                "check": "gpu",
                "hardware": where["hardware"],
                "versions": where["versions"],
                "seconds": round(time.monotonic() - started, 1),
                "passed": all(result.get("ok", False) for result in checks.values()),
                "vllm_speedup": steps[0] / steps[1] if all(steps) else None,
                "checks": checks,
            }
        )
    )
    return 0 if all(result.get("ok", True) for result in checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
