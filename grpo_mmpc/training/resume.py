"""How a run continues from its newest checkpoint: back comes what Transformers does not restore."""

import logging
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.training.arguments import updates_per_rollout
from grpo_mmpc.training.checkpoint import newest_checkpoint, read_reward_state, steps_of
from grpo_mmpc.training.recorder import RolloutRecorder
from grpo_mmpc.training.trainer import RecordingGRPOTrainer
from grpo_mmpc.utils.distributed import Ranks

logger = logging.getLogger(__name__)


def prepare_to_resume(trainer: RecordingGRPOTrainer, recorder: RolloutRecorder, *, ranks: Ranks) -> str:
    """Restore what rewards remember and delete rollouts that will be sampled again. A collective.

    Args:
        trainer: The trainer, not yet started.
        recorder: The recorder of its rollouts.
        ranks: This process among the others; the main one chooses for all.

    Returns:
        The checkpoint, for ``resume_from_checkpoint``.

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
