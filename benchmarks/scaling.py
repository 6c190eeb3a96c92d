"""One process and two, ZeRO-2 and DDP, rollouts ahead, checkpoints, the plan's 1 to 64 nodes.

    python benchmarks/scaling.py                    # about ten minutes on two cores
    python benchmarks/scaling.py --quick            # the embedded policy alone, two steps a job
    python benchmarks/scaling.py --paper            # picture and tables of docs/scaling.md

Every job is a training of 32 completions a step in processes of its own, one thread each: with one
process, with two as ``launch/accelerate/multi_cpu.yaml`` says, and with two as ``zero2_cpu.yaml``
says where DeepSpeed is installed. Policies are the embedded one (2.9M parameters) and a random one
of 65M. Where vLLM is installed, the embedded one is also trained with a server of its own on this
machine, in lockstep and with ``rollout.ahead=1``. Jobs alternate. The first step of each warms up;
the last is followed by a checkpoint, from which one more training goes on.

Seconds are of the main process: on the wall, and on a processor, where other jobs of the machine do
not count. Checkpoints are timed on the wall, what a resume adds to a start on a processor.
``ratio`` is of processor time; twice as good as one process would be 2. ``planned`` is the speedup
that the time model of ``grpo-mmpc plan`` expects, its two speeds of the machine set by the step of
one process. ``ahead`` is timed on the wall: a step waits for the longer of rollouts and the rest,
and ``planned_speedup_ahead`` is what that makes of the two as lockstep took them.

The last line is one JSON object.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

COMPLETIONS = 32
MIDDLE = {
    "text_config": {
        **{"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 12},
        **{"num_key_value_heads": 4, "vocab_size": 2000},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 12, 12]},
    },
    "vision_config": {
        **{"depth": 12, "hidden_size": 384, "intermediate_size": 1024, "num_heads": 6, "out_hidden_size": 768},
        "fullatt_block_indexes": list(range(12)),
    },
}
PHASES = ("rollouts", "rewards", "log-probabilities", "update")
NODES = (1, 2, 4, 8, 16, 32, 64)
TABLED = (1, 2, 8, 64)
PAPER = (
    ("qwen2_5_vl_7b, ddp", ""),
    ("qwen2_5_vl_7b, ddp, server", "rollout.mode=server"),
    ("qwen2_5_vl_7b, ddp, server, ahead", "rollout.mode=server rollout.ahead=1"),
    ("qwen2_5_vl_72b, zero3", ""),
    ("qwen2_5_vl_72b, zero3, 1 x 16", "trainer.per_device_train_batch_size=1 trainer.gradient_accumulation_steps=16"),
)
"""What the page shows: recipe, strategy and more, and its overrides."""


@dataclass(frozen=True, slots=True)
class Side:
    """What a training of the comparison differs in."""

    model: str
    processes: int = 1
    launch_file: str = "multi_cpu.yaml"
    more: tuple[str, ...] = ()
    is_resumed: bool = False
    """One more training goes on from its checkpoint."""


# ---- one training, in a process of its own ----


def overrides(run_dir: Path, model: str, *, processes: int, steps: int, more: Iterable[str] = ()) -> list[str]:
    """Return the recipe of a job."""
    return [
        str(ROOT / "recipes/nano.yaml"),
        f"run_dir={run_dir}",
        f"model.name_or_path={model}",
        "tasks=[image_to_text]",
        "rewards.mix=[{name: bleu, weight: 0.9}, {name: json_format, weight: 0.1}]",
        f"trainer.per_device_train_batch_size={COMPLETIONS // processes}",
        "trainer.num_generations=8",
        "trainer.max_completion_length=48",
        f"trainer.max_steps={steps}",
        f"trainer.save_steps={steps}",
        "trainer.beta=0.0",
        *more,
    ]


def train_here(recipe: list[str], out: Path) -> None:
    """Train, and write what it took; every rank calls this, the main one writes."""
    from grpo_mmpc.utils.cpu_compat import ensure_importable

    ensure_importable()
    from grpo_mmpc.catalogue.run_data import RunData
    from grpo_mmpc.pipelines.recipe import load_recipe
    from grpo_mmpc.training.run_trainer import RunTrainer
    from grpo_mmpc.training.session import TrainingSession
    from grpo_mmpc.training.trl_seams import GRPOTrainer, SeamedGRPOTrainer, TrainerCallback

    taken: dict[str, list[float]] = defaultdict(list)

    def timed(owner: type, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def outer(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time(), time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                taken[name].append(time.process_time() - start[0])
                taken[f"wall/{name}"].append(time.perf_counter() - start[1])

        setattr(owner, method, outer)

    timed(SeamedGRPOTrainer, "generate_completions", "rollouts")
    timed(GRPOTrainer, "_calculate_rewards", "rewards")
    timed(SeamedGRPOTrainer, "generate_and_score", "until the loss")
    timed(RunTrainer, "save_checkpoint", "checkpoint")
    timed(GRPOTrainer, "_load_from_checkpoint", "load")

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time(), time.perf_counter()
            taken.setdefault("until ready", [self.start[0]])

        def on_step_end(self, *_: Any, **__: Any) -> None:
            taken["step"].append(time.process_time() - self.start[0])
            taken["wall/step"].append(time.perf_counter() - self.start[1])

    config = load_recipe(recipe)
    Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    session = TrainingSession(config, RunData(config))
    session.trainer.add_callback(Clock())
    session.train(before=None, after_save=None)
    if session.ranks.is_main:
        saved = sorted((Path(config.run_dir) / "checkpoints").glob("checkpoint-*"))[-1]
        size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
        out.write_text(json.dumps({**taken, "bytes": size, "parameters": session.parameters}))
    session.close()


def job(folder: Path, side: Side, model: str, *, steps: int) -> dict[str, Any]:
    """Run one training, or go on with it where its folder has one, and return what it took."""
    out = folder / "taken.json"
    recipe = overrides(folder, model, processes=side.processes, steps=steps, more=side.more)
    own = [str(ROOT / "benchmarks/scaling.py"), "--child", str(out), *recipe]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch/accelerate" / side.launch_file)]
    command = [sys.executable, *([*launcher, "--main_process_port=0"] if side.processes > 1 else []), *own]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    taken: dict[str, Any] = json.loads(out.read_text())
    return taken


# ---- the comparison ----


def compare(*, repeats: int, steps: int, with_middle: bool) -> dict[str, Any]:
    """Run all jobs, alternating, and put their figures together."""
    from grpo_mmpc.utils.cpu_compat import ensure_importable

    ensure_importable()
    sides = {"nano_1": Side("nano", is_resumed=True), "nano_2": Side("nano", processes=2)}
    if importlib.util.find_spec("deepspeed") is not None:
        sides["nano_zero2"] = Side("nano", processes=2, launch_file="zero2_cpu.yaml")
    if importlib.util.find_spec("vllm") is not None:
        server = ("rollout.backend=vllm", "rollout.mode=server")
        sides |= {
            "nano_lockstep": Side("nano", more=server),
            "nano_ahead": Side("nano", more=(*server, "rollout.ahead=1")),
        }
    if with_middle:
        sides |= {"middle_1": Side("middle", is_resumed=True), "middle_2": Side("middle", processes=2)}
    jobs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        models = {"nano": "nano:qwen2_5_vl", "middle": str(Path(scratch) / "model")}
        if with_middle:
            from tests.gpu.check import write_model

            write_model(Path(models["middle"]), on_cpu=True, sizes=MIDDLE)
        for repeat in range(repeats):
            for name, side in sides.items():
                print(f"{name}, {repeat + 1} of {repeats} ...", file=sys.stderr, flush=True)
                folder = Path(scratch) / f"{name}-{repeat}"
                jobs[name].append(job(folder, side, models[side.model], steps=steps))
                if side.is_resumed:
                    jobs[f"{name}_resumed"].append(job(folder, side, models[side.model], steps=steps + 1))
        sizes = ("nano", "middle") if with_middle else ("nano",)
        planned = {name: planned_speedup(models[name], jobs[f"{name}_1"]) for name in sizes}

    def step(name: str, kind: str = "step") -> float:
        return statistics.median(seconds for one in jobs[name] for seconds in one[kind][1:])

    results = {}
    pairs = {"two_processes": ("nano_2", "nano_1"), "two_processes_65m": ("middle_2", "middle_1")}
    for key, (ours, baseline) in (pairs | {"zero2_against_ddp": ("nano_zero2", "nano_2")}).items():
        if ours in jobs:
            results[key] = {
                "ours": round(step(ours), 3),
                "baseline": round(step(baseline), 3),
                "unit": "CPU s a step of one process",
                "ratio": round(step(baseline) / step(ours), 2),
            }
    if "nano_ahead" in jobs:
        lockstep, ahead = step("nano_lockstep", "wall/step"), step("nano_ahead", "wall/step")
        sampling = step("nano_lockstep", "wall/rollouts")
        planned["ahead"] = lockstep / max(lockstep - sampling, sampling)
        results["ahead"] = {
            "ours": round(ahead, 3),
            "baseline": round(lockstep, 3),
            "unit": "s a step",
            "ratio": round(lockstep / ahead, 2),
        }
    figures: dict[str, float] = {f"planned_speedup_{name}": round(value, 2) for name, value in planned.items()}
    for name in sides:
        figures[f"wall_s_{name}"] = round(step(name, "wall/step"), 3)
        figures |= {f"share_{name}/{phase}": round(share, 3) for phase, share in shares(jobs[name]).items()}
    for name in [name for name, side in sides.items() if side.is_resumed]:
        fresh, resumed = jobs[name], jobs[f"{name}_resumed"]
        figures |= {
            f"parameters_{name}": fresh[0]["parameters"],
            f"checkpoint_bytes_{name}": fresh[0]["bytes"],
            f"checkpoint_write_s_{name}": round(statistics.median(one["wall/checkpoint"][0] for one in fresh), 3),
            f"checkpoint_load_s_{name}": round(statistics.median(one["wall/load"][0] for one in resumed), 3),
            f"resume_overhead_s_{name}": round(
                statistics.median(one["until ready"][0] for one in resumed)
                - statistics.median(one["until ready"][0] for one in fresh),
                2,
            ),
        }
    return {"results": results, "figures": figures, "checks": {}}


def shares(jobs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of each phase of the steps after the first, by processor time."""
    sums: dict[str, float] = defaultdict(float)
    for one in jobs:
        sums["rollouts"] += sum(one["rollouts"][1:])
        sums["rewards"] += sum(one["rewards"][1:])
        sums["log-probabilities"] += sum(one["until the loss"][1:]) - sum(one["rollouts"][1:]) - sum(one["rewards"][1:])
        sums["update"] += sum(one["step"][1:]) - sum(one["until the loss"][1:])
    whole = sum(sums.values())
    return {phase: sums[phase] / whole for phase in PHASES}


