"""The manifest, a record of what ran: written when a run starts and completed when it ends."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from grpo_mmpc.utils.distributed import num_processes
from grpo_mmpc.utils.secrets import masked

PACKAGES = (
    "grpo-mmpc",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bert-score",
    "nltk",
    "vllm",
    "deepspeed",
)


def environment() -> dict[str, Any]:
    """Return the versions of what decides results, the hardware, and the revision of the code."""
    import torch

    hardware: dict[str, Any] = {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "world_size": num_processes(),
    }
    if torch.cuda.is_available():
        hardware["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {"python": platform.python_version()} | {name: v for name in PACKAGES if (v := version_of(name))},
        "hardware": hardware,
        "git_revision": _git_revision(),
    }


def command_line(*, resume: bool = False) -> str:
    """Return the command that started this process, as a person would type it, tokens masked.

    With ``resume`` it continues the run that it started.
    """
    import shlex

    program = Path(sys.argv[0]).name
    shown = "python -m grpo_mmpc" if program == "__main__.py" else program
    if num_processes() > 1:  # what launched the ranks is not known here
        shown = "accelerate launch ... -m grpo_mmpc"
    words = [shown, *(shlex.quote(masked(word)) for word in sys.argv[1:])]
    if resume:
        words = [*(word for word in words if word not in ("--overwrite", "--resume")), "--resume"]
    return " ".join(words)


def now() -> str:
    """Return the UTC time, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def version_of(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git_revision() -> str | None:
    """Return the commit of this package's checkout, ``-dirty`` with changes; None without one."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
