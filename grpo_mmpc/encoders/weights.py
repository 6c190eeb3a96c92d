"""Find and read files of weights that are not on the hub: at a path, else in torch's cache."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from grpo_mmpc.errors import ScoringError

if TYPE_CHECKING:
    import torch

_TRUE = {"1", "on", "yes", "true"}


def find_weights(*, what: str, weights: str | None, url: str) -> Path:
    """Return the file of a network's weights.

    ``weights`` is a file, or a folder that holds it under the name at which ``url`` publishes it;
    None looks into torch's cache, and downloads what is not there unless HF_HUB_OFFLINE is set.

    Raises:
        ScoringError: The file is not there and may not or cannot be downloaded; says where it was
            looked for.
    """
    name = Path(urlparse(url).path).name
    if weights is not None:
        path = Path(weights).expanduser()
        path = path / name if path.is_dir() else path
        if not path.is_file():
            raise ScoringError(f"{what}: {path} does not exist; give a file of weights, or a folder that holds {name}")
        return path
    import torch.hub  # heavy: imported on use

    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    remedy = f"download {url} and give its path as weights, or put it at {path}"
    # torch.hub has no offline switch: whoever forbids downloads from the hub forbids this too.
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        raise ScoringError(f"{what}: {path} does not exist, and HF_HUB_OFFLINE forbids downloads; {remedy}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Published names end in the start of the file's sha256.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:  # no network; the file is not the published one
        raise ScoringError(
            f"{what}: {path} does not exist and {url} cannot be downloaded ({error}); {remedy}"
        ) from error
    return path


def read_weights(path: Path, *, what: str) -> "dict[str, torch.Tensor]":
    """Return the tensors of a file of weights by name, on the CPU; nothing in the file is executed.

    Raises:
        ScoringError: The file holds no tensors by name.
    """
    import pickle

    import torch  # heavy: imported on use

    try:
        weights: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ScoringError(f"{what}: {path} cannot be read as weights ({error}); download the file again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ScoringError(f"{what}: {path} holds no tensors by name; give the state dict of the network")
    return weights