def planned_speedup(model: str, jobs: list[dict[str, Any]]) -> float:
    """Return what the plan expects of two processes, from the phases that one was measured with."""
    from dataclasses import replace

    from grpo_mmpc.analysis.plan.hardware import STRATEGIES, Device
    from grpo_mmpc.analysis.plan.speed import speed_of
    from grpo_mmpc.analysis.plan.workload import workload_of
    from grpo_mmpc.models.shapes import read_shape
    from grpo_mmpc.pipelines.recipe import load_recipe

    def planned(device: Device, processes: int) -> Any:
        config = load_recipe(overrides(Path("plan"), model, processes=processes, steps=2))
        work = workload_of(config, read_shape(config.model), sizes=[(84, 84)])
        return speed_of(work, config, STRATEGIES["ddp"], device, processes=processes, nodes=1)

    measured = shares(jobs)
    seconds = statistics.median(value for one in jobs for value in one["step"][1:])
    unit = Device(memory_gib=1.0, tflops=1.0, bandwidth=1.0)
    update = planned(unit, 1).phases["update"]
    device = replace(unit, tflops=update / (measured["update"] * seconds))
    # The bandwidth follows from what decoding takes beyond its arithmetic, where that decides.
    floor = planned(replace(device, bandwidth=1e6), 1).phases["rollouts"]
    read = planned(replace(device, bandwidth=1e-6), 1).phases["rollouts"] - floor
    left = max(measured["rollouts"] * seconds - floor, 0.0)
    if left:
        device = replace(device, bandwidth=1e-6 * read / left)
    return float(planned(device, 1).step_s / planned(device, 2).step_s)


