"""What every trainer of a run has, whatever it learns from: a session needs nothing else of it."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models.adapter import has_adapter
from grpo_mmpc.training.checkpoint import SAVING, Start, checkpoint_folder, seal
from grpo_mmpc.training.diagnostics import peak_memory
from grpo_mmpc.training.set_aside import SetAside
from grpo_mmpc.training.trl_seams import REFERENCE, TrainerCallback, rotate_checkpoints
from grpo_mmpc.utils.console import Progress
from grpo_mmpc.utils.distributed import Ranks

logger = logging.getLogger(__name__)


class RunTrainer:
    """The side of a trainer that its run sees; comes before one of TRL's with public names."""

    accelerator: Any
    args: Any
    model: Any
    state: Any
    control: Any
    set_aside: SetAside
    errors: dict[str, int]
    """Completions each reward failed on."""
    _ranks: Ranks
    _sealing: "Future[None] | None" = None
    """On the main process, the checkpoint that is getting its name."""

    @cached_property
    def _background(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1)

    def reward_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the policy and its optimiser."""
        return {}

    def save_beside(self, checkpoint: Path) -> None:
        """Write what this rank keeps of its own into a checkpoint."""

    def go_on_from(self, start: Start) -> None:
        """Take up a run where a checkpoint left it, or begin."""

    def own_callbacks(self, progress: Progress) -> Iterator[TrainerCallback]:
        """Yield what watches the learning signal and shows it."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop what runs beside this process, and let a checkpoint get its name.

        A run that fails for another reason ends before it asks for that one: its failure is logged.
        """
        self._background.shutdown()
        if self._sealing is not None and (error := self._sealing.exception()) is not None:
            logger.error("%s", error)

    def save_checkpoint(self, below: str) -> None:
        """Write a checkpoint that appears whole or not at all, see ``checkpoint.py``. A collective.

        When this returns its files are written. They are hashed, synced and get their name while
        training goes on, see ``finish_saving``.

        Raises:
            TrainingError: The disk refuses it, or the checkpoint before, for instance because it is
                full.
        """
        self.finish_saving()
        checkpoints, step = Path(below), self.state.global_step
        saving, is_main = checkpoints / SAVING, self.accelerator.is_main_process
        if is_main:
            shutil.rmtree(saving, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            with _explained(checkpoints, step):
                super().save_checkpoint(str(saving))  # type: ignore[misc]
                self.save_beside(checkpoint_folder(saving, step))
            self.accelerator.wait_for_everyone()
        except BaseException:
            if is_main:
                shutil.rmtree(saving, ignore_errors=True)
            raise
        # A run that a signal stops deletes nothing: an older checkpoint may still be evaluated.
        is_stopped = self.control.should_training_stop and step < self.state.max_steps
        if is_main:
            self._sealing = self._background.submit(
                self._seal, checkpoints, step, self.reward_state(), rotate=not is_stopped
            )

    def _seal(self, checkpoints: Path, step: int, reward_state: Mapping[str, Any], *, rotate: bool) -> None:
        saving, name = checkpoints / SAVING, checkpoint_folder(checkpoints, step)
        try:
            with _explained(checkpoints, step):
                # Going on, Transformers would take sub-folders alone, and start the policy anew.
                shutil.rmtree(saving / name.name / REFERENCE, ignore_errors=True)
                seal(saving / name.name, name, reward_state=reward_state)
                if rotate:
                    rotate_checkpoints(str(checkpoints), save_total_limit=self.args.save_total_limit)
        finally:
            shutil.rmtree(saving, ignore_errors=True)

    def finish_saving(self) -> None:
        """Wait until the last checkpoint has its name. A collective.

        Raises:
            TrainingError: It could not be saved.
        """
        sealing, self._sealing = self._sealing, None
        self._ranks.on_main(lambda: sealing and sealing.result(), error=TrainingError)

    def load_weights(self, folder: str, model: Any = None) -> None:
        """Load a checkpoint's policy, a whole one under the names that its class has for weights.

        Transformers saves published names, and loads none of them here: it would only warn, and go
        on from the base model.
        """
        if has_adapter(self.model):
            super().load_weights(folder, model)  # type: ignore[misc]
        else:
            self.model.load_state_dict(type(self.model).from_pretrained(folder, use_safetensors=True).state_dict())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the main process has taken of memory to what TRL logs."""
        logs.update(peak_memory())
        super().log(logs, start_time)  # type: ignore[misc]

    def list_set_aside(self, refused: Mapping[str, str]) -> None:
        """List the prompts that are left out of training, with their reasons, each once."""
        for row in self.set_aside.add(refused) if self.accelerator.is_main_process else ():
            self.warn(f"set aside, see {self.set_aside.path}: {row.file} row {row.row} ({row.item_id}): {row.reason}")

    def warn(self, message: str) -> None:
        """Log a message once, with the step that is running."""
        if self.accelerator.is_main_process:
            logger.warning("step %d: %s", self.state.global_step + 1, message)


@contextmanager
def _explained(checkpoints: Path, step: int) -> Iterator[None]:
    """Say of what a disk refuses which checkpoint it is, and how to go on."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two are torch's of a full disk
        free = shutil.disk_usage(checkpoints).free >> 20
        raise TrainingError(
            f"checkpoint-{step} could not be saved in {checkpoints}: {' '.join(str(error).split())} ({free:,} MB "
            "free there); free space or set trainer.save_total_limit, then start the same command again"
        ) from error
