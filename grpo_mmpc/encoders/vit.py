"""Class tokens of vision transformers of the timm library, as features of recommenders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from grpo_mmpc.encoders.images import ImageEncodings, middle
from grpo_mmpc.encoders.loading import frozen, load, pick_device, pick_dtype, shared
from grpo_mmpc.encoders.store import EncodingStore, encoding_store, stored_encodings
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.metrics.image import ImageSource

if TYPE_CHECKING:
    import torch
    from PIL import Image

Preprocessing = Literal["checkpoint", "squashed"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def vit_encoder(
    *, model: str, preprocessing: Preprocessing = "checkpoint", device: str | None = None, dtype: str = "float32"
) -> "VitEncoder":
    """Return the process's one ViT of this configuration; see ``grpo_mmpc.encoders``.

    ``model`` is a hub name such as ``timm/vit_base_patch16_224.augreg2_in21k_ft_in1k``, the same
    without ``timm/``, or a local folder that holds timm's ``config.json`` and the weights.

    ``preprocessing="checkpoint"`` prepares images as the checkpoint was trained (for the one above:
    shorter side to 248 bicubically, centre crop of 224, mean and standard deviation 0.5).
    ``squashed`` stretches them to the input size bilinearly and takes ImageNet's mean and deviation
    whatever the checkpoint expects, as MMPCBench does: a flaw, for comparison with it only.

    Raises:
        ScoringError: Also if timm is not installed.
    """
    return shared(
        VitEncoder,
        model=model,
        preprocessing=preprocessing,
        device=pick_device(device),
        dtype=pick_dtype(dtype),
        store=encoding_store(),
    )


class VitEncoder:
    """A timm model without its classifier. Use ``vit_encoder`` to share one per process.

    References:
        Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words: Transformers for Image Recognition
        at Scale".
    """

    def __init__(
        self,
        *,
        model: str,
        preprocessing: Preprocessing = "checkpoint",
        device: str = "cpu",
        dtype: str = "float32",
        store: EncodingStore | None = None,
    ) -> None:
        self.device = device
        loaded = load("ViT", model, lambda: _load(model))
        self.num_features: int = loaded.model.head_hidden_size
        """Length of a vector; 768 for ViT-B."""
        self._prepare = loaded.prepare if preprocessing == "checkpoint" else _squash(loaded.expected["input_size"][1:])
        options = {"what": "ViT", "dtype": dtype, "preprocessing": preprocessing, "expected": loaded.expected}
        stored = stored_encodings(store, loaded.model, **options, timm=loaded.timm_version)
        self._model = frozen(loaded.model, device=device, dtype=dtype)
        self._dtype = next(self._model.parameters()).dtype
        self._images = ImageEncodings(what="ViT", device=device, encode=self._encode, stored=stored)

    def embed_images(self, image_paths: Sequence[ImageSource]) -> "torch.Tensor":
        """Return vectors [N, D] of N images, fp32 on the CPU; NaN where one cannot be read.

        They are the inputs of timm's classifier: the class token after the last normalisation for
        models that pool by ``token``.
        """
        return self._images.matrix(image_paths, width=self.num_features)

    def _encode(self, images: "list[Image.Image]") -> "torch.Tensor":
        import torch  # heavy: imported on use

        pixels = torch.stack([self._prepare(middle(image)) for image in images]).to(
            self.device, self._dtype
        )  # [N, 3, H, W]
        vectors: torch.Tensor = self._model.forward_head(self._model.forward_features(pixels), pre_logits=True)
        return vectors.float().cpu()  # [N, D]


class _Loaded(NamedTuple):
    model: Any
    prepare: "Callable[[Image.Image], torch.Tensor]"
    """The checkpoint's own preprocessing, [3, H, W] of an RGB image."""
    expected: dict[str, Any]
    """Settings of that preprocessing; ``input_size`` is channels, height and width."""
    timm_version: str


def _load(model: str) -> _Loaded:
    try:
        import timm  # heavy, and optional: imported on use
        from timm.data import create_transform, resolve_model_data_config
    except ImportError as error:
        raise ScoringError(
            f"ViT: {model!r} needs the package timm ({error}); run: pip install 'grpo-mmpc[timm]', or take the "
            "embedded encoder nano:clip"
        ) from error
    is_folder, is_hub_name = Path(model).is_dir(), "/" in model
    name = f"local-dir:{model}" if is_folder else f"hf-hub:{model}" if is_hub_name else model
    try:
        # With its classifier, though nothing asks it: without one timm loads leniently, and weights
        # that the file lacks would stay random.
        network = timm.create_model(name, pretrained=True)
    except (RuntimeError, AttributeError, TypeError) as error:  # no weights, unfit ones, or no configuration of timm's
        raise ValueError(f"it is no timm checkpoint: {error}") from error
    expected: dict[str, Any] = resolve_model_data_config(network)
    return _Loaded(
        model=network,
        prepare=create_transform(**expected, is_training=False),
        expected=expected,
        timm_version=timm.__version__,
    )


def _squash(size: tuple[int, int]) -> "Callable[[Image.Image], torch.Tensor]":
    """Return MMPCBench's preprocessing: stretched to size, ImageNet's mean and deviation."""

    def prepare(image: "Image.Image") -> "torch.Tensor":
        import numpy as np
        import torch  # heavy: imported on use
        from PIL import Image

        height, width = size
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255
        values = (pixels - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)  # [H, W, 3]
        return torch.from_numpy(values).permute(2, 0, 1)

    return prepare
