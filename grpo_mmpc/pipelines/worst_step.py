"""One real step of a recipe with its longest prompts and largest images: what a run will meet."""

import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from grpo_mmpc.catalogue.images import image_size
from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import ImageError
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.reports.common.labels import plural
from grpo_mmpc.rollout.prompts import model_inputs
from grpo_mmpc.tasks.prompt_rows import prompt_rows
from grpo_mmpc.training.arguments import prompts_per_step, training_arguments, updates_per_rollout
from grpo_mmpc.utils.console import quiet_when_redirected
from grpo_mmpc.utils.distributed import launched_ranks

_CANDIDATES = 64
"""Items with the longest texts, and as many with the largest images, whose tokens are counted."""
_MOST_HEADERS = 1024
"""Evenly spaced items whose image headers are read."""


def problems_elsewhere(problems: Sequence[str]) -> list[str]:
    """Return what other machines lack, each once. A collective.

    A rank of one of them that lacks something would leave the others waiting in the step.
    """
    host = platform.node()
    everywhere = launched_ranks().gather([(host, problem) for problem in problems])
    return [*dict.fromkeys(f"{where}: {problem}" for where, problem in everywhere if where != host)]


def take_worst_step(config: RunConfig, *, say: Callable[[str], None]) -> None:
    """Train for one step of each task on the heaviest prompts, in a folder that goes with it.

    A collective. Completions are as long as they may be where Transformers generates.

    Raises:
        GrpoMmpcError: What a training of this recipe would end with.
    """
    # heavy: imported on use
    from grpo_mmpc.training.session import TrainingSession

    quiet_when_redirected()
    is_sft = config.method == "sft"
    arguments = training_arguments(config)
    count = prompts_per_step(arguments) if is_sft else arguments.generation_batch_size // arguments.num_generations
    updates = 1 if is_sft else updates_per_rollout(arguments)
    data = RunData(config)
    weighed = weigh(config, data)
    data.train = [*weighed, *(index for index in data.train if index not in weighed)][:count]
    heaviest = weighed[data.train[0]]
    say(f"  {'worst step':12}{plural(len(data.train), 'prompt')} of up to {heaviest} tokens, images included ...")
    with TemporaryDirectory(prefix="grpo_mmpc-") as folder:
        # Of its own on every rank: one on another machine does not see that of the first.
        session = TrainingSession(_short(config, Path(folder), steps=updates * len(config.tasks)), data)
        try:
            session.train(before=None, after_save=None)
        finally:
            session.close()
    log: dict[str, Any] = {}
    for line in session.trainer.state.log_history:
        log |= {name: max(value, log.get(name, value)) for name, value in line.items() if isinstance(value, float)}
    took = [f"{log['step_time']:.1f} s"] if "step_time" in log else []
    lengths = [f"completions of up to {log['completions/max_length']:.0f} tokens"] if not is_sft else []
    peaks = {"memory/gpu_peak_gib": "GPU", "memory/peak_gib": "process"}
    memory = [f"{log[name]:.1f} GiB a {what} at most" for name, what in peaks.items() if name in log]
    say(f"  {'':12}{', '.join([*took, *lengths, *memory])}")


def weigh(config: RunConfig, data: RunData) -> dict[int, int]:
    """Return the tokens of the heaviest training items' prompts, the longest first, by item."""
    catalogue = data.catalogue
    columns = (catalogue.column(name, data.train) for name in ("title", "description"))
    lengths = {
        index: sum(len(text or "") for text in texts) for index, *texts in zip(data.train, *columns, strict=True)
    }
    spaced = data.train[:: -(-len(data.train) // _MOST_HEADERS)]
    pixels = dict(zip(spaced, map(_pixels_in(catalogue.folder), catalogue.column("image", spaced)), strict=True))
    chosen = [
        index
        for weights in (lengths, pixels)
        for index in sorted(weights, key=weights.__getitem__, reverse=True)[:_CANDIDATES]
    ]
    processor = load_processor(config.model, chat_template_kwargs=config.chat_template_kwargs)
    tokens: dict[int, int] = {}
    for index in dict.fromkeys(chosen):
        for row in prompt_rows(catalogue, [index], config.tasks, known=config.known_tasks):
            try:
                length = int(model_inputs([row], processor, device="cpu")["input_ids"].shape[1])
            except Exception:  # processors of others raise anything at all; training sets such a row aside
                length = 0
            tokens[index] = max(length, tokens.get(index, 0))
    return dict(sorted(tokens.items(), key=lambda item: item[1], reverse=True))


def _pixels_in(folder: Path) -> Callable[[str | None], int]:
    def pixels(image: str | None) -> int:
        try:
            return 0 if image is None else math.prod(image_size(folder / image))
        except (ImageError, OSError):
            return 0

    return pixels


def _short(config: RunConfig, folder: Path, *, steps: int) -> RunConfig:
    """Return the recipe of so many steps that leaves nothing behind."""
    trainer = config.trainer | {"max_steps": steps, "save_strategy": "no", "report_to": "none", "logging_steps": 1}
    if config.method == "grpo" and config.rollout.backend == "transformers":
        given = trainer.get("generation_kwargs") or {}
        trainer["generation_kwargs"] = {**given, "min_new_tokens": config.max_completion_length}
    return config.model_copy(
        update={
            "run_dir": str(folder),
            "trainer": trainer,
            "data": config.data.model_copy(update={"max_train_items": None}),
        }
    )
