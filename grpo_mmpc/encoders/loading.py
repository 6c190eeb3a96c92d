"""Load scoring encoders once per process, unsharded whatever the trainer does to its own model."""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo_mmpc.errors import ScoringError, first_line
from grpo_mmpc.utils.content import refuse_unreachable
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import NO_QUESTION

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
DTYPES = ("float32", "bfloat16", "float16")
_FSDP_SWITCH = "FSDP_CPU_RAM_EFFICIENT_LOADING"


@dataclass(slots=True)
class _Slot:
    """A place for the one object of a configuration."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    made: Any = None


_slots: dict[Hashable, _Slot] = {}
_slots_lock = threading.Lock()
# Reentrant: what loads with whole weights may load something else with whole weights.
_loading = threading.RLock()


def shared(build: Callable[..., T], **options: Hashable) -> T:
    """Return the result of this process's first ``build(**options)``.

    Threads that ask at the same time wait for one of them to build it; other configurations are not
    waited for. A build that raises is tried again by whoever asks next.
    """
    with _slots_lock:
        slot = _slots.setdefault((build, *sorted(options.items())), _Slot())
    with slot.lock:
        if slot.made is None:
            slot.made = build(**options)
        made: T = slot.made
        return made


def pick_device(device: str | None) -> str:
    """Return the device to score on: the given one, else this process's GPU, else the CPU."""
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


def pick_dtype(dtype: str) -> str:
    """Check the name of a precision and return it."""
    if dtype not in DTYPES:
        raise ScoringError(f"dtype must be one of {', '.join(DTYPES)}, found {dtype!r}")
    return dtype


class _HiddenConfig:
    """A stand-in for Transformers' DeepSpeed configuration that hides it from one thread."""

    def __init__(self, reference: Callable[[], Any]) -> None:
        self._reference = reference
        self._thread = threading.get_ident()

    def __call__(self) -> Any:
        return None if threading.get_ident() == self._thread else self._reference()


@contextmanager
def whole_weights() -> Iterator[None]:
    """Make ``from_pretrained`` load plain, complete weights on every rank.

    While DeepSpeed ZeRO-3 is configured, Transformers partitions every model it loads, and the
    encoder's layers then fail with "weight must be 2-D". The configuration is hidden from the
    loading thread only: a trainer that generates in another thread asks for it too, and ranks that
    disagree wait for each other forever. While Accelerate's FSDP with CPU-efficient loading is
    active, every rank but the first gets zeros, and scores nonsense without an error; Transformers
    reads that switch from the environment, only when it loads a model. Both are put back on
    leaving, and one thread loads at a time.
    """
    ensure_importable()
    from transformers.integrations import deepspeed  # heavy: imported on use

    with _loading:
        reference = deepspeed._hf_deepspeed_config_weak_ref
        hidden = reference and _HiddenConfig(reference)
        fsdp = os.environ.get(_FSDP_SWITCH)
        deepspeed._hf_deepspeed_config_weak_ref = hidden
        os.environ[_FSDP_SWITCH] = "False"
        try:
            yield
        finally:
            if deepspeed._hf_deepspeed_config_weak_ref is hidden:  # else the trainer has set another one meanwhile
                deepspeed._hf_deepspeed_config_weak_ref = reference
            if fsdp is None:
                del os.environ[_FSDP_SWITCH]
            else:
                os.environ[_FSDP_SWITCH] = fsdp


def load(what: str, model: str, loader: Callable[[], T]) -> T:
    """Run a loader with whole weights, without progress bars and reports.

    Raises:
        ScoringError: The model is not there or cannot be read; names the encoder (``what``), the
            model, and where it was looked for.
    """
    with whole_weights():
        from transformers.utils import logging  # heavy: imported on use

        had_progress_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            refuse_unreachable(model)
            return loader()
        # What from_pretrained raises for absent files, and for those of another kind of model.
        except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
            place = "that folder" if Path(model).is_dir() else "the hub or its local cache"
            advice = (
                "Code of a model that scores is not run; give one whose class Transformers has"
                if "trust_remote_code" in str(error)
                else "Give a folder that holds the model, or download it first (HF_HUB_OFFLINE=1 forbids downloads)"
            )
            raise ScoringError(f"{what}: cannot load {model!r} from {place}: {first_line(error)}. {advice}") from error
        finally:
            logging.set_verbosity(verbosity)
            if had_progress_bar:
                logging.enable_progress_bar()


def pretrained(kind: Any, folder: str, **options: Any) -> Any:
    """Load a model in fp32, whatever the precision of its files; to be called by a loader.

    Without a dtype Transformers takes that of the files, and makes it torch's default for all
    threads while it loads: a trainer that generates in another one would get half precision
    tensors. Widening is exact, so values are those of the files.

    Raises:
        ValueError: The folder holds a model of another kind, or its files lack weights of the
            model, which would stay random.
    """
    from transformers import PreTrainedConfig  # heavy: imported on use

    config_class = getattr(kind, "config_class", None)  # None: AutoModel, any that reads text
    if config_class is not None:
        there = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
        if there not in (None, config_class.model_type):
            raise ValueError(f"it is a {there} model, and this encoder reads {config_class.model_type} models")
    model, info = kind.from_pretrained(folder, dtype="float32", output_loading_info=True, **NO_QUESTION, **options)
    if config_class is None and model.main_input_name != "input_ids":
        raise ValueError(f"it is a {model.config.model_type} model, which does not read text alone")
    # Files of masked language models have no pooling layer; nothing here reads it.
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name.split("."))
    if missing:
        raise ValueError(f"its files lack {len(missing)} weights of a {type(model).__name__}, such as {missing[0]}")
    return model


def token_limit(tokenizer: Any, model: Any, *further: int | None) -> int:
    """Return the least stated limit of a text, in tokens; 512 where none is stated."""
    limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None), *further)
    stated = [int(limit) for limit in limits if limit and limit < 1_000_000]  # 1e30: a tokenizer without a limit
    return min(stated, default=512)


def frozen(model: Any, *, device: str, dtype: str = "float32") -> Any:
    """Make a loaded model ready to score: device, precision, evaluation mode, no gradients.

    Raises:
        ScoringError: DeepSpeed has partitioned it.
    """
    import torch  # heavy: imported on use

    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ScoringError(
            f"{type(model).__name__} was loaded while DeepSpeed was building a sharded model (deepspeed.zero.Init is "
            "active for the whole process); load the encoder before or after, for instance by scoring one text first"
        )
    model = model.to(device=device, dtype=getattr(torch, dtype)).eval()
    model.requires_grad_(False)
    return model


@contextmanager
def scoring(device: str) -> Iterator[None]:
    """Switch off gradients, and autocast where called from inside a trainer's autocast region."""
    import torch  # heavy: imported on use

    with torch.no_grad(), torch.autocast(device_type=torch.device(device).type, enabled=False):
        yield


def num_bytes(*tensors: "torch.Tensor") -> int:
    """Return the memory that tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
