"""The training data set costs little, however many items it has."""

from types import SimpleNamespace
from typing import Any

from datasets.utils._dill import dumps

from grpo_mmpc.catalogue import load_catalogue
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.training.dataset import training_dataset
from grpo_mmpc.training.trainer import RecordingGRPOTrainer


def data_set(folder, *, items):
    config: Any = SimpleNamespace(
        tasks=list(TASKS), known_tasks=TASKS, data=SimpleNamespace(salt="", max_train_items=None)
    )
    return training_dataset(config, SimpleNamespace(catalogue=load_catalogue(folder, check_images=False), train=items))


def test_every_item_has_a_row_of_each_task(small_catalogue):
    rows = data_set(small_catalogue, items=[3, 1, 2])[:]
    assert sorted(rows["prompt_id"]) == sorted(
        f"{task}:{i}" for i, task in zip(rows["item_id"], rows["task"], strict=True)
    )
    assert rows["task"] == ["image_to_text", "text_to_image"] * 3
    assert rows["item_id"][::2] == rows["item_id"][1::2] and len(set(rows["item_id"])) == 3


def test_what_datasets_hashes_does_not_grow_with_the_items(small_catalogue):
    few, many = (dumps(data_set(small_catalogue, items=[1] * count).format["format_kwargs"]) for count in (10, 10_000))
    assert len(few) == len(many)


def test_the_sampler_reads_the_tasks_at_once(small_catalogue):
    # A column that is not copied would read every row for itself, whenever one asks for its length.
    trainer: Any = SimpleNamespace(num_generations=2, num_iterations=1, shuffle_dataset=False)
    trainer.args = SimpleNamespace(generation_batch_size=4, steps_per_generation=1, seed=0)
    sampler = RecordingGRPOTrainer.train_sampler(trainer, data_set(small_catalogue, items=[1, 2]))
    assert type(sampler.tasks) is list
