"""The recipe's engine without a trainer, as evaluations and catalogue completion use it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.config.sections import AdapterSection
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.utils.jobs import Environment, machine_gpus, shares_of_machine

if TYPE_CHECKING:
    from grpo_mmpc.rollout.engine import Engine

logger = logging.getLogger(__name__)


@contextmanager
def offline_engine(config: RunConfig, *, checkpoint: Path | None) -> Iterator["Engine"]:
    """Start the recipe's engine with the base model, or with a checkpoint's adapter on it.

    Raises:
        AdapterError: The checkpoint cannot be used, or is another model's.
    """
    from grpo_mmpc.models.adapter_folder import open_checkpoint
    from grpo_mmpc.models.policy import whole_model
    from grpo_mmpc.models.processor import load_processor

    is_whole = checkpoint is not None and open_checkpoint(checkpoint) is None  # before anything is loaded
    processor = load_processor(config.model, chat_template_kwargs=config.chat_template_kwargs)
    if is_whole and checkpoint is not None:
        config, checkpoint = config.model_copy(update={"model": whole_model(config.model, checkpoint)}), None
    start = _transformers_engine if config.rollout.backend == "transformers" else _vllm_engine
    with start(_without_trainer(config), processor, checkpoint) as engine:
        yield engine


def engine_shares(config: RunConfig, *, workers: int | None) -> list[Environment]:
    """Return the share of this machine that each engine gets.

    Args:
        config: The recipe; an engine takes the GPUs of ``tensor_parallel_size``.
        workers: Engines at once; None is one a device, and a single one on a CPU or in front of
            servers that run already.

    Raises:
        ConfigError: There are fewer GPUs than so many workers need.
    """
    gpus = min(gpus_of_engine(config), len(machine_gpus()))
    return shares_of_machine(
        parallel=workers or (None if gpus else 1),
        gpus_each=gpus,
        cpus_each=None,
        options=("rollout.engine.tensor_parallel_size", "--workers"),
    )


def gpus_of_engine(config: RunConfig) -> int:
    """Return how many GPUs an engine takes where there are any; none where servers have them."""
    if config.rollout.backend == "transformers":
        return 1
    is_remote = config.rollout.mode == "server" and config.rollout.servers
    return 0 if is_remote else config.rollout.engine.tensor_parallel_size or 1


def _without_trainer(config: RunConfig) -> RunConfig:
    """Let a server hold an engine that several training processes would share: this is one process.

    Raises:
        RolloutError: This machine has too few GPUs for it.
    """
    size = config.rollout.engine.tensor_parallel_size or 1
    if config.rollout.backend == "transformers" or config.rollout.mode == "server" or size == 1:
        return config
    import torch  # heavy: imported on use

    if torch.cuda.is_available() and torch.cuda.device_count() < size:
        raise RolloutError(
            f"rollout.engine.tensor_parallel_size is {size}, and this machine has {torch.cuda.device_count()} GPU(s): "
            "run this command on a machine with as many, set rollout.engine.tensor_parallel_size to what the policy "
            "needs here, or name running servers in rollout.servers with rollout.mode=server"
        )
    logger.warning("one process alone: a vLLM server of this machine holds the %d parts of the engine", size)
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"mode": "server"})})


@contextmanager
def _transformers_engine(config: RunConfig, processor: Any, checkpoint: Path | None) -> Iterator["Engine"]:
    # heavy: imported on use
    import torch

    from grpo_mmpc.models.policy import load_policy
    from grpo_mmpc.rollout.transformers_engine import TransformersEngine

    model = load_policy(config.model, adapter=checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    yield TransformersEngine(model, processor, batch_size=config.evaluation.batch_size)


@contextmanager
def _vllm_engine(config: RunConfig, processor: Any, checkpoint: Path | None) -> Iterator["Engine"]:
    # heavy: imported on use
    from grpo_mmpc.models.adapter import adapter_from_folder
    from grpo_mmpc.models.adapter_folder import check_base, check_fits, open_adapter
    from grpo_mmpc.models.families import model_config, suppressed_token_ids
    from grpo_mmpc.models.policy import model_skeleton
    from grpo_mmpc.rollout.vllm.arguments import refuse_unserved_targets
    from grpo_mmpc.rollout.vllm.rollouts import VLLMEngine
    from grpo_mmpc.rollout.vllm.start import start_engine

    adapter = None
    if checkpoint is not None:
        opened = open_adapter(checkpoint)
        warning = check_base(opened, config.model)
        if warning is not None:
            logger.warning(warning)
        # vLLM leaves out weights that fit no module, without a word.
        check_fits(opened, model_skeleton(config.model))
        refuse_unserved_targets({*opened.modules.values()}, engine=config.rollout.engine.options())
        adapter = adapter_from_folder(opened)
        # An engine serves no greater rank than its recipe names.
        config = config.model_copy(update={"adapter": AdapterSection(r=opened.rank)})
    suppressed = suppressed_token_ids(processor, model_config(config.model))
    max_tokens = max(config.evaluation.max_tokens.values(), default=1)
    engine = start_engine(config, processor, suppressed=suppressed, max_tokens=max_tokens)
    try:
        if adapter is not None:
            engine.load(adapter)
        yield VLLMEngine(engine, processor, adapter=adapter.name if adapter else None)
    finally:
        engine.close()
