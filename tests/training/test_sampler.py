import pytest

from grpo_mmpc.training.sampler import TaskBatchSampler

TASKS = ["image_to_text"] * 5 + ["text_to_image"] * 4


def sampler(tasks=TASKS, **options) -> TaskBatchSampler:
    defaults = {"num_generations": 2, "prompts_per_batch": 2, "repeat_count": 1, "shuffle": True, "seed": 0}
    return TaskBatchSampler(tasks, **(defaults | options))


def batches(order: list[int], size: int) -> list[list[int]]:
    return [order[i : i + size] for i in range(0, len(order), size)]


def test_without_shuffling_the_order_is_groups_in_data_set_order_task_by_task():
    # 5 prompts of the first task make two batches of 2 (the fifth is left out), 4 of the second
    # make two.
    assert list(sampler(shuffle=False)) == [0, 0, 1, 1, 2, 2, 3, 3, 5, 5, 6, 6, 7, 7, 8, 8]


def test_a_generation_batch_is_repeated_as_a_whole():
    assert list(sampler(shuffle=False, repeat_count=2))[:8] == [0, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_generation_batch_holds_one_task_and_whole_groups(seed):
    for batch in batches(list(sampler(seed=seed)), 4):
        assert len({TASKS[i] for i in batch}) == 1
        assert batch[0] == batch[1] and batch[2] == batch[3] and batch[0] != batch[2]


def test_length_is_what_iteration_yields():
    for options in ({}, {"repeat_count": 3}, {"num_generations": 4}, {"prompts_per_batch": 3}):
        assert len(sampler(**options)) == len(list(sampler(**options)))


def test_seeds_and_epochs_change_the_order_and_the_same_pair_repeats_it():
    def order(seed: int, epoch: int) -> list[int]:
        s = sampler(["image_to_text"] * 40, seed=seed)
        s.set_epoch(epoch)
        return list(s)

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_every_prompt_comes_up_over_the_epochs_although_each_epoch_leaves_a_rest():
    s = sampler(["image_to_text"] * 5)
    seen = set()
    for epoch in range(12):
        s.set_epoch(epoch)
        seen |= set(s)
    assert seen == {0, 1, 2, 3, 4}
