"""A run folder that was moved: its own recipe means the folder where it lies now."""

import shutil
from pathlib import Path

import pytest

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.training.claim import check_folder


@pytest.fixture
def moved(make_config, tmp_path) -> Path:
    """A run that has made a step, in another folder than it was begun in."""
    config = make_config().model_copy(update={"run_dir": str(tmp_path / "begun")})
    run = Path(config.run_dir)
    run.mkdir()
    for name, content in (("config.yaml", config.to_yaml()), ("manifest.json", "{}"), ("metrics.jsonl", "{}\n")):
        (run / name).write_text(content)
    return Path(shutil.move(run, tmp_path / "moved"))


def test_its_recipe_goes_on_there_and_begins_nothing_where_it_was(moved, capsys):
    recorded = str(moved / "config.yaml")
    assert load_recipe([recorded]).run_dir == str(moved)
    assert f"{recorded}: its run lies in {moved} now" in capsys.readouterr().err
    assert load_recipe([recorded, "run_dir=elsewhere"]).run_dir == "elsewhere"
    copied = Path(shutil.copy(recorded, moved.parent))
    assert load_recipe([str(copied)]).run_dir == str(moved.parent / "begun"), "a recipe of its own, of no run"


def test_it_is_no_other_recipe_unless_something_else_differs(moved, make_config):
    config = make_config().model_copy(update={"run_dir": str(moved)})
    check_folder(config, overwrite=False)
    with pytest.raises(TrainingError, match="of another recipe: seed was"):
        check_folder(config.model_copy(update={"seed": 5}), overwrite=False)
