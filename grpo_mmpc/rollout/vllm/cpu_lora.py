"""LoRA on a CPU by matrix products; imported by vLLM, by name."""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class OneAdapterPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """Applies an adapter by matrix products where a batch has only one, else as vLLM does."""

    _only_slot: int | None = None
    """Slot of the one adapter; None where tokens have several adapters, or some have none."""

    def update_metadata(self, mapping: Any, lora_index_to_id: list[int | None], *args: Any, **kwargs: Any) -> None:
        """Take the adapters of the next batch.

        ``mapping.index_mapping`` holds an adapter's id for every token, 0 = none.
        """
        super().update_metadata(mapping, lora_index_to_id, *args, **kwargs)
        ids = set(mapping.index_mapping)
        self._only_slot = lora_index_to_id.index(ids.pop()) if len(ids) == 1 and 0 not in ids else None

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """``y[:, slice i] += scale * (x @ A_i^T) @ B_i^T``, in place.

        Args:
            y: Output of the base layer, ``[..., out]``.
            x: Its input, ``[..., in]``.
            lora_a_stacked: Per slice ``[slots, 1, r, in]``.
            lora_b_stacked: Per slice ``[slots, 1, out_i, r]``.
            scale: Factor.
            output_slices: ``out_i`` of each slice.
            **kwargs: Passed on to vLLM's own arithmetic where that is used.
        """
        if self._only_slot is None:
            super().add_lora_linear(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **kwargs)
            return
        rows, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]).float()
        offset = 0
        for stacked_a, stacked_b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            a, b = stacked_a[self._only_slot, 0], stacked_b[self._only_slot, 0]  # [r, in], [out_i, r]
            shrunk = (inputs @ a.float().T).mul_(scale)  # [tokens, r], in fp32 as vLLM does
            rows[:, offset : offset + size].addmm_(shrunk.to(rows.dtype), b.to(rows.dtype).T)
            offset += size
