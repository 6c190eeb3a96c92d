"""The nano job under several seeds, its comparisons in one table.

    python benchmarks/seeds.py         # seeds 0 1 2 3 of recipes/nano.yaml, 5 minutes each
    python benchmarks/seeds.py --seeds 5 6 --recipe recipes/nano_gemma3.yaml --out runs/seeds_gemma3

The last line is one JSON object; --markdown writes the table that docs/results.md shows.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from grpo_mmpc.utils.manifest import environment

ROOT = Path(__file__).parents[1]
TELLING = {"image_to_text": ("bleu", "bertscore_f1"), "text_to_image": ("clip_image_image", "ssim")}
"""By task, a metric that is trained on and one more; the second of prompts is not trained on."""


def run_seed(recipe: str, seed: int, out: Path, overrides: list[str]) -> dict:
    """Train with one seed unless it was done before; returns its ``comparison.json``."""
    run_dir = out / f"seed-{seed}"
    if not (run_dir / "comparison.json").is_file():
        command = ["train", recipe, f"run_dir={run_dir}", f"seed={seed}", *overrides, "--overwrite"]
        subprocess.run(
            [sys.executable, "-m", "grpo_mmpc", *command],
            check=True,
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    return json.loads((run_dir / "comparison.json").read_text())


def table(comparisons: dict[int, dict], task: str) -> str:
    """Return a Markdown table: a row per metric, a column per seed, before -> after each."""
    seeds = list(comparisons)
    lines = [
        f"| {task} | " + " | ".join(f"seed {seed}" for seed in seeds) + " |",
        "|---" * (len(seeds) + 1) + "|",
    ]
    metrics = comparisons[seeds[0]]["tasks"][task]["metrics"]
    for name in metrics:
        cells = []
        for seed in seeds:
            m = comparisons[seed]["tasks"][task]["metrics"][name]
            if m["delta"] is None:
                cells.append("unscored")
                continue
            interval = f" ({m['ci95'][0]:+.3f} … {m['ci95'][1]:+.3f})" if m["ci95"] else ""
            cells.append(f"{m['before']:.3f} → {m['after']:.3f}{interval}")
        star = "\\*" if any(comparisons[s]["tasks"][task]["metrics"][name]["was_reward"] for s in seeds) else ""
        lines.append(f"| {name}{star} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run all seeds and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/nano.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps, 18 items: only checks that it runs")
    arguments = parser.parse_args()
    overrides: list[str] = []
    if arguments.quick:
        arguments.seeds, arguments.out = arguments.seeds[:1], Path("runs/seeds_quick")
        overrides = ["trainer.max_steps=2", "trainer.save_steps=2", "evaluation.max_items=18"]

    comparisons = {seed: run_seed(arguments.recipe, seed, arguments.out, overrides) for seed in arguments.seeds}
    tasks = comparisons[arguments.seeds[0]]["tasks"]
    tables = "\n\n".join(table(comparisons, task) for task in tasks)
    print(tables)
    if arguments.markdown:
        arguments.markdown.write_text(tables + "\n", encoding="utf-8")

    figures: dict[str, float] = {}
    checks: dict[str, bool] = {}
    for seed, comparison in comparisons.items():
        for task, names in TELLING.items():
            metrics = comparison["tasks"][task]["metrics"]
            for name in names:
                interval = metrics[name]["ci95"]
                figures[f"{name}_delta_seed_{seed}"] = metrics[name]["delta"]
                checks[f"{name}_rises_seed_{seed}"] = interval is not None and interval[0] > 0
        metrics = comparison["tasks"]["image_to_text"]["metrics"]
        recalls = {name: m for name, m in metrics.items() if name.startswith("attribute_recall")}
        checks[f"no_attribute_falls_seed_{seed}"] = all(
            m["ci95"] is None or m["ci95"][1] >= 0 for m in recalls.values()
        )
    where = environment()
    result = {
        "benchmark": "seeds",
        "hardware": where["hardware"],
        "versions": where["versions"],
        "results": {},
        "figures": figures,
        "checks": checks,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
