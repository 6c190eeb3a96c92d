"""A run's claim of its folder: no two runs share one, and none is deleted unasked."""

import shutil
from pathlib import Path

import yaml
from pydantic import ValidationError

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.utils.files import write_text

LEFT_BY_A_FAILED_START = {"config.yaml", "quarantine.jsonl"}


def check_claim(config: RunConfig, *, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs in one folder, and to delete what is no run.

    Raises:
        TrainingError: The folder is in the way, holds nothing to resume, or another recipe's run.
    """
    run_dir = Path(config.run_dir)
    recorded = run_dir / "config.yaml"
    left = {path.name for path in run_dir.iterdir()} if run_dir.is_dir() else set()
    is_fresh = not left - LEFT_BY_A_FAILED_START and ("config.yaml" not in left or _is_run(run_dir))
    if is_fresh and not resume:
        return
    if overwrite and recorded.exists():
        if not _is_run(run_dir):
            raise TrainingError(f"{recorded} is not that of a run: {run_dir} is not deleted; choose another run_dir")
    elif recorded.exists():
        if not resume:
            raise TrainingError(
                f"{run_dir} already holds a run; add --resume to continue it, --overwrite to start again, "
                "or run_dir=OTHER to keep both"
            )
        if not _is_recipe(recorded, config):
            raise TrainingError(
                f"the recipe differs from {recorded}, the one this run was started with; "
                f"resume with: grpo-mmpc train {recorded} --resume"
            )
    elif resume:
        raise TrainingError(f"nothing to resume: {recorded} does not exist; start the run without --resume")
    else:
        raise TrainingError(f"{run_dir} is not empty and holds no run; choose another run_dir")


def claim(config: RunConfig, *, overwrite: bool) -> None:
    """Make the run folder and write into it what runs.

    Args:
        config: The recipe.
        overwrite: Delete the run that is there; call this only once the data could be read, for a
            start that fails must not cost an earlier run.
    """
    run_dir = Path(config.run_dir)
    if overwrite and run_dir.exists():
        shutil.rmtree(run_dir)
    write_text(run_dir / "config.yaml", config.to_yaml())


def _is_recipe(recorded: Path, config: RunConfig) -> bool:
    """Compare by meaning, whatever keys the file was written with."""
    try:
        return RunConfig.model_validate(yaml.safe_load(recorded.read_text("utf-8"))) == config
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError):
        return False


def _is_run(run_dir: Path) -> bool:
    if (run_dir / "manifest.json").is_file():
        return True
    try:
        content = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and {"run_dir", "model", "rewards"} <= set(content)
