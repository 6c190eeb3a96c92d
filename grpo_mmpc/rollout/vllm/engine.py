"""A vLLM in this process, beside the trainer on the same devices (``rollout.mode: colocate``)."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from grpo_mmpc.errors import RolloutError, first_line
from grpo_mmpc.models.adapter import Adapter
from grpo_mmpc.rollout.vllm.adapter_store import adapter_places, write_adapter
from grpo_mmpc.rollout.vllm.arguments import check_installed, start_advice
from grpo_mmpc.rollout.vllm.cpu import cpu_environment
from grpo_mmpc.rollout.vllm.protocol import Completion, GroupOutput, Prompt
from grpo_mmpc.rollout.vllm.requests import by_path, read_images, sampling_parameters, unfit
from grpo_mmpc.rollout.vllm.server_facts import vllm_image_attention
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.cpu_compat import for_children
from grpo_mmpc.utils.single_out import Failure, single_out


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
            arguments: vLLM ``EngineArgs``; see ``arguments.engine_arguments``.
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
        self._folders = [Path(tempfile.mkdtemp(prefix="grpo_mmpc-", dir=place)) for place in adapter_places()]
        self._asleep = False
        self._fall_asleep()

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    @property
    def image_attention(self) -> str:
        """See ``GroupEngine.image_attention``."""
        return vllm_image_attention(self._llm.llm_engine.model_config)

    @property
    def lora_dtype(self) -> str:
        """See ``GroupEngine.lora_dtype``."""
        return str(self._llm.llm_engine.vllm_config.lora_config.lora_dtype).removeprefix("torch.")

    def load(self, adapter: Adapter) -> None:
        """See ``GroupEngine.load``; its files live until ``unload``, in memory if there is room.

        Raises:
            RolloutError: vLLM refuses the adapter, or there is no room for its files.
        """
        from vllm.lora.request import LoRARequest

        try:
            folder = write_adapter(self._folders, adapter.name, config=adapter.config, weights=adapter.weights)
        except OSError as error:
            raise RolloutError(f"the adapter cannot be handed to vLLM: {error.strerror or error}") from error
        request = LoRARequest(adapter.name, self._next_id, str(folder))
        self._next_id += 1
        self._wake_up()
        try:
            self._llm.llm_engine.add_lora(request)
        except _refusals(RuntimeError) as error:
            shutil.rmtree(folder)
            raise RolloutError(f"vLLM refuses the adapter: {first_line(error)}") from error
        self._adapters[adapter.name] = request

    def unload(self, name: str) -> None:
        """See ``GroupEngine.unload``."""
        request = self._adapters.pop(name)
        self._llm.llm_engine.remove_lora(request.lora_int_id)
        shutil.rmtree(request.lora_path)

    def load_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """See ``GroupEngine.load_weights``; forgets what was computed with those before.

        Raises:
            RolloutError: vLLM refuses them.
        """
        self._wake_up()
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        except (KeyError, ValueError, RuntimeError) as error:
            raise RolloutError(
                f"vLLM does not take the weights of this policy ({first_line(error)[:200]}), which it may know by "
                "other names; set rollout.backend=transformers"
            ) from error
        self._llm.llm_engine.reset_encoder_cache()
        self._llm.llm_engine.reset_mm_cache()
        self._llm.reset_prefix_cache()
        self._fall_asleep()

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, adapter: str | None
    ) -> list[GroupOutput | Failure]:
        """See ``GroupEngine.generate``."""
        everyones, first = self._exchange(list(prompts))
        refusals = [unfit(prompt, sampling, context=self.max_model_len) for prompt in everyones]
        fitting = [prompt for prompt, refused in zip(everyones, refusals, strict=True) if refused is None]
        self._wake_up()
        try:
            outputs = iter(
                single_out(
                    lambda batch: self._complete(batch, sampling, adapter),
                    fitting,
                    batch_size=lambda: len(fitting),
                    what="vLLM",
                    memory_advice="Give it more memory (rollout.engine.gpu_memory_utilization)",
                    error=RolloutError,
                    num_distinct=len({tuple(prompt.token_ids) for prompt in fitting}),
                )
            )
        finally:
            self._fall_asleep()
        results = [next(outputs) if refused is None else refused for refused in refusals]
        return results[first : first + len(prompts)]

    def _complete(self, prompts: list[Prompt], sampling: SamplingConfig, adapter: str | None) -> list[GroupOutput]:
        outputs = self._llm.generate(
            [self._request(prompt) for prompt in prompts],
            [self._parameters(prompt, sampling) for prompt in prompts],
            use_tqdm=False,
            lora_request=None if adapter is None else self._adapters[adapter],
        )
        return [_group(output, prompt) for output, prompt in zip(outputs, prompts, strict=True)]

    def close(self) -> None:
        """Shut the engine down and remove its adapters."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def _request(self, prompt: Prompt) -> dict[str, Any]:
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
        from vllm.sampling_params import StructuredOutputsParams

        schema = sampling.schema
        return SamplingParams(
            **sampling_parameters(prompt, sampling),
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
            max_tokens=sampling.max_tokens,
            logprobs=0,  # of the sampled token
            logit_bias=self._bias or None,
        )

    def _exchange(self, prompts: list[Prompt]) -> tuple[list[Prompt], int]:
        """Return the prompts of the tensor-parallel group, and where this rank's begin."""
        if self._group is None:
            return prompts, 0
        # heavy: imported on use
        from torch import distributed

        lists: list[list[Prompt]] = [[] for _ in range(self._tensor_parallel)]
        distributed.all_gather_object(lists, [by_path(prompt) for prompt in prompts], group=self._group)
        rank = distributed.get_rank(group=self._group)
        lists = [
            prompts if other == rank else [read_images(prompt, self._processor) for prompt in part]
            for other, part in enumerate(lists)
        ]
        return [prompt for part in lists for prompt in part], sum(len(part) for part in lists[:rank])

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


