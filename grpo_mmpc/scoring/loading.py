"""Loads scoring encoders whole, whatever the trainer does to its own model: never sharded, never trained."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo_mmpc.cpu_compat import ensure_importable
from grpo_mmpc.errors import ScoringError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_FSDP_SWITCH = "FSDP_CPU_RAM_EFFICIENT_LOADING"


def pick_device(device: str | None) -> str:
    """The device to score on: the given one, else this process's CUDA device, else the CPU."""
    import torch  # heavy: imported on use

    if device is None:
        return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise ScoringError(f"device {device!r} is not a torch device; write cpu, cuda or cuda:0") from error
    if parsed.type == "cuda":
        if not torch.cuda.is_available():
            raise ScoringError(f"device {device!r} was asked for, but torch sees no CUDA device; use device: cpu")
        # One name per device, so that "cuda" and "cuda:0" share an encoder.
        return f"cuda:{torch.cuda.current_device() if parsed.index is None else parsed.index}"
    return str(parsed)


@contextmanager
def whole_weights() -> Iterator[None]:
    """Make ``from_pretrained`` load plain, complete weights on every rank.

    While DeepSpeed ZeRO-3 is configured, Transformers partitions every model it loads, and the encoder's layers then fail
    with "weight must be 2-D". While Accelerate's FSDP with CPU-efficient loading is active, every rank but the first gets
    zeros, and scores nonsense without an error. Both switches are process-wide, and both are put back on leaving.
    """
    ensure_importable()
    from transformers.integrations import deepspeed  # heavy: imported on use

    config = deepspeed._hf_deepspeed_config_weak_ref
    fsdp = os.environ.get(_FSDP_SWITCH)
    deepspeed.unset_hf_deepspeed_config()
    os.environ[_FSDP_SWITCH] = "False"
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config
        if fsdp is None:
            del os.environ[_FSDP_SWITCH]
        else:
            os.environ[_FSDP_SWITCH] = fsdp


def load(what: str, model: str, loader: Callable[[], T]) -> T:
    """Run a loader with whole weights and without progress bars.

    Args:
        what: Name of the encoder for messages, for instance ``BERTScore``.
        model: Hub name or folder, for messages.
        loader: Calls ``from_pretrained``.

    Raises:
        ScoringError: The model is not there or cannot be read; says where it was looked for.
    """
    with whole_weights():
        from transformers.utils import logging  # heavy: imported on use

        had_progress_bar = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            return loader()
        except (OSError, ValueError, KeyError) as error:  # what from_pretrained raises for absent or unfit files
            place = "that folder" if Path(model).is_dir() else "the hub or its local cache"
            raise ScoringError(
                f"{what}: cannot load {model!r} from {place}: {error}. Give a folder that holds the model, or download it "
                "first (HF_HUB_OFFLINE=1 forbids downloads)"
            ) from error
        finally:
            if had_progress_bar:
                logging.enable_progress_bar()


def frozen(model: Any, *, device: str) -> Any:
    """A loaded model ready to score: fp32 on its device, evaluation mode, no gradients."""
    model = model.float().to(device).eval()
    model.requires_grad_(False)
    return model


@contextmanager
def scoring(device: str) -> Iterator[None]:
    """No gradients, and full precision even when called from inside a trainer's autocast region."""
    import torch  # heavy: imported on use

    with torch.no_grad(), torch.autocast(device_type=torch.device(device).type, enabled=False):
        yield


def num_bytes(*tensors: "torch.Tensor") -> int:
    """Memory that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
