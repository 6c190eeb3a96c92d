"""Parts of training policies and the CLIP: images, labels, batches, learning rates, progress."""

import math
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.nano.vocabulary import KINDS, VALUES
from grpo_mmpc.utils.console import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch

    from grpo_mmpc.nano.items import NanoItem

ABSENT = -100
"""Class of an attribute that an item does not have: ignored by the loss."""

KIND_WEIGHTS = {kind: 2.0 if kind == "pattern" else 1.0 for kind in KINDS}
"""Weight of each kind in the attribute loss; the pattern, the finest detail, is learnt last."""


def draw_images(items: Sequence["NanoItem"]) -> "np.ndarray[Any, Any]":
    """Draw every image once, ``uint8 [N, 84, 84, 3]``."""
    import numpy as np  # heavy: imported on use

    from grpo_mmpc.nano.drawing import GRID_PX, draw

    images = np.empty((len(items), GRID_PX, GRID_PX, 3), dtype=np.uint8)
    progress = Progress()
    for row, item in enumerate(items):
        images[row] = np.asarray(draw(item.attributes, jitter=item.jitter))
        progress("drawing images", row + 1, len(items))
    return images


def process_images(processor: Any, images: "np.ndarray[Any, Any]") -> "torch.Tensor":
    """Run a processor on B images, ``uint8 [B, 84, 84, 3]``.

    Returns:
        ``[B, 36, 1176]`` (Qwen2.5-VL's patches) or ``[B, 3, 84, 84]`` (Gemma-3, CLIP).
    """
    values: torch.Tensor = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
    return values.view(len(images), -1, values.shape[-1]) if values.dim() == 2 else values


def attribute_labels(items: Sequence["NanoItem"]) -> "torch.Tensor":
    """Return the class index of every attribute, ``[N, kinds]``; ``ABSENT`` where unknown."""
    import torch  # heavy: imported on use

    rows = [
        [VALUES[kind].index(item.attributes[kind]) if kind in item.attributes else ABSENT for kind in KINDS]
        for item in items
    ]
    return torch.tensor(rows)


def batches(num_items: int, size: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield lists of ``size`` rows forever: each row at most once an epoch, in a new order."""
    while True:
        order = list(range(num_items))
        rng.shuffle(order)
        for start in range(0, num_items - size + 1, size):
            yield order[start : start + size]


def cosine(step: int, steps: int, peak: float, final: float, *, warmup: int) -> float:
    """Return a step's learning rate: linear warm-up to ``peak``, half a cosine to ``final``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * done))


class Descent:
    """AdamW with clipped gradients and a learning rate for each step; shows its progress."""

    def __init__(self, parameters: "Sequence[torch.nn.Parameter]", *, steps: int) -> None:
        import torch  # heavy: imported on use

        self._parameters = parameters
        self._optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self._progress = Progress()
        self._steps, self._done = steps, 0

    def step(self, loss: "torch.Tensor", *, lr: float, detail: str) -> None:
        """Take one step down a loss; ``detail`` describes it beside the progress."""
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._done += 1
        self._progress("training", self._done, self._steps, detail=detail)
