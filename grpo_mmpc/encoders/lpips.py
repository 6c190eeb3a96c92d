"""LPIPS with an AlexNet backbone: torchmetrics' network and linear heads, loaded once."""

from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.loading import frozen, pick_device, scoring, shared
from grpo_mmpc.encoders.weights import find_weights, read_weights
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_SIDE_PX = 32
"""Below this AlexNet's pooling layers have nothing left to pool."""
_BATCH_SIZE = 32


def lpips_scorer(*, weights: str | None = None, device: str | None = None) -> "LpipsNetwork":
    """Return the process's one network of this configuration; see ``grpo_mmpc.encoders``.

    ``weights`` is torchvision's ``alexnet-owt-7be5be79.pth`` or a folder that holds it; None looks
    into torch's cache and downloads it unless HF_HUB_OFFLINE is set. The linear heads come with
    torchmetrics.
    """
    return shared(LpipsNetwork, weights=weights, device=pick_device(device))


class LpipsNetwork:
    """Learned perceptual distance of images. Use ``lpips_scorer`` to share one per process.

    References:
        Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        AlexNet, version 0.1.
    """

    def __init__(self, *, weights: str | None = None, device: str = "cpu") -> None:
        self.device = device
        self._network = frozen(_load(weights), device=device)

    def distances(self, *, predictions: "NDArray[np.uint8]", references: "NDArray[np.uint8]") -> list[float]:
        """Return the LPIPS of N pairs, equal to that of ``torchmetrics.functional.image``.

        Both are RGB, [N, H, W, 3] with H and W at least 32. Equal images have distance 0, unrelated
        ones about 0.7; there is no upper bound.

        Raises:
            ValueError: The shapes differ or are too small for the network.
        """
        import torch  # heavy: imported on use

        if predictions.shape != references.shape or min(predictions.shape[1:3]) < MIN_SIDE_PX:
            raise ValueError(
                f"LPIPS needs two equal shapes [N, H, W, 3] of at least {MIN_SIDE_PX} px a side, "
                f"found {predictions.shape} and {references.shape}"
            )
        distances: list[float] = []
        for start in range(0, len(predictions), _BATCH_SIZE):
            first, second = (
                torch.from_numpy(values[start : start + _BATCH_SIZE]).to(self.device).permute(0, 3, 1, 2) / 127.5 - 1.0
                for values in (predictions, references)
            )  # [N, 3, H, W] in [-1, 1]
            with scoring(self.device):
                distances += self._network(first, second).flatten().tolist()
        return distances


def _load(weights: str | None) -> Any:
    ensure_importable()
    try:
        # heavy: imported on use. torchmetrics' public function loads the network at every call.
        from torchmetrics.functional.image.lpips import _NoTrainLpips
        from torchvision.models import AlexNet_Weights
    except ImportError as error:
        raise ScoringError(
            f"LPIPS needs torchmetrics and torchvision ({error}); run: pip install torchmetrics"
        ) from error
    path = find_weights(what="LPIPS", weights=weights, url=AlexNet_Weights.IMAGENET1K_V1.url)
    backbone = read_weights(path, what="LPIPS")
    network = _NoTrainLpips(net="alex", pnet_rand=True)
    # The slices keep the numbering of AlexNet's layers: slice2.3.weight is features.3.weight.
    names = {name: "features." + name.partition(".")[2] for name in network.net.state_dict()}
    try:
        network.net.load_state_dict({name: backbone[there] for name, there in names.items()})
    except (KeyError, RuntimeError) as error:
        raise ScoringError(
            f"LPIPS: {path} does not fit AlexNet ({error}); give torchvision's alexnet-owt-7be5be79.pth"
        ) from error
    return network
