"""DINOv2 cosines of images; every distinct image is encoded once while it is cached."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from grpo_mmpc.metrics.image import ImageSource, letterbox
from grpo_mmpc.scoring.images import ImageEncodings, unit_rows
from grpo_mmpc.scoring.loading import frozen, load, pick_device

if TYPE_CHECKING:
    import torch
    from PIL import Image

_CACHE_BYTES = 128 * 2**20  # about 40,000 embeddings of 768 numbers


def dinov2_encoder(*, model: str = "facebook/dinov2-base", device: str | None = None) -> "DinoEncoder":
    """The process's one encoder of this configuration; loaded when first asked for.

    Args:
        model: Hub name or local folder of a ``Dinov2Model`` with its image processor.
        device: None takes the GPU of this process if there is one.

    Raises:
        ScoringError: The model cannot be loaded.
    """
    return _shared(model, pick_device(device))


@cache
def _shared(model: str, device: str) -> "DinoEncoder":
    return DinoEncoder(model=model, device=device)


class DinoEncoder:
    """A DINOv2 model with its embeddings, the class tokens. Use ``dinov2_encoder`` to share one per process.

    Trained on images alone, it tells apart what CLIP's captions call the same: shape, material, arrangement. Images are
    letterboxed to the size that the processor would crop to, because its centre crop cuts the ends off long products.

    References:
        Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision".
    """

    def __init__(self, *, model: str, device: str = "cpu") -> None:
        self.model_name = model
        self.device = device
        self._model, self._processor = load("DINOv2", model, lambda: _load(model))
        self._model = frozen(self._model, device=device)
        self._size_px: int = self._processor.crop_size["height"]
        self._images = ImageEncodings(what="DINOv2", device=device, encode=self._encode, max_bytes=_CACHE_BYTES)

    def image_image(self, *, image_paths: Sequence[ImageSource], other_paths: Sequence[ImageSource]) -> list[float]:
        """Cosines of N pairs of images.

        Returns:
            N cosines in [-1, 1]; NaN where one of the two cannot be read (one log line for each).

        Raises:
            ValueError: The numbers of images differ.
        """
        return self._images.cosines(image_paths, other_paths)

    def _encode(self, images: "list[Image.Image]") -> "torch.Tensor":
        squares = [letterbox(image, size_px=self._size_px) for image in images]
        pixels = self._processor(images=squares, do_resize=False, do_center_crop=False, return_tensors="pt")
        states = self._model(pixel_values=pixels["pixel_values"].to(self.device)).last_hidden_state  # [N, 1 + P, D]
        return unit_rows(states[:, 0])


def _load(model: str) -> tuple[Any, Any]:
    from transformers import BitImageProcessorPil, Dinov2Model  # heavy: imported on use

    # The Pillow processor, because scores must not depend on whether torchvision happens to be installed.
    return Dinov2Model.from_pretrained(model), BitImageProcessorPil.from_pretrained(model)
