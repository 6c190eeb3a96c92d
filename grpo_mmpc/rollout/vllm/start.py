"""Starting the vLLM that a recipe asks for: in this process, one server of our own, or servers that already run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.vllm.arguments import engine_arguments
from grpo_mmpc.rollout.vllm.protocol import Adapter, GroupEngine

if TYPE_CHECKING:
    from grpo_mmpc.rollout.vllm.local import LocalVLLM
    from grpo_mmpc.rollout.vllm.serve import LocalServer
    from grpo_mmpc.rollout.vllm.servers import ServerVLLM


def start_engine(
    config: RunConfig, processor: Any, *, suppressed: Sequence[int], max_tokens: int, is_main_process: bool = True
) -> GroupEngine:
    """The engine of ``rollout`` (``backend: vllm``), ready for prompts. Call it on every rank.

    Args:
        config: The recipe.
        processor: The policy's processor.
        suppressed: Token ids that are never sampled.
        max_tokens: Longest completion that will be asked for.
        is_main_process: In server mode without ``rollout.servers`` this rank starts the server.

    Raises:
        RolloutError: It cannot start, or is not the engine that the recipe needs.
    """
    engine = (
        _connect(config, suppressed, max_tokens=max_tokens, is_main_process=is_main_process)
        if config.rollout.mode == "server"
        else _in_process(config, processor, suppressed)
    )
    try:
        _check_image_attention(config, engine.image_attention, type(processor).__name__)
    except RolloutError:
        engine.close()
        raise
    return engine


def adapter_from_folder(folder: Path) -> Adapter:
    """A saved adapter (a checkpoint folder) as bytes.

    Raises:
        RolloutError: The folder holds none.
    """
    try:
        return Adapter(
            name=folder.name,
            config=(folder / "adapter_config.json").read_bytes(),
            weights=(folder / "adapter_model.safetensors").read_bytes(),
        )
    except FileNotFoundError as error:
        raise RolloutError(
            f"{folder} holds no adapter ({Path(str(error.filename)).name} is missing); give a checkpoint folder such "
            "as RUN/checkpoints/checkpoint-80"
        ) from None


def _check_image_attention(config: RunConfig, engine: str, processor: str) -> None:
    if processor != "Gemma3Processor":
        return
    policy = config.model.image_attention or "bidirectional"
    if policy != engine:
        raise RolloutError(
            f"image tokens of this policy attend {policy}ly, those of this vLLM's back end {engine}ly: log-probabilities "
            f"would differ by about 0.1 a token. Set model.image_attention={engine}, or rollout.backend=transformers"
        )


def _in_process(config: RunConfig, processor: Any, suppressed: Sequence[int]) -> "LocalVLLM":
    from grpo_mmpc.rollout.vllm.local import LocalVLLM

    return LocalVLLM(engine_arguments(config), processor, suppressed_token_ids=suppressed, sleep=config.rollout.sleep)


def _connect(config: RunConfig, suppressed: Sequence[int], *, max_tokens: int, is_main_process: bool) -> "ServerVLLM":
    # heavy: imported on use
    from torch import distributed

    from grpo_mmpc.rollout.vllm.expected import expected_engine
    from grpo_mmpc.rollout.vllm.servers import ServerVLLM

    ranks = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    server = None
    urls = list(config.rollout.servers)
    if not urls:
        server, urls = _own_server(config, is_main_process)
    try:
        return ServerVLLM(
            urls,
            expected=expected_engine(config, context_tokens=max_tokens + 1),
            timeout=config.rollout.server_timeout,
            rank=distributed.get_rank() if ranks > 1 else 0,
            from_main=_from_main if ranks > 1 else None,
            suppressed_token_ids=suppressed,
            on_close=None if server is None else server.close,
        )
    except BaseException:
        if server is not None:
            server.close()
        raise


def _from_main(text: str) -> str:
    """The main process's text on every rank."""
    # heavy: imported on use
    from torch import distributed

    texts = [text]
    distributed.broadcast_object_list(texts, src=0)
    return texts[0]


def _own_server(config: RunConfig, is_main_process: bool) -> "tuple[LocalServer | None, list[str]]":
    """Start a server on the main process's machine and tell every rank where it is."""
    from accelerate import PartialState

    from grpo_mmpc.rollout.vllm.serve import LocalServer

    server, answer = None, ""
    if is_main_process:
        try:
            server = LocalServer(
                config,
                log=Path(config.run_dir) / "vllm_server.log",
                timeout=config.rollout.server_timeout,
                say=lambda text: print(text, flush=True),  # noqa: T201
            )
            answer = server.url
        except RolloutError as error:
            answer = str(error)
    if PartialState().num_processes > 1:
        answer = _from_main(answer)
    if not answer.startswith("http"):
        raise RolloutError(answer)
    return server, [answer]
