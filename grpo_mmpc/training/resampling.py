"""What happens to groups that teach nothing: taken out of the loss, or drawn again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_BY_COMPLETION_TOKEN = (
    "completion_mask",
    "old_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
    "ref_per_token_logps",
)
_TYPES = ("token_type_ids", "mm_token_type_ids")


def drop_rows(output: dict[str, Any], rows: Sequence[int]) -> None:
    """Mask every token of some completions, in place; the caller renews ``num_items_in_batch``."""
    output["completion_mask"] = output["completion_mask"].clone()
    output["completion_mask"][list(rows)] = 0


def groups_to_draw_again(
    prompt_ids: Sequence[str], dead: set[str], *, num_ranks: int, group_size: int
) -> list[list[int]]:
    """Per rank, which of its groups are drawn again, as positions among its own groups.

    Ranks compute in step, so all of them draw as many groups as the one with the most dead ones;
    ranks with fewer add live groups, whose new completions are thrown away.

    Args:
        prompt_ids: Prompt of each completion over all ranks; each rank holds equally many whole
            groups.
        dead: Prompts whose group is dead.
        num_ranks: Number of ranks.
        group_size: Completions per group.
    """
    leaders = list(prompt_ids[::group_size])
    share = len(leaders) // num_ranks
    of_rank = [leaders[rank * share : (rank + 1) * share] for rank in range(num_ranks)]
    most = max(sum(prompt in dead for prompt in prompts) for prompts in of_rank)
    chosen = []
    for prompts in of_rank:
        first = [i for i, prompt in enumerate(prompts) if prompt in dead]
        rest = [i for i, prompt in enumerate(prompts) if prompt not in dead]
        chosen.append((first + rest)[:most])
    return chosen


def replace_rows(
    output: Mapping[str, Any], fresh: Mapping[str, Any], rows: Mapping[int, int], *, pad: int
) -> dict[str, Any]:
    """A batch in which some completions are replaced by those of another batch for the same prompts.

    Args:
        output: TRL's batch of one rank: ``completion_ids`` and all that goes with them, ``[B, T]``.
        fresh: Another one, ``[b, t]``.
        rows: Row of ``output`` -> row of ``fresh`` that takes its place. Prompts and images stay.
        pad: Token id of padding.
    """
    merged = dict(output)
    width = max(output["completion_ids"].shape[1], fresh["completion_ids"].shape[1])
    for name, padding in [("completion_ids", pad), *((name, 0) for name in _BY_COMPLETION_TOKEN)]:
        if name in output:
            # Ratios of sequence-level importance sampling have one column, whatever the length.
            target_width = 1 if output[name].shape[1] == fresh[name].shape[1] == 1 else width
            merged[name] = _widened(output[name], target_width, padding)
            source = _widened(fresh[name], target_width, padding)
            for row, other in rows.items():
                merged[name][row] = source[other]
    grown = width - output["completion_ids"].shape[1]
    for name in _TYPES:
        if name in output:  # 0 for everything but the prompt's image tokens
            merged[name] = _widened(output[name], output[name].shape[1] + grown, 0)
    return merged


def _widened(values: torch.Tensor, width: int, padding: int) -> torch.Tensor:
    """A copy ``[B, width]``, padded on the right."""
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=padding).clone()
