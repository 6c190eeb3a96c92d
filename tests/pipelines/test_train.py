"""A run from start to end in which nothing can be learnt: what it says, writes and finishes."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from grpo_mmpc.config import RunConfig, load_config
from grpo_mmpc.models.identity import policy_identity
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.rewards.troubles import LATEST

FLAT = f"{Path(__file__).parents[1] / 'training/counting_rewards.py'}:echo_item"
NOTHING = "def nothing():\n    return lambda *, completions, **_: [None] * len(completions)\n"
SECRET = "s3cret-of-mine"
pytestmark = pytest.mark.slow


class Finished(NamedTuple):
    config: RunConfig
    said: str
    """Standard output."""
    logged: list[str]
    """Messages of the log."""


@pytest.fixture(scope="module")
def finished(config_in, small_catalogue, tmp_path_factory) -> Iterator[Finished]:
    """A run on products that no nano model knows, with a flat reward and one that scores none."""
    folder = tmp_path_factory.mktemp("train")
    shop = Path(shutil.copytree(small_catalogue, folder / "shop"))
    (shop / "items.jsonl").write_text((shop / "items.jsonl").read_text().replace('"nano-', '"shop-'))
    (folder / "own.py").write_text(NOTHING)
    config = config_in(
        folder / "run",
        model={"init_kwargs": {"dtype": "float32", "token": SECRET}, "processor_kwargs": {"token": SECRET}},
        data={"catalogue": str(shop)},
        rewards={"mix": [{"name": name, "weight": 0.5} for name in (FLAT, f"{folder / 'own.py'}:nothing")]},
        trainer={"max_steps": LATEST, "temperature": 0.1, "hub_token": SECRET},
        evaluation={"checkpoints": False, "controls": ["other_title", "shuffled_image"], "resamples": 100},
        report={"enabled": True},
    )
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.setattr(sys, "argv", ["grpo-mmpc", "train", "x.yaml", f"model.init_kwargs.token={SECRET}"])
        assert run_training(config) == 0
    logging.getLogger().removeHandler(handler)
    yield Finished(config, said.getvalue(), logged)


def test_troubles_of_the_signal_are_logged_once_each(finished):
    for sentence in (
        "The reward nothing is trained on and scored not one completion in step 1: nothing is learnt from it.",
        f"No group has variance in steps 1 to {LATEST}: completions of a prompt score alike, so nothing is learnt.",
    ):
        assert sum(message.startswith(sentence) for message in finished.logged) == 1, sentence


def test_nano_models_are_said_to_know_no_other_products_in_the_console_and_first_in_the_report(finished):
    sentence = "nano:qwen2_5_vl knows only the products of the nano catalogue"
    assert f"! {sentence}" in finished.said
    page = (Path(finished.config.run_dir) / "report.html").read_text("utf-8")
    first = page[page.index('id="troubles"') : page.index('id="result"')]
    assert sentence in first and "No group has variance" in first and "scored not one completion" in first


def test_tokens_of_the_recipe_and_of_the_command_are_in_no_file_of_the_run(finished):
    run = Path(finished.config.run_dir)
    assert (run / "config.yaml").read_text().count(" token: null\n") == 2
    assert json.loads((run / "manifest.json").read_text())["command"].endswith("'model.init_kwargs.token=***'")
    holding = [path.name for path in run.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holding == []
    assert policy_identity(load_config([str(run / "config.yaml")]), adapter=None) == policy_identity(
        finished.config, adapter=None
    )


def test_a_control_that_is_missing_is_evaluated_by_the_same_command(finished, capsys):
    evaluations = Path(finished.config.run_dir) / "evaluations"
    for name in ("control-other_title", "control-shuffled_image-final"):
        samples = evaluations / name / "cqbench" / "samples.parquet"
        before = samples.read_bytes()
        shutil.rmtree(evaluations / name)
        assert run_training(finished.config) == 0
        assert samples.read_bytes() == before
        capsys.readouterr()
        assert run_training(finished.config) == 0
        assert "all is done" in capsys.readouterr().out
