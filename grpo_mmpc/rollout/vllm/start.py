"""Start the vLLM that a recipe asks for: in this process, on a server of our own, or on others."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.families import image_attention
from grpo_mmpc.rollout.vllm.arguments import engine_arguments, template_options
from grpo_mmpc.rollout.vllm.protocol import GroupEngine
from grpo_mmpc.utils.console import printer
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.hashing import hex_digest

if TYPE_CHECKING:
    from grpo_mmpc.rollout.vllm.serve import LocalServer


def start_engine(
    config: RunConfig,
    processor: Any,
    *,
    suppressed: Sequence[int],
    max_tokens: int,
    ranks: Ranks = ONE,
    num_sequences: int | None = None,
) -> GroupEngine:
    """Start the engine of ``rollout`` (``backend: vllm``) on every rank, ready for prompts.

    Args:
        config: The recipe.
        processor: The policy's processor.
        suppressed: Token ids that are never sampled.
        max_tokens: Longest completion that will be asked for.
        ranks: Those that use it; in server mode without ``rollout.servers`` the main one starts the
            server.
        num_sequences: Completions that a rank asks for together; None if unknown.

    Raises:
        RolloutError: It cannot start, or is not the engine that the recipe needs.
    """
    engine: GroupEngine
    if config.rollout.mode == "server":
        engine = _connect(config, suppressed, context_tokens=max_tokens + 1, ranks=ranks)
    else:
        from grpo_mmpc.rollout.vllm.engine import LocalVLLM

        together = config.rollout.engine.tensor_parallel_size or 1  # ranks that share the engine
        engine = LocalVLLM(
            engine_arguments(
                config,
                beside_trainer=True,
                num_sequences=None if num_sequences is None else num_sequences * together,
            ),
            processor,
            suppressed_token_ids=suppressed,
            sleep=config.rollout.sleep,
        )
    ours, theirs = image_attention(config.model, processor), engine.image_attention
    if ours not in (None, theirs):
        engine.close()
        raise RolloutError(
            f"image tokens of this policy attend {ours}ly, those of this vLLM's back end {theirs}ly: log-probabilities "
            f"would differ by about 0.1 a token. Set model.image_attention={theirs}, or rollout.backend=transformers"
        )
    return engine


def _connect(config: RunConfig, suppressed: Sequence[int], *, context_tokens: int, ranks: Ranks) -> GroupEngine:
    from grpo_mmpc.rollout.vllm.server_facts import expected_engine
    from grpo_mmpc.rollout.vllm.servers import ServerVLLM

    own: list[LocalServer] = []
    urls, key = list(config.rollout.servers), None
    if not urls:
        url, key = ranks.on_main(lambda: _start_server(config, own), error=RolloutError)
        urls = [url]
    try:
        return ServerVLLM(
            urls,
            expected=expected_engine(config, context_tokens=context_tokens),
            timeout=config.rollout.server_timeout,
            ranks=ranks,
            suppressed_token_ids=suppressed,
            chat_template_kwargs=template_options(config.chat_template_kwargs),
            api_key=key,
            owner=hex_digest(str(Path(config.run_dir).absolute()), size=8),
            on_close=own[0].close if own else None,
        )
    except BaseException:
        for server in own:
            server.close()
        raise


def _start_server(config: RunConfig, own: "list[LocalServer]") -> tuple[str, str]:
    from grpo_mmpc.rollout.vllm.serve import LocalServer

    server = LocalServer(
        config,
        log=Path(config.run_dir) / "vllm_server.log",
        timeout=config.rollout.server_timeout,
        say=printer(True),
    )
    own.append(server)
    return server.url, server.key
