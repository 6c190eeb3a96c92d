"""A look at what a training will meet: its heaviest prompts first, for one step of each task."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.cli import main
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.pipelines import worst_step
from grpo_mmpc.pipelines.worst_step import take_worst_step, weigh
from grpo_mmpc.utils import distributed
from grpo_mmpc.utils.distributed import Ranks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def own_catalogue(small_catalogue: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_catalogue, tmp_path / "catalogue"))


def test_the_item_with_the_largest_image_or_the_longest_text_comes_first(make_config, own_catalogue):
    room = {"processor_kwargs": {"min_pixels": 784, "max_pixels": 401_408}}
    config = make_config(model={"name_or_path": "nano:qwen2_5_vl", **room}, data={"catalogue": str(own_catalogue)})
    data = RunData(config)
    item = data.train[7]
    Image.new("RGB", (560, 448), "red").save(own_catalogue / data.catalogue.column("image", [item])[0])
    by_image = weigh(config, RunData(config))
    assert next(iter(by_image)) == item
    # 20 x 16 image tokens instead of 3 x 3
    assert by_image[item] - 320 == list(by_image.values())[1] - 9
    by_text = weigh(config.model_copy(update={"tasks": ["text_to_image"]}), data)
    titles = dict(zip(data.train, data.catalogue.column("title", data.train), strict=True))
    assert len(titles[next(iter(by_text))]) >= sorted(map(len, titles.values()))[-8]
    assert list(by_text.values()) == sorted(by_text.values(), reverse=True)


def test_one_step_of_each_task_is_taken_with_the_longest_completions_and_nothing_is_left(make_config):
    said: list[str] = []
    config = make_config(tasks=["image_to_text", "text_to_image"])
    take_worst_step(config, say=said.append)
    first, last = said
    assert "2 prompts of up to" in first  # 8 completions in groups of 4
    assert " s, completions of up to 40 tokens, " in last and "GiB a process at most" in last
    assert not Path(config.run_dir).exists()


def test_what_a_training_would_end_with_is_a_problem_of_the_recipe(monkeypatch, capsys):
    def fail(*_, **__):
        raise TrainingError("step 1: out of memory; lower trainer.per_device_train_batch_size (now 64)")

    monkeypatch.setattr(worst_step, "take_worst_step", fail)
    assert main(["doctor", str(ROOT / "recipes/nano.yaml"), "--worst-step"]) == 1
    assert "x worst step  step 1: out of memory" in capsys.readouterr().out
    assert main(["doctor", "--worst-step"]) == 2


def test_what_another_machine_lacks_is_named_and_no_step_is_taken(monkeypatch, capsys):
    """Its rank would take none, and the others would wait for it."""
    monkeypatch.setattr(worst_step, "take_worst_step", lambda *_, **__: pytest.fail("a step was taken"))
    monkeypatch.setattr(
        worst_step,
        "launched_ranks",
        lambda: Ranks(count=3, gather=lambda mine: [*mine, *2 * [("node-2", "run folder runs/nano: not writable")]]),
    )
    monkeypatch.setattr(distributed, "num_processes", lambda: 3)
    assert main(["doctor", str(ROOT / "recipes/nano.yaml"), "--worst-step"]) == 1
    said = capsys.readouterr().out
    assert "x other ranks node-2: run folder runs/nano: not writable" in said and "1 problem;" in said
