"""The order of prompts: in groups as TRL's, one task a generation batch, kept by a resumption."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class TaskBatchSampler(Sampler[int]):
    """Yields each prompt ``num_generations`` times, each generation batch ``repeat_count`` times.

    Two things differ from TRL's ``RepeatSampler``. A generation batch holds prompts of one task
    only, because processors cannot take a batch in which some prompts have an image and some have
    none. And the permutation is a function of (seed, epoch) instead of a generator's state, so that
    a run resumed in a later epoch sees the prompts an uninterrupted run would have seen.

    Prompts that do not fill a generation batch of their task are left out of the epoch; another
    epoch's permutation leaves out others.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        num_generations: int,
        prompts_per_batch: int,
        repeat_count: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        """Describe the order.

        Args:
            tasks: Task of each row of the data set.
            num_generations: G, completions per prompt.
            prompts_per_batch: Prompts of one generation batch over all ranks.
            repeat_count: How often a generation batch is yielded in a row.
            shuffle: Permute prompts and batches; otherwise keep the data set's order within each
                task.
            seed: Seed of the permutations.
        """
        self._tasks = tasks
        self._num_generations = num_generations
        self._prompts_per_batch = prompts_per_batch
        self._repeat_count = repeat_count
        self._shuffle = shuffle
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's permutation; called by the trainer."""
        self._epoch = epoch

    def _batches(self) -> list[list[int]]:
        rng = random.Random(f"{self._seed}-{self._epoch}")
        by_task: dict[str, list[int]] = defaultdict(list)
        for index, task in enumerate(self._tasks):
            by_task[task].append(index)
        batches = []
        for indices in by_task.values():
            if self._shuffle:
                rng.shuffle(indices)
            full = len(indices) - len(indices) % self._prompts_per_batch
            batches += [indices[i : i + self._prompts_per_batch] for i in range(0, full, self._prompts_per_batch)]
        if self._shuffle:
            rng.shuffle(batches)
        return batches

    def __iter__(self) -> Iterator[int]:
        for batch in self._batches():
            for _ in range(self._repeat_count):
                for index in batch:
                    for _ in range(self._num_generations):
                        yield index

    def __len__(self) -> int:
        counts: dict[str, int] = defaultdict(int)
        for task in self._tasks:
            counts[task] += 1
        batches = sum(count // self._prompts_per_batch for count in counts.values())
        return batches * self._prompts_per_batch * self._num_generations * self._repeat_count
