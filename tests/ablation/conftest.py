"""An ablation of fake runs: two mixes x two seeds, the untrained model already evaluated."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from grpo_mmpc.ablation.folder import write_recipes
from grpo_mmpc.ablation.grid import PlannedRun, expand
from grpo_mmpc.ablation.jobs import Job, jobs_of
from grpo_mmpc.ablation.spec import load_ablation
from grpo_mmpc.config import load_config

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FAKE = HERE / "fake_train.py"


@pytest.fixture(autouse=True)
def fake_runs_are_soon_asked_whether_they_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_mmpc.utils.jobs._POLL_S", 0.01)


@pytest.fixture
def ablation(tmp_path, monkeypatch) -> Callable[..., Path]:
    """A function that writes the ablation file; keyword arguments replace its keys."""
    monkeypatch.chdir(ROOT)

    def write(**changes) -> Path:
        content = yaml.safe_load((HERE / "tiny.yaml").read_text()) | {"launcher": f"{sys.executable} {FAKE}"} | changes
        path = tmp_path / "fake.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def load_unchecked(arguments):
    """As ``grpo-mmpc train`` reads a recipe, without TRL's checks, which take seconds to import."""
    files = [word for word in arguments if "=" not in word]
    return load_config(files, [word for word in arguments if "=" in word])


@pytest.fixture
def load_without_trl():
    """As a fixture, for tests that replace the command's own."""
    return load_unchecked


@pytest.fixture
def planned(ablation, tmp_path) -> Callable[..., tuple[Path, list[PlannedRun], list[Job]]]:
    """A function that makes a folder: recipes written, the untrained model evaluated."""

    def plan(**changes) -> tuple[Path, list[PlannedRun], list[Job]]:
        path, folder = ablation(**changes), tmp_path / "out"
        spec = load_ablation(path)
        runs = expand(spec, path=path, folder=folder, load=load_unchecked)
        jobs = jobs_of(runs, folder=folder, launcher=spec.launcher)
        write_recipes(jobs, overwrite=False)
        write_evaluation = runpy.run_path(str(FAKE))["write_evaluation"]
        write_evaluation(jobs[0].folder, quality=0.2, checkpoint="base")
        return folder, runs, jobs

    return plan
