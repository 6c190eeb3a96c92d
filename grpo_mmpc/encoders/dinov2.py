"""DINOv2 cosines of images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.images import ImageEncodings, unit_rows
from grpo_mmpc.encoders.loading import frozen, load, pick_device, pick_dtype, pretrained, shared
from grpo_mmpc.encoders.store import EncodingStore, encoding_store, stored_encodings
from grpo_mmpc.metrics.image import ImageSource, letterbox

if TYPE_CHECKING:
    import torch
    from PIL import Image


def dinov2_encoder(
    *, model: str = "facebook/dinov2-base", device: str | None = None, dtype: str = "float32"
) -> "DinoEncoder":
    """Return the process's one DINOv2 encoder of this configuration; see ``grpo_mmpc.encoders``."""
    return shared(DinoEncoder, model=model, device=pick_device(device), dtype=pick_dtype(dtype), store=encoding_store())


class DinoEncoder:
    """A DINOv2 model and cached class tokens. Use ``dinov2_encoder`` to share one per process.

    Trained on images alone, it tells apart what CLIP's captions call the same: shape, material,
    arrangement. Images are letterboxed to the size that the processor would crop to, because its
    centre crop cuts the ends off long products.

    References:
        Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision".
    """

    def __init__(
        self, *, model: str, device: str = "cpu", dtype: str = "float32", store: EncodingStore | None = None
    ) -> None:
        self.device = device
        self._model, self._processor = load("DINOv2", model, lambda: _load(model))
        options = {"what": "DINOv2", "dtype": dtype, "processor": self._processor.to_dict()}
        stored = stored_encodings(store, self._model, **options)
        self._model = frozen(self._model, device=device, dtype=dtype)
        self._size_px: int = self._processor.crop_size["height"]
        self._images = ImageEncodings(what="DINOv2", device=device, encode=self._encode, stored=stored)

    def image_image(self, *, image_paths: Sequence[ImageSource], other_paths: Sequence[ImageSource]) -> list[float]:
        """Return N cosines in [-1, 1] of pairs of images; NaN where one cannot be read."""
        return self._images.cosines(image_paths, other_paths)

    def _encode(self, images: "list[Image.Image]") -> "torch.Tensor":
        squares = [letterbox(image, size_px=self._size_px) for image in images]
        pixels = self._processor(images=squares, do_resize=False, do_center_crop=False, return_tensors="pt")
        inputs = pixels["pixel_values"].to(self.device, self._model.dtype)
        states = self._model(pixel_values=inputs).last_hidden_state  # [N, 1 + P, D]
        return unit_rows(states[:, 0])


def _load(model: str) -> tuple[Any, Any]:
    from transformers import BitImageProcessorPil, Dinov2Model  # heavy: imported on use

    # The Pillow processor: scores must not depend on whether torchvision is installed.
    return pretrained(Dinov2Model, model), BitImageProcessorPil.from_pretrained(model)
