"""The order of prompts: in groups as TRL's, one task a generation batch, kept by a resumption."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from torch.utils.data import Sampler


@dataclass(eq=False)
class TaskBatchSampler(Sampler[int]):
    """Yields each prompt ``num_generations`` times, each generation batch ``repeat_count`` times.

    Two things differ from TRL's ``RepeatSampler``. A generation batch holds prompts of one task
    only, because processors cannot take a batch in which some prompts have an image and some have
    none. And the permutation is a function of (seed, epoch) instead of a generator's state, so that
    a run resumed in a later epoch sees the prompts an uninterrupted run would have seen.

    Prompts that do not fill a generation batch of their task are left out of the epoch; another
    epoch's permutation leaves out others.
    """

    tasks: Sequence[str]
    """Task of each row of the data set."""
    num_generations: int = field(kw_only=True)
    """G, completions per prompt."""
    prompts_per_batch: int = field(kw_only=True)
    """Prompts of one generation batch over all ranks."""
    repeat_count: int = field(kw_only=True)
    """The number of times that a generation batch is yielded in a row."""
    shuffle: bool = field(kw_only=True)
    """Permute prompts and batches; otherwise keep the data set's order within each task."""
    seed: int = field(kw_only=True)
    """Seed of the permutations."""
    epoch: int = field(default=0, init=False)
    _known: tuple[int, list[list[int]]] = field(default=(-1, []), init=False)
    """An epoch and its batches."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's permutation; called by the trainer."""
        self.epoch = epoch

    def _batches(self) -> list[list[int]]:
        rng = random.Random(f"{self.seed}-{self.epoch}")
        by_task: dict[str, list[int]] = defaultdict(list)
        for index, task in enumerate(self.tasks):
            by_task[task].append(index)
        batches = []
        for indices in by_task.values():
            if self.shuffle:
                rng.shuffle(indices)
            full = len(indices) - len(indices) % self.prompts_per_batch
            batches += [indices[i : i + self.prompts_per_batch] for i in range(0, full, self.prompts_per_batch)]
        if self.shuffle:
            rng.shuffle(batches)
        return batches

    def batch(self, number: int) -> list[int]:
        """Return the rows of a generation batch by its number since the first epoch's start."""
        epoch, position = divmod(number, self._batches_per_epoch)
        if self._known[0] != epoch:
            self.set_epoch(epoch)
            self._known = epoch, self._batches()
        return [index for index in self._known[1][position] for _ in range(self.num_generations)]

    def __iter__(self) -> Iterator[int]:
        for batch in self._batches():
            for _ in range(self.repeat_count):
                for index in batch:
                    yield from repeat(index, self.num_generations)

    @property
    def _batches_per_epoch(self) -> int:
        return sum(count // self.prompts_per_batch for count in Counter(self.tasks).values())

    def __len__(self) -> int:
        return self._batches_per_epoch * self.prompts_per_batch * self.num_generations * self.repeat_count
