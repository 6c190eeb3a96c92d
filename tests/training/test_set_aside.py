"""A row that cannot be trained on costs its own group only, on one rank and on several."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.rewards import advantages
from grpo_mmpc.training.session import TrainingSession

ROOT = Path(__file__).parents[2]
REWARD = f"{Path(__file__).parent / 'counting_rewards.py'}:digest"
BOTH = pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])
MIX = {"mix": [{"name": REWARD, "weight": 1.0}]}


@pytest.fixture
def own_catalogue(small_catalogue, tmp_path) -> Path:
    return Path(shutil.copytree(small_catalogue, tmp_path / "catalogue"))


@pytest.fixture
def start(make_config, own_catalogue):
    """Starts a session of two prompts a step, both in every step; returns it with its items."""

    def start(architecture: str = "qwen2_5_vl", **changes):
        config = make_config(
            architecture, data={"catalogue": str(own_catalogue), "max_train_items": 2}, rewards=MIX, **changes
        )
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        session = TrainingSession(config, RunData(config))
        items = sorted({row["item_id"] for row in session.trainer.train_dataset})
        return config, session, items

    return start


def lines(config, name: str) -> list[dict]:
    return [json.loads(line) for line in (Path(config.run_dir) / name).read_text().splitlines()]


def row_of(catalogue: Path, item_id: str) -> int:
    rows = (catalogue / "items.jsonl").read_text().splitlines()
    return 1 + [json.loads(row)["item_id"] for row in rows].index(item_id)


def recorded_items(config) -> list[set[str]]:
    files = sorted((Path(config.run_dir) / "rollouts").glob("*.parquet"))
    return [set(pq.read_table(file)["item_id"].to_pylist()) for file in files]


@BOTH
@pytest.mark.parametrize("task", ["image_to_text", "text_to_image"])
def test_an_image_that_is_deleted_in_the_middle_costs_its_own_prompt_only(
    start, own_catalogue, architecture, task, caplog
):
    config, session, (gone, there) = start(architecture, tasks=[task], trainer={"max_steps": 3})
    score = session.trainer.generate_and_score

    def delete_after_the_first(inputs):
        if session.step == 1:
            (own_catalogue / "images" / f"{gone}.png").unlink()
        return score(inputs)

    session.trainer.generate_and_score = delete_after_the_first
    with caplog.at_level(logging.WARNING):
        assert session.train(before=None, after_save=None).step == 3
    assert recorded_items(config) == [{gone, there}, {there}, {there}]  # although rows are read a step ahead
    assert [line["set_aside_share"] for line in lines(config, "metrics.jsonl")] == [0.0, 0.5, 0.5]
    (listed,) = lines(config, "set_aside.jsonl")
    assert listed["prompt_id"] == f"{task}:{gone}"
    assert (listed["item_id"], listed["row"]) == (gone, row_of(own_catalogue, gone))
    assert f"{gone}.png" in listed["reason"] and "add the file" in listed["reason"]
    assert caplog.text.count(f"set aside, see {Path(config.run_dir) / 'set_aside.jsonl'}") == 1
    assert "All reward functions" not in caplog.text


@BOTH
@pytest.mark.parametrize(("aggregation", "scale"), [("sum_then_normalize", "batch"), ("normalize_then_sum", "group")])
def test_what_is_set_aside_moves_neither_the_gradient_nor_other_groups(start, architecture, aggregation, scale):
    _, session, (refused, _) = start(
        architecture, trainer={"scale_rewards": scale, "max_steps": 1, "beta": 0.1}, evaluation={"before": False}
    )
    trainer = session.trainer
    trainer.multi_objective_aggregation = aggregation
    rows = [row for row in trainer.train_dataset for _ in range(4)]
    trainer.model.train()
    for row in rows:
        if row["item_id"] == refused:
            row["set_aside"] = "the processor does not take it"
    output = trainer.generate_and_score(rows)
    live = [i for i, row in enumerate(rows) if row["set_aside"] is None]
    dead = [i for i in range(8) if i not in live]
    assert len(live) == len(dead) == 4
    values = trainer.last_batch(8).raw["digest"]
    assert [values[i] for i in dead] == [None] * 4
    expected = advantages(
        {"digest": [values[i] for i in live]},
        {"digest": 1.0},
        groups=["one"] * 4,
        aggregation=aggregation,
        scale_rewards=scale,
    )
    np.testing.assert_allclose(output["advantages"][live], expected, atol=1e-4)
    assert output["advantages"][dead].tolist() == [0.0] * 4
    assert output["completion_mask"][dead].sum() == 0
    assert output["num_items_in_batch"] == output["completion_mask"][live].sum()


def test_a_batch_of_which_nothing_is_left_trains_nothing_and_the_run_goes_on(start, own_catalogue):
    config, session, items = start(trainer={"max_steps": 2, "beta": 0.0})
    before = {name: p.detach().clone() for name, p in session.trainer.model.named_parameters() if p.requires_grad}
    for item in items:
        (own_catalogue / "images" / f"{item}.png").unlink()
    assert session.train(before=None, after_save=None).step == 2
    assert all((p == before[name]).all() for name, p in session.trainer.model.named_parameters() if name in before)
    assert recorded_items(config) == []
    assert {row["item_id"] for row in lines(config, "set_aside.jsonl")} == set(items)
    assert [line["set_aside_share"] for line in lines(config, "metrics.jsonl")] == [1.0, 1.0]


@BOTH
def test_a_prompt_that_is_too_long_for_the_model_is_set_aside(start, architecture):
    config, session, _ = start(architecture, tasks=["text_to_image"], trainer={"max_steps": 1})
    set_aside = session.trainer.set_aside
    assert set_aside.context == 1024
    lengths = {
        row["item_id"]: len(session.trainer.processing_class.apply_chat_template(row["prompt"], tokenize=True)[0])
        for row in session.trainer.train_dataset
    }
    longest = max(lengths, key=lengths.__getitem__)
    set_aside._taken.clear()
    set_aside.context = max(lengths.values()) + 39  # a completion has up to 40 tokens
    session.train(before=None, after_save=None)
    (listed,) = lines(config, "set_aside.jsonl")
    assert listed["item_id"] == longest
    assert "exceed the context" in listed["reason"]


def test_an_image_that_the_processor_refuses_is_set_aside_although_the_one_before_was_taken(start, own_catalogue):
    config, session, (replaced, there) = start(trainer={"max_steps": 1})
    Image.new("RGB", (70, 160)).save(own_catalogue / "images" / f"{replaced}.png")
    processor = session.trainer.processing_class
    render = processor.apply_chat_template

    def refuse_70_pixels(*arguments, **options):
        if "size=70x160" in f"{arguments} {options}":
            raise ValueError("70 is not a multiple of 28")
        return render(*arguments, **options)

    processor.apply_chat_template = refuse_70_pixels
    session.train(before=None, after_save=None)
    assert recorded_items(config) == [{there}]
    (listed,) = lines(config, "set_aside.jsonl")
    assert listed["item_id"] == replaced
    assert "70 is not a multiple of 28" in listed["reason"] and "replace or crop the image" in listed["reason"]


@pytest.mark.slow
def test_two_ranks_set_the_same_group_aside_and_do_the_same_steps(own_catalogue, tmp_path):
    """Three groups of four on two ranks: one that does not hear of a refusal trains on its half."""
    reward = tmp_path / "deleting.py"
    reward.write_text(
        "from pathlib import Path\n\n\n"
        "def delete():\n"
        "    def score(*, completions, image_paths, **_):\n"
        "        Path(sorted(image_paths)[0]).unlink(missing_ok=True)\n"
        "        return [float(len(text)) for text in completions]\n\n"
        "    return score\n"
    )
    run = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", "launch/accelerate/multi_cpu.yaml"),
        *("--main_process_port", "0", "-m", "grpo_mmpc", "train", "recipes/nano.yaml", f"run_dir={run}"),
        *(f"data.catalogue={own_catalogue}", "data.max_train_items=3", "tasks=[image_to_text]"),
        *(f"rewards.mix=[{{name: '{reward}:delete', weight: 1.0}}]", "rewards.dead_groups=keep"),
        *("trainer.per_device_train_batch_size=6", "trainer.num_generations=4", "trainer.max_steps=3"),
        *(
            "evaluation.before=false",
            "evaluation.checkpoints=false",
            "evaluation.max_items=4",
            "evaluation.controls=[]",
        ),
        "report.enabled=false",
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["hardware"]["world_size"], manifest["steps"]) == (2, 3)
    listed = [json.loads(line) for line in (run / "set_aside.jsonl").read_text().splitlines()]
    assert len({row["item_id"] for row in listed}) == len(listed) >= 2
