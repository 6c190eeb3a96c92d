"""``grpo-mmpc plan``: memory and time of a training, before anything of it loads."""

import argparse
import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.analysis.plan.hardware import DEVICES, GIB, STRATEGIES, strategy_of, this_machine
from grpo_mmpc.utils.options import add_recipe, positive_int

if TYPE_CHECKING:
    from grpo_mmpc.analysis.plan.plan import Plan
    from grpo_mmpc.config import RunConfig

_ENGINES = {
    "transformers": "rollouts by Transformers",
    "vllm": "rollouts by vLLM in the training processes",
    "server": "rollouts by vLLM servers",
    "none": "supervised, no rollouts",
}


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "plan",
        help="say what a recipe needs: GPU memory by part, seconds a step by phase, hours, and what to turn",
        description=(
            "Reads recipe, catalogue and the sizes of the model, and loads nothing of it. Memory is compared for each "
            "way of spreading the model, or for the launch file that is named. Exit status 1 where nothing fits."
        ),
        epilog="example: grpo-mmpc plan recipes/qwen2_5_vl_32b.yaml --gpus 8 --gpu a100",
    )
    add_recipe(parser)
    parser.add_argument("--gpus", type=positive_int, metavar="N", help="GPUs of one machine (8; a CPU's processes: 1)")
    parser.add_argument("--nodes", type=positive_int, default=1, metavar="M", help="machines (%(default)s)")
    parser.add_argument("--gpu", default="h100", choices=[*DEVICES], help="kind of GPU (%(default)s): %(choices)s")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="memory of one, where it is another")
    parser.add_argument("--launch", type=Path, metavar="FILE", help="only for this file of accelerate launch")
    parser.add_argument("--json", action="store_true", help="print everything as JSON: bytes and seconds")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; 0 if the recipe fits."""
    from grpo_mmpc.analysis.plan.plan import as_json, make_plan
    from grpo_mmpc.config import RunConfig
    from grpo_mmpc.config.loading import merge_layers, split_words, validate
    from grpo_mmpc.models.shapes import read_shape
    from grpo_mmpc.utils.console import Progress

    words = arguments.recipe
    config = validate(RunConfig, merge_layers(*split_words(words)))
    on_cpu = bool(config.trainer.get("use_cpu"))
    device = this_machine() if on_cpu else DEVICES[arguments.gpu]
    if arguments.gpu_memory is not None:
        device = dataclasses.replace(device, memory_gib=arguments.gpu_memory)
    strategies = [STRATEGIES["ddp"]] if on_cpu else [*STRATEGIES.values()]
    if arguments.launch is not None:
        strategies = [strategy_of(arguments.launch)]
    with Progress() as progress:
        # One that is not published needs PyTorch.
        progress("reading the model's sizes", 0, detail=config.model.name_or_path)
        shape = read_shape(config.model)
    plan = make_plan(
        config,
        shape,
        device=device,
        gpus=(arguments.gpus or (1 if on_cpu else 8)) * arguments.nodes,
        nodes=arguments.nodes,
        strategies=strategies,
    )
    if arguments.json:
        print(json.dumps(as_json(plan), indent=1))
    else:
        _show(plan, config, words, kind="CPU" if on_cpu else arguments.gpu)
    return 0 if plan.fitting and not plan.problems else 1


def _show(plan: "Plan", config: "RunConfig", words: list[str], *, kind: str) -> None:
    from grpo_mmpc.reports.common.labels import plural
    from grpo_mmpc.utils.console import printer

    say, work = printer(True), plan.work
    unit = "process" if work.on_cpu else "GPU"
    method = "LoRA" if work.is_adapter else "all weights"
    machines = "" if plan.nodes == 1 else f" on {plan.nodes} machines"
    say(
        f"model       {config.model.name_or_path}, {_count(work.shape.parameters)} parameters; {method}, "
        f"{_count(work.trained_parameters)} trained"
    )
    images = f"sizes of {plan.num_images} images" if plan.num_images else "no catalogue here, so the largest images"
    tokens = f"{work.image_tokens or 0} of them an image ({images})"
    if work.image_tokens is None and any(task.shows_image for task in config.measured_tasks):
        tokens = f"without its image: what one takes is not known for {work.shape.model_type}, and left out below"
    say(f"prompt      up to {work.prompt_tokens} tokens, {tokens}")
    groups = "" if work.engine == "none" else f", groups of {work.num_generations}"
    say(
        f"step        {work.completions * plan.gpus} {'answers' if work.engine == 'none' else 'completions'} of up to "
        f"{work.completion_tokens} tokens: {work.completions} a {unit}{groups}"
    )
    where = f"{plan.gpus} x {kind} of {plan.device.memory_gib:g} GiB{machines}"
    say(f"on          {where}; {_ENGINES[work.engine]}")
    say("")
    say("\n".join(_memory_table(plan)))
    name = plan.fitting[0] if plan.fitting else next(iter(plan.memory), None)
    if name is not None and name in plan.speed:
        say("")
        say("\n".join(_time_lines(plan, name)))
    for problem in plan.problems:
        say(f"! {problem}")
    say("")
    if plan.fitting and not plan.problems:
        best = plan.memory[plan.fitting[0]]
        room = f"{best.peak / GIB:.1f} of {plan.device.memory_gib:g} GiB"
        say(f"fits with {', '.join(plan.fitting)}: {room} a {unit}")
        say(f"next: {_launch(plan)} {'sft' if work.engine == 'none' else 'train'} {shlex.join(words)}")
    elif plan.fitting:
        say("it fits, but would fail as said above")
    else:
        say(f"does not fit on {plural(plan.gpus, f'such {unit}')}")
        for overrides, strategy, peak in plan.remedies:
            say(f"fits with {strategy} and {overrides}: {peak / GIB:.0f} GiB")
        if not plan.remedies:
            say("no change of batch, engine or quantisation makes it fit; take more or larger GPUs (--gpus, --nodes)")


def _memory_table(plan: "Plan") -> list[str]:
    """Rows are parts, columns ways of spreading the model, each in the phase that decides."""
    from grpo_mmpc.reports.common.tables import text_table

    columns = {name: {**memory.resident, **memory.phases[memory.largest_phase]} for name, memory in plan.memory.items()}
    parts = list(dict.fromkeys(part for column in columns.values() for part, size in column.items() if size > 0))
    rows = [[part, *(_gib(column.get(part, 0.0)) for column in columns.values())] for part in parts]
    memories = plan.memory.values()
    rows.append(["peak", *(f"{memory.peak / GIB:.1f}" for memory in memories)])
    rows.append(["decided by", *(memory.largest_phase for memory in memories)])
    if any(memory.host for memory in memories):
        rows.append(["host, per GPU", *(_gib(memory.host) for memory in memories)])
    return text_table([f"GiB a {'process' if plan.work.on_cpu else 'GPU'}", *columns], rows)


def _time_lines(plan: "Plan", name: str) -> list[str]:
    from grpo_mmpc.reports.common.labels import duration

    speed = plan.speed[name]
    phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in speed.phases.items() if seconds >= 0.05)
    lines = [f"time        {speed.step_s:.1f} s a step with {name}: {phases}"]
    if speed.total_s is not None:
        lines.append(
            f"run         {speed.steps} steps and {speed.evaluations} evaluations of {speed.evaluation_s:.0f} s: "
            f"{duration(speed.total_s)}, {speed.total_s * plan.gpus / 3600:,.1f} GPU hours"
        )
    return lines


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size > 0 else "-"


def _launch(plan: "Plan") -> str:
    if plan.gpus == 1 and plan.work.on_cpu:
        return "grpo-mmpc"
    name = "multi_cpu" if plan.work.on_cpu else "single_gpu" if plan.gpus == 1 else plan.fitting[0]
    usual = {"multi_cpu": 2, "single_gpu": 1}.get(name, 8)
    processes = f" --num_processes {plan.gpus}" if plan.gpus != usual else ""
    machines = "" if plan.nodes == 1 else f" --num_machines {plan.nodes} --machine_rank R --main_process_ip HOST"
    return f"accelerate launch --config_file launch/accelerate/{name}.yaml{processes}{machines} -m grpo_mmpc"


def _count(number: float) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:,.1f} million"
