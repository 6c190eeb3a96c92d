"""Zero-variance groups: taken out of the loss, or sampled once more and replaced."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from grpo_mmpc.rewards import advantages
from grpo_mmpc.training.trl_seams import COMPLETION_TENSORS, TYPE_TENSORS, GatheredBatch, SeamedGRPOTrainer

Score = Callable[[list[dict[str, Any]]], tuple[dict[str, Any], GatheredBatch]]
"""Samples and scores rows of this rank: the batch as the loss takes it, and as TRL logged it."""


def drop_rows(output: dict[str, Any], rows: Sequence[int]) -> None:
    """Mask every token of some completions, in place; the caller renews the count of tokens."""
    output["completion_mask"] = output["completion_mask"].clone()
    output["completion_mask"][list(rows)] = 0


@dataclass
class ZeroVarianceResampler:
    """Replaces zero-variance groups whose second sample has non-zero variance."""

    trainer: SeamedGRPOTrainer
    score: Score
    zero_variance: Callable[[GatheredBatch], set[str]]
    """Names the prompts whose group has no variance."""

    def replace(
        self,
        inputs: Sequence[dict[str, Any]],
        output: Mapping[str, Any],
        batch: GatheredBatch,
        flat: set[str],
        weights: Mapping[str, float],
    ) -> dict[str, Any]:
        """Return the batch with replaced groups; ``batch`` is changed in place. A collective.

        Args:
            inputs: The rows of this rank.
            output: Their batch as the loss takes it.
            batch: The batch over all ranks.
            flat: Prompts of its zero-variance groups.
            weights: Of the rewards at this step.
        """
        trainer, size = self.trainer, self.trainer.num_generations
        ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        chosen = groups_to_sample_again(batch.prompt_ids, flat, num_ranks=ranks, group_size=size)
        with trainer.unlogged():  # the step's own means and prompts stay those of its first samples
            again, fresh = self.score([inputs[group * size + i] for group in chosen[rank] for i in range(size)])
        replaced = flat - self.zero_variance(fresh)
        own_rows: dict[int, int] = {}
        for at_rank, groups in enumerate(chosen):
            for position, group in enumerate(groups):
                for i in range(size):
                    old = at_rank * len(inputs) + group * size + i
                    new = (at_rank * len(groups) + position) * size + i
                    if batch.prompt_ids[old] in replaced:
                        batch.put(old, fresh, new)
                        if at_rank == rank:
                            own_rows[group * size + i] = position * size + i
        trainer.note("resampled_share", len(replaced) / len(flat))
        merged = replace_rows(output, again, own_rows, pad=trainer.processing_class.tokenizer.pad_token_id)
        self._renew_advantages(merged, batch, weights, own=slice(rank * len(inputs), (rank + 1) * len(inputs)))
        trainer.count_tokens(merged)
        trainer.show_batch(batch)
        return merged

    def _renew_advantages(
        self, output: dict[str, Any], batch: GatheredBatch, weights: Mapping[str, float], *, own: slice
    ) -> None:
        """Compute all advantages again: a normalised batch depends on its new groups everywhere."""
        batch.logs["advantages"] = advantages(
            batch.for_trainer,
            weights,
            groups=batch.prompt_ids,
            aggregation=self.trainer.multi_objective_aggregation,
            scale_rewards=self.trainer.scale_rewards,
        )
        before: torch.Tensor = output["advantages"]
        output["advantages"] = torch.tensor(batch.logs["advantages"][own], dtype=before.dtype, device=before.device)


def groups_to_sample_again(
    prompt_ids: Sequence[str], flat: set[str], *, num_ranks: int, group_size: int
) -> list[list[int]]:
    """Choose the groups of each rank that are sampled again, as positions among its own groups.

    Ranks compute in step, so all of them sample as many groups as the one with the most
    zero-variance groups; ranks with fewer add others, whose new completions are thrown away.

    Args:
        prompt_ids: Prompt of each completion over all ranks; each rank holds equally many whole
            groups.
        flat: Prompts of zero-variance groups.
        num_ranks: Number of ranks.
        group_size: Completions per group.
    """
    leaders = list(prompt_ids[::group_size])
    share = len(leaders) // num_ranks
    of_rank = [leaders[rank * share : (rank + 1) * share] for rank in range(num_ranks)]
    most = max(sum(prompt in flat for prompt in prompts) for prompts in of_rank)
    chosen = []
    for prompts in of_rank:
        first = [i for i, prompt in enumerate(prompts) if prompt in flat]
        rest = [i for i, prompt in enumerate(prompts) if prompt not in flat]
        chosen.append((first + rest)[:most])
    return chosen


def replace_rows(
    output: Mapping[str, Any], fresh: Mapping[str, Any], rows: Mapping[int, int], *, pad: int
) -> dict[str, Any]:
    """Replace some completions of a batch by those of another batch for the same prompts.

    Args:
        output: TRL's batch of one rank: ``completion_ids`` and all that goes with them, ``[B, L]``.
        fresh: Another one, ``[b, l]``.
        rows: Row of ``output`` -> row of ``fresh`` that takes its place. Prompts and images stay.
        pad: Token id of padding.
    """
    merged = dict(output)
    width = max(output["completion_ids"].shape[1], fresh["completion_ids"].shape[1])
    for name, padding in [("completion_ids", pad), *((name, 0) for name in COMPLETION_TENSORS)]:
        if name in output:
            # Ratios of sequence-level importance sampling have one column, whatever the length.
            target_width = 1 if output[name].shape[1] == fresh[name].shape[1] == 1 else width
            merged[name] = _widened(output[name], target_width, padding)
            source = _widened(fresh[name], target_width, padding)
            for row, other in rows.items():
                merged[name][row] = source[other]
    grown = width - output["completion_ids"].shape[1]
    for name in TYPE_TENSORS:
        if name in output:
            merged[name] = _widened(output[name], output[name].shape[1] + grown, 0)
    return merged


def _widened(values: torch.Tensor, width: int, padding: int) -> torch.Tensor:
    """Return a copy ``[B, width]``, padded on the right."""
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=padding).clone()
