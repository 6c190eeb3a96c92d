"""Run folders from somebody else, or as a kill and a full disk leave them."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.drills.hostile.case import GOES_ON, REFUSED, Case, Group, both, write
from tests.drills.hostile.predictions import SUMMARY, evaluation

CONFIG = """
run_dir: run
model: {name_or_path: "nano:qwen2_5_vl"}
adapter: {r: 4}
data: {catalogue: "nano:catalogue"}
rewards: {mix: [{name: bleu, weight: 1.0}]}
"""
STEP = {"step": 1, "reward": 0.25, "rewards/bleu/mean": 0.25, "loss": 0.0}


def run(*more: Callable[[Path], object], config: str = CONFIG, metrics: str | bytes | None = None) -> object:
    """A run folder of two steps and an evaluation, then changed."""
    lines = "".join(json.dumps(STEP | {"step": step}) + "\n" for step in (1, 2)) if metrics is None else metrics
    base = "run/evaluations/base/cqbench"
    return both(
        write("run/config.yaml", config), write("run/metrics.jsonl", lines), evaluation(base, summary=SUMMARY), *more
    )


def linked(name: str, target: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        path = folder / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return make


RUNS = Group(
    title="Run folders",
    command="report run",
    outcome=GOES_ON,
    cases=[
        Case("no folder", lambda folder: None, "run", REFUSED),
        Case("an empty folder", lambda folder: (folder / "run").mkdir(), "run", REFUSED),
        Case("half of config.yaml", run(config=CONFIG[:60] + "{"), "not valid YAML ... restore it", REFUSED),
        Case("a torn line in metrics.jsonl", run(metrics=json.dumps(STEP) + '\n{"step": 2, "rew'), "report: "),
        Case("NUL in metrics.jsonl", run(metrics=b"\0" * 500), "report: "),
        Case("numbers that are none", run(metrics='{"step": 1, "reward": NaN, "loss": 1e999}\n'), "report: "),
        Case(
            "half of summary.json",
            run(write("run/evaluations/base/cqbench/summary.json", '{"m')),
            "summary.json is not valid JSON",
            REFUSED,
        ),
        Case(
            "half of comparison.json", run(write("run/comparison.json", '{"before": ')), "nothing is compared", REFUSED
        ),
        Case(
            "a comparison that leads out of the folder",
            run(write("run/comparison.json", json.dumps({"before": "../../x", "after": "y", "suite": ".."}))),
            "comparison.json is not a comparison",
            REFUSED,
        ),
        Case("half of manifest.json", run(write("run/manifest.json", '{"seed": ')), "manifest.json is not", REFUSED),
        Case(
            "a link to /etc/passwd as metrics.jsonl",
            run(linked("metrics.jsonl", "/etc/passwd")),
            "leads to /etc/passwd, which is no file of run",
            REFUSED,
        ),
        Case(
            "a link to /dev/zero as manifest.json",
            run(linked("manifest.json", "/dev/zero")),
            "leads to /dev/zero, which is no file of run",
            REFUSED,
        ),
        Case(
            "rescore: a link to /etc/passwd as config.yaml",
            run(linked("config.yaml", "/etc/passwd")),
            "leads to /etc/passwd, which is no file of run",
            REFUSED,
            "rescore run",
        ),
        Case(
            "rescore: a reward that names a program",
            run(config=CONFIG.replace("name: bleu", 'name: "os:system"')),
            "code that a run folder names is executed only where",
            REFUSED,
            "rescore run",
        ),
        Case("rescore: no rollouts", run(), "rollouts", REFUSED, "rescore run --mix run/config.yaml"),
        Case(
            "rescore: rollouts that are no Parquet",
            run(write("run/rollouts/step-1.parquet", "x" * 99)),
            "step-1.parquet",
            REFUSED,
            "rescore run --mix run/config.yaml",
        ),
    ],
)

GROUPS = [RUNS]
