"""Features of torch-fidelity's InceptionV3, the network of FID and KID."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.images import ImageEncodings
from grpo_mmpc.encoders.loading import frozen, pick_device, shared
from grpo_mmpc.encoders.store import EncodingStore, encoding_store, stored_encodings
from grpo_mmpc.encoders.weights import find_weights, read_weights
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.metrics.image import ImageSource, letterbox
from grpo_mmpc.utils.cpu_compat import ensure_importable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

NUM_FEATURES = 2048
SIZE_PX = 299
"""Side of the network's input."""
_CACHE_BYTES = 256 * 2**20  # about 32,000 images: the real and the rendered ones of nine categories of 1000


def inception_encoder(*, weights: str | None = None, device: str | None = None) -> "InceptionEncoder":
    """Return the process's one encoder of this configuration; see ``grpo_mmpc.encoders``.

    ``weights`` is torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth`` or a folder that
    holds it; None looks into torch's cache and downloads it unless HF_HUB_OFFLINE is set.
    """
    return shared(InceptionEncoder, weights=weights, device=pick_device(device), store=encoding_store())


class InceptionEncoder:
    """The InceptionV3 of the original FID. Use ``inception_encoder`` to share one per process.

    Images are letterboxed to the network's input size with antialiasing. FID as usually published
    stretches them without: compare values computed with the same geometry only.

    References:
        Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule"; Parmar et al. 2022, "On
        Aliased Resizing and Surprising Subtleties in GAN Evaluation".
    """

    def __init__(self, *, weights: str | None = None, device: str = "cpu", store: EncodingStore | None = None) -> None:
        self.device = device
        self._network = frozen(_load(weights), device=device)
        self._images = ImageEncodings(
            what="Inception",
            device=device,
            encode=self._encode,
            max_bytes=_CACHE_BYTES,
            stored=stored_encodings(store, self._network, what="Inception", size_px=SIZE_PX),
        )

    def features(self, images: Sequence[ImageSource]) -> "NDArray[np.float64]":
        """Return the pooled features [N, 2048] of N images; NaN where one cannot be read."""
        features: NDArray[np.float64] = self._images.matrix(images, width=NUM_FEATURES).double().numpy()
        return features

    def _encode(self, images: "list[Image.Image]") -> "torch.Tensor":
        import numpy as np
        import torch  # heavy: imported on use

        # An image of the network's own size passes through its resizing untouched.
        squares = np.stack([np.asarray(letterbox(image, size_px=SIZE_PX)) for image in images])  # [N, 299, 299, 3]
        features: torch.Tensor = self._network(torch.from_numpy(squares).permute(0, 3, 1, 2).to(self.device))[0]
        return features.float().cpu()


def _load(weights: str | None) -> Any:
    ensure_importable()
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # heavy: imported on use
            URL_INCEPTION_V3,
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise ScoringError(f"FID and KID need torch-fidelity ({error}); run: pip install torch-fidelity") from error
    path = find_weights(what="Inception", weights=weights, url=URL_INCEPTION_V3)
    # torch-fidelity unpickles whatever the file holds: make sure first that it holds tensors only.
    read_weights(path, what="Inception")
    try:
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        raise ScoringError(
            f"Inception: {path} does not fit torch-fidelity's InceptionV3 ({str(error)[:200]}); give {URL_INCEPTION_V3}"
        ) from error