# ---- on paper ----


def paper() -> tuple[str, str]:
    """Return the picture and the tables of the page, from the plan alone."""
    from grpo_mmpc.analysis.plan.hardware import DEVICES, STRATEGIES
    from grpo_mmpc.analysis.plan.plan import make_plan
    from grpo_mmpc.config import RunConfig
    from grpo_mmpc.config.loading import merge_layers, split_words, validate
    from grpo_mmpc.models.shapes import read_shape

    tables, panels = [], []
    for title, override in PAPER:
        recipe, strategy = title.split(", ")[:2]
        words = [str(ROOT / f"recipes/{recipe}.yaml"), *override.split()]
        config = validate(RunConfig, merge_layers(*split_words(words)))
        saves = int(config.trainer["save_steps"])
        columns, traffics = {}, {}
        for nodes in NODES:
            device = DEVICES["h100"]
            plan = make_plan(
                config,
                read_shape(config.model),
                device=device,
                gpus=8 * nodes,
                nodes=nodes,
                strategies=[STRATEGIES[strategy]],
            )
            speed = plan.speed[strategy]
            columns[nodes] = {**speed.phases, "evaluation": speed.evaluation_s / saves}
            traffics[nodes] = dict(speed.traffic)
        panels.append((title, columns))
        shown = [{nodes: some[nodes] for nodes in TABLED} for some in (columns, traffics)]
        tables.append(table(title, *shown, completions=plan.work.completions * 8))
    return picture(panels), "\n\n".join(tables)