def _start(arguments: dict[str, Any], *, sleep: bool) -> Any:
    # heavy: imported on use
    import torch
    import torch._dynamo.config

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one engine per rank, in the rank's own process
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    options = {"use_tqdm_on_load": False} | arguments
    if torch.cuda.is_available():
        options["enable_sleep_mode"] = sleep
    else:
        os.environ.update(cpu_environment())
        # vLLM compiles its sampler's helpers with a C++ compiler, for each new batch size anew: a
        # minute for nothing.
        torch._dynamo.config.disable = True
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        options["distributed_executor_backend"] = "external_launcher"
    try:
        with for_children(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of vLLM about torch
            from vllm import LLM

            return LLM(**options)
    except TypeError as error:
        raise RolloutError(f"vLLM does not know an argument of rollout.engine: {first_line(error)}") from error
    except _refusals(OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:500]  # pydantic's first line holds none
        raise RolloutError(f"vLLM cannot start: {reason}. {start_advice(str(error))}") from error


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
        [list(range(first, first + size)) for first in range(0, world, size)],
        backend="gloo",  # prompts are text: over NCCL they would travel through the GPU's memory
    )
    return group


def _group(output: Any, prompt: Prompt) -> GroupOutput:
    completions = [
        Completion(
            token_ids=list(sequence.token_ids),
            logprobs=[
                position[token].logprob for token, position in zip(sequence.token_ids, sequence.logprobs, strict=True)
            ],
        )
        for sequence in sorted(output.outputs, key=lambda sequence: sequence.index)
    ]
    repeats = prompt.count // len(completions)  # greedy completions are asked for once
    return GroupOutput(prompt_ids=list(output.prompt_token_ids), completions=completions * repeats)


def _refusals(*others: type[Exception]) -> tuple[type[Exception], ...]:
    from vllm.exceptions import VLLMClientError

    return (ValueError, VLLMClientError, *others)
