"""Training that signals hit at random times ends as one that is left alone.

A number of each kind is sent, for instance forty::

    GRPO_MMPC_DRILL_SIGNALS=40 pytest -m slow tests/drills/test_train_signals.py
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from grpo_mmpc.config import RunConfig

SIGNALS = int(os.environ.get("GRPO_MMPC_DRILL_SIGNALS", "3"))
STATUSES = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, 130, -15), signal.SIGINT: (130,)}
"""The exit status after each; until a handler is installed, SIGTERM ends it as the system does."""
TIMES = ("time", "seconds", "started", "finished", "per_second", "wait")
"""Parts of the names of values that are never the same twice."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(v) for key, v in value.items() if not any(word in key for word in TIMES)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def content(path: Path, run: Path):
    """Return what a file says, without times and the run's own path."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text().replace(str(run), "RUN")))
    return path.read_bytes()


TELL_THE_TIME = {
    "report.html",
    "summary.html",
    "manifest.json",
    "checksums.json",
    "config.yaml",
    "training_args.bin",
    ".train.lock",
}


def artefacts(run: Path) -> dict[str, object]:
    """Return every file of a run by its name; of those that tell times and paths only the name."""
    files = [path for path in run.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(run)): None if path.name in TELL_THE_TIME else content(path, run) for path in sorted(files)
    }


@pytest.fixture(scope="module")
def left_alone(small_catalogue, tmp_path_factory) -> tuple[RunConfig, float, dict[str, object]]:
    """A run that nothing disturbs: its recipe, seconds and artefacts."""
    config = RunConfig.model_validate(
        {
            "run_dir": str(tmp_path_factory.mktemp("drill") / "run"),
            "model": {"name_or_path": "nano:qwen2_5_vl", "init_kwargs": {"dtype": "float32"}},
            "adapter": {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*\.(q|v)_proj"},
            "data": {"catalogue": str(small_catalogue), "held_out": 0.2},
            "rewards": {"mix": [{"name": "bleu", "weight": 1.0}, {"name": "token_f1", "weight": 0.0}]},
            "trainer": {
                "per_device_train_batch_size": 8,
                "num_generations": 4,
                "max_steps": 6,
                "max_completion_length": 24,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_strategy": "steps",
                "save_steps": 2,
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
            },
            "evaluation": {
                "max_items": 6,
                "metrics": ["bleu", "token_f1", "parse_rate"],
                "controls": ["category_title"],
                "encoders": dict.fromkeys(("bertscore", "clip", "sentence", "dinov2", "lpips", "inception")),
                "resamples": 100,
            },
        }
    )
    began = time.monotonic()
    assert start(config).wait() == 0
    return config, time.monotonic() - began, artefacts(Path(config.run_dir))


def start(config: RunConfig) -> subprocess.Popen:
    recipe = Path(f"{config.run_dir}.yaml")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(config.to_yaml())
    with Path(f"{config.run_dir}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "grpo_mmpc", "train", str(recipe)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@pytest.mark.parametrize("number", STATUSES, ids=lambda number: number.name)
def test_a_run_that_is_disturbed_ends_as_one_that_is_not(left_alone, tmp_path, number):
    calm, seconds, expected = left_alone
    config = calm.model_copy(update={"run_dir": str(tmp_path / "run")})
    log = tmp_path / "run.log"
    rng, sent = random.Random(number), 0
    for _ in range(SIGNALS):
        process = start(config)
        try:
            process.wait(timeout=rng.uniform(0.0, seconds))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, number)
            sent += 1
            status = process.wait(timeout=120)
            is_done = "next: grpo-mmpc" in log.read_text()  # it was about to end
            assert is_done or status in STATUSES[number], log.read_text()[-3000:]
        if (Path(config.run_dir) / "comparison.json").exists():  # done before it was hit: again from the start
            assert process.returncode != 0 or artefacts(Path(config.run_dir)) == expected
            config = calm.model_copy(update={"run_dir": str(tmp_path / f"run-{sent}" / "run")})
            log = Path(f"{config.run_dir}.log")
    assert start(config).wait() == 0, log.read_text()[-3000:]
    print(f"{sent} signals sent", file=sys.stderr)
    ours = artefacts(Path(config.run_dir))
    # A stop saves a checkpoint of its own, which is evaluated; a kill leaves none.
    own = {name for name in ours if "/checkpoint-" in name and name not in expected}
    assert number != signal.SIGKILL or not own
    assert ours.keys() - own == expected.keys()
    assert [name for name in expected if ours[name] != expected[name]] == []
    assert "Traceback" not in log.read_text()
