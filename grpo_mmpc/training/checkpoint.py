"""A checkpoint: what it holds, when it is whole, and which one a run continues from.

``RUN/checkpoints/checkpoint-N`` holds the run as it was after N optimiser steps:

- ``adapter_model.safetensors``, ``adapter_config.json``: the policy, written by PEFT. These two
  suffice for ``evaluate``, ``complete`` and ``serve``.
- ``optimizer.pt``, ``scheduler.pt``, ``rng_state*.pth`` (one a rank), ``training_args.bin``: the
  rest of the update, written by Transformers; DeepSpeed and FSDP keep optimizer states in folders
  of their own.
- ``trainer_state.json``: N, and everything logged so far.
- ``reward_state.json``: histories of the reward-hacking alarm (``alarms``), written last by this
  toolkit.

Rollouts that serve several steps are in no checkpoint.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.training.arguments import updates_per_rollout
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.utils.distributed import Ranks
from grpo_mmpc.utils.files import write_json

if TYPE_CHECKING:
    from grpo_mmpc.training.trainer import RecordingGRPOTrainer

logger = logging.getLogger(__name__)

REWARD_STATE = "reward_state.json"


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint after ``step`` optimiser steps."""
    return checkpoints / f"checkpoint-{step}"


def steps_of(checkpoint: Path) -> int | None:
    """Read how many steps a checkpoint stands for; None if it is not whole.

    Saving ends with ``trainer_state.json`` and ``reward_state.json``, in this order: a checkpoint
    without one of them was cut short.

    Raises:
        OSError: It cannot be read, which says nothing about it.
    """
    try:
        steps = int(json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))["global_step"])
        read_reward_state(checkpoint)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None
    return steps


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """Return the last checkpoint that is whole, None if there is none.

    Raises:
        OSError: One cannot be read.
    """
    steps = {path: steps_of(path) for path in checkpoints.glob("checkpoint-*")}
    whole = {path: count for path, count in steps.items() if count is not None}
    return max(whole, key=whole.__getitem__, default=None)


def write_reward_state(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Complete a checkpoint with what rewards remember."""
    write_json(checkpoint / REWARD_STATE, state, indent=None)


def read_reward_state(checkpoint: Path) -> dict[str, Any]:
    """Read what ``write_reward_state`` wrote.

    Raises:
        FileNotFoundError: The checkpoint was cut short.
        ValueError: The file is broken.
    """
    return dict(json.loads((checkpoint / REWARD_STATE).read_text("utf-8")))


def prepare_to_resume(trainer: "RecordingGRPOTrainer", recorder: RolloutRecorder, *, ranks: Ranks) -> str:
    """Restore what rewards remember and delete rollouts that will be sampled again. A collective.

    Returns the checkpoint, which the main process chooses for all.

    Raises:
        TrainingError: No checkpoint is whole, or all steps are done.
    """
    checkpoints = Path(trainer.args.output_dir)
    checkpoint, done, state = ranks.on_main(
        lambda: _read_newest(checkpoints, max_steps=trainer.args.max_steps), error=TrainingError
    )
    trainer.restore_reward_state(state)
    if ranks.is_main:
        recorder.drop_after(done)
        steps = updates_per_rollout(trainer.args)
        if done % steps:
            logger.warning(
                "step %d lies between two rollouts (one serves %d steps, and TRL keeps none in a checkpoint): this run "
                "samples anew and goes on as another one would; checkpoints of every %dth step continue exactly",
                done,
                steps,
                steps,
            )
    return str(checkpoint)


def _read_newest(checkpoints: Path, *, max_steps: int) -> tuple[Path, int, dict[str, Any]]:
    checkpoint = newest_checkpoint(checkpoints)
    if checkpoint is None:
        raise TrainingError(
            f"nothing to resume: no checkpoint that is whole in {checkpoints}; start again with --overwrite"
        )
    done = steps_of(checkpoint) or 0
    if 0 < max_steps <= done:  # Transformers would train one step beyond the last
        run_dir = checkpoints.parent
        raise TrainingError(
            f"nothing to resume: step {done} of {max_steps} is done; next: grpo-mmpc report {run_dir} "
            f"(an evaluation that is missing: grpo-mmpc evaluate {run_dir}/config.yaml --checkpoint {checkpoint})"
        )
    return checkpoint, done, read_reward_state(checkpoint)