def table(
    title: str,
    columns: Mapping[int, Mapping[str, float]],
    traffics: Mapping[int, Mapping[str, float]],
    *,
    completions: int,
) -> str:
    """Return a table of the page: seconds of a step by phase, and what a GPU exchanges."""
    rows = [
        [f"`{title}`", *(str(nodes) for nodes in columns)],
        ["---"] * (1 + len(columns)),
        ["completions a step", *(f"{completions * nodes:,}" for nodes in columns)],
    ]
    for phase in names_of(columns):
        rows.append([f"{phase}, s", *(f"{column.get(phase, 0.0):.2f}" for column in columns.values())])
    totals = [sum(column.values()) for column in columns.values()]
    rows.append(["**step, s**", *(f"**{total:.1f}**" for total in totals)])
    rows.append(
        ["completions a second", *(f"{completions * n / s:,.0f}" for n, s in zip(columns, totals, strict=True))]
    )
    for phase in names_of(traffics):
        sizes = (one.get(phase, 0.0) / 1e9 for one in traffics.values())
        rows.append([f"{phase}, GB a GPU", *(f"{size:,.0f}" if size >= 10 else f"{size:.2g}" for size in sizes)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def names_of(columns: Mapping[int, Mapping[str, float]]) -> list[str]:
    """Return the phases of all columns, in order."""
    return list(dict.fromkeys(name for column in columns.values() for name in column))


HEAD = 50
COLOURS = ("#2f6db5", "#8a5cc2", "#c98a1b", "#2e8b57", "#c0504d", "#777777", "#1b9aaa", "#a0522d", "#b8860b")
STYLE = """
    .page { fill: #ffffff; }
    text { fill: #1b1b1b; font-family: system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; font-size: 13px; }
    .name { font-weight: 600; font-size: 14px; }
    .axis { stroke: #999999; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #15181c; }
      text { fill: #ececec; }
      .axis { stroke: #777777; }
    }
"""


def picture(panels: list[tuple[str, Mapping[int, Mapping[str, float]]]]) -> str:
    """Return stacked bars of the seconds of a step, a panel for each recipe."""
    names = list(dict.fromkeys(name for _, columns in panels for name in names_of(columns)))
    colour = dict(zip(names, COLOURS[: len(names)], strict=True))
    width, height, bar = 420, 210, 34
    bottom = HEAD + len(panels) * height
    tall = bottom + 20 * ((len(names) + 1) // 2)
    parts = []
    for index, (title, columns) in enumerate(panels):
        top, most = HEAD + index * height, max(sum(column.values()) for column in columns.values())
        floor, scale = top + height - 44, (height - 90) / most
        parts.append(f'<text class="name" x="16" y="{top + 10}">{title}</text>')
        parts.append(f'<path class="axis" d="M16 {floor}H{width - 16}"/>')
        for place, (nodes, column) in enumerate(columns.items()):
            x, y = 24 + place * 54, float(floor)
            for name, seconds in column.items():
                y -= seconds * scale
                parts.append(
                    f'<rect x="{x}" y="{y:.1f}" width="{bar}" height="{seconds * scale:.1f}" fill="{colour[name]}"/>'
                )
            middle = x + bar / 2
            parts.append(f'<text x="{middle}" y="{y - 5:.1f}" text-anchor="middle">{sum(column.values()):.1f}</text>')
            parts.append(f'<text x="{middle}" y="{floor + 16}" text-anchor="middle">{nodes}</text>')
    for place, name in enumerate(names):
        x, y = 16 + 200 * (place % 2), bottom + 20 * (place // 2)
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour[name]}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{name}</text>')
    head = f'width="{width}" height="{tall}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {head} viewBox="0 0 {width} {tall}" role="img" '
        'aria-labelledby="title description">',
        '  <title id="title">Seconds of a step by phase on 1 to 64 nodes</title>',
        '  <desc id="description">A panel for each recipe with a stacked bar for each number of nodes of eight H100. '
        "The numbers are those of the page's tables.</desc>",
        f"  <style>{STYLE}  </style>",
        f'  <rect class="page" {head}/>',
        '  <text x="16" y="22">Seconds of a step, by nodes of 8 x H100 (planned)</text>',
        *(f"  {part}" for part in parts),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is asked for."""
    sys.path[0] = str(ROOT)  # benchmarks/rewards.py would hide the package of rewards
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=2, help="trainings of each side (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of each training; the first warms up (%(default)s)")
    parser.add_argument("--paper", action="store_true", help="write the picture, print the tables, train nothing")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        train_here(arguments.child[1:], Path(arguments.child[0]))
        return
    if arguments.paper:
        svg, tables = paper()
        (ROOT / "docs/images/scaling.svg").write_text(svg)
        print(tables)
        return
    quick = arguments.quick
    repeats, steps = (1, 2) if quick else (arguments.repeats, arguments.steps)
    measured = compare(repeats=repeats, steps=steps, with_middle=not quick)
    from grpo_mmpc.utils.manifest import environment

    where = environment()
    head = {"benchmark": "scaling", "hardware": where["hardware"], "versions": where["versions"]}
    print(json.dumps(head | measured))


if __name__ == "__main__":
    main()
