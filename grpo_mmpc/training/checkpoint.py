"""A checkpoint: what it holds, when it is whole, and which one a run continues from.

``RUN/checkpoints/checkpoint-N`` holds the run as it was after N optimiser steps:

- ``adapter_model.safetensors``, ``adapter_config.json``: the policy, written by PEFT. These two
  suffice for ``evaluate``, ``complete`` and ``serve``. With ``adapter: null`` instead a whole
  model, ``config.json``, weights and processor, which is also another run's base.
- ``optimizer.pt``, ``scheduler.pt``, ``rng_state*.pth`` (one a rank), ``training_args.bin``: the
  rest of the update, written by Transformers; DeepSpeed and FSDP keep optimizer states in folders
  of their own.
- ``trainer_state.json``: N, and everything logged so far.
- ``reward_state.json``: histories of the reward-hacking alarm (``alarms``).
- ``rollouts_ahead_*.json``: with ``rollout.ahead``, the next step's completions, one file a rank.
- ``checksums.json``: size and hash of every other file.

All of it is written into ``checkpoints/.saving`` and gets its name once it is on the disk, while
training goes on. Rollouts that serve several steps are in no checkpoint.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.files import read_own, write_json
from grpo_mmpc.utils.hashing import file_digest

logger = logging.getLogger(__name__)

SAVING = ".saving"
REWARD_STATE = "reward_state.json"
CHECKSUMS = "checksums.json"


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint after ``step`` optimiser steps."""
    return checkpoints / f"checkpoint-{step}"


def steps_of(checkpoint: Path) -> int | None:
    """Read how many steps a checkpoint stands for; None if a file of it is missing or cut short.

    Raises:
        OSError: It cannot be read, which says nothing about it.
    """
    return None if damage(checkpoint, hashes=False) else _steps(checkpoint)


def newest_checkpoint(checkpoints: Path, *, hashes: bool = False) -> Path | None:
    """Return the last checkpoint that is whole; None if there is none.

    Args:
        checkpoints: The folder that holds them.
        hashes: Read every file, and log what is damaged; otherwise see ``steps_of``.

    Raises:
        OSError: One cannot be read.
    """
    for checkpoint in sorted(checkpoints.glob("checkpoint-*"), key=lambda path: (len(path.name), path.name))[::-1]:
        problem = damage(checkpoint, hashes=hashes)
        if not problem:
            return checkpoint
        if hashes:
            logger.warning("%s is damaged and passed over: %s", checkpoint, problem)
    return None


def damage(checkpoint: Path, *, hashes: bool = True) -> str:
    """Say what is wrong with a checkpoint; empty if it is whole.

    With ``hashes`` every file is read, otherwise only what is there and how large it is.

    Raises:
        OSError: It cannot be read, which says nothing about it.
    """
    try:
        sums = json.loads(read_own(checkpoint / CHECKSUMS))
        for name, (size, digest) in sums.items():
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size:,} bytes, expected {size:,}"
            if hashes and file_digest(file) != digest:
                return f"{name} has changed since it was written"
        _steps(checkpoint)
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{CHECKSUMS} or trainer_state.json cannot be read ({error})"
    return ""


def seal(saved: Path, checkpoint: Path, *, reward_state: Mapping[str, Any]) -> None:
    """Complete a folder that Transformers has written, sync it and give it its name."""
    write_json(saved / REWARD_STATE, reward_state, indent=None)
    files = sorted(path for path in saved.rglob("*") if path.is_file())
    sums = {str(path.relative_to(saved)): (path.stat().st_size, file_digest(path)) for path in files}
    write_json(saved / CHECKSUMS, sums)
    for path in (*files, saved / CHECKSUMS, *(path for path in saved.rglob("*") if path.is_dir()), saved):
        _sync(path)
    if checkpoint.exists():  # damaged, or of steps that were done again
        shutil.rmtree(checkpoint)
    saved.rename(checkpoint)
    _sync(checkpoint.parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The place that a run goes on from."""

    checkpoint: Path | None = None
    """None for the first step."""
    step: int = 0
    reward_state: Mapping[str, Any] | None = None


def find_start(checkpoints: Path, *, ranks: Ranks) -> Start:
    """Choose the newest whole checkpoint; damaged ones are named and passed over. A collective."""
    return ranks.on_main(lambda: _newest_start(checkpoints), error=TrainingError)


def _newest_start(checkpoints: Path) -> Start:
    checkpoint = newest_checkpoint(checkpoints, hashes=True)
    if checkpoint is None:
        return Start()
    state = json.loads(read_own(checkpoint / REWARD_STATE))
    return Start(checkpoint=checkpoint, step=_steps(checkpoint), reward_state=state)


def _steps(checkpoint: Path) -> int:
    return int(json.loads(read_own(checkpoint / "trainer_state.json"))["global_step"])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
