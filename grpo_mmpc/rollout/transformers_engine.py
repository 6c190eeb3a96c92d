"""Completions by ``generate`` of Transformers, from a live policy (any Accelerate wrapping) or a loaded one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.catalogue import read_image
from grpo_mmpc.types import PromptRow, SamplingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL.Image import Image


@lru_cache(maxsize=256)
def load_prompt_image(path: str) -> "Image":
    """An image as RGB; the last 256 stay decoded, since a group shows the same picture to all its rollouts."""
    file = Path(path)
    return read_image(file, folder=file.parent)


class TransformersEngine:
    """Implements ``Engine`` with ``model.generate``.

    Rows are dealt over the ranks; each rank runs the same number of batches (a short rank repeats a
    row and drops the result), because under ZeRO-3 and FSDP a forward pass is a collective and an
    uneven last shard would hang.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        batch_size: int,
        accelerator: "Accelerator | None" = None,
        gather_deepspeed3_params: bool = True,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep references; nothing is copied or moved.

        Args:
            model: The policy, possibly wrapped by Accelerate, possibly a ``PeftModel``.
            processor: Its processor.
            batch_size: Prompts per ``generate`` call and rank.
            accelerator: The trainer's accelerator; None for a model on one device.
            gather_deepspeed3_params: TRL's ``ds3_gather_for_generation``.
            gradient_checkpointing_kwargs: The trainer's; checkpointing is off while rows are
                generated and on again after.
        """
        self._model = model
        self._processor = processor
        self._batch_size = batch_size
        self._accelerator = accelerator
        self._gather_deepspeed3_params = gather_deepspeed3_params
        self._gradient_checkpointing_kwargs = gradient_checkpointing_kwargs

    @property
    def rows_at_once(self) -> int:
        """One batch on every rank."""
        return self._batch_size * (1 if self._accelerator is None else self._accelerator.num_processes)

    def generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        """See ``Engine.generate``. Training mode of the model is restored afterwards."""
        import torch

        if not rows:
            return []
        rank, world = (
            (0, 1)
            if self._accelerator is None
            else (
                self._accelerator.process_index,
                self._accelerator.num_processes,
            )
        )
        mine = list(range(rank, len(rows), world))
        rows_per_rank = -(-len(rows) // world)
        padded = [rows[i] for i in mine] + [rows[0]] * (rows_per_rank - len(mine))
        completions: list[str] = []
        with self._unwrapped() as model, torch.no_grad():
            was_training = model.training
            model.eval()
            try:
                for start in range(0, rows_per_rank, self._batch_size):
                    completions += self._generate_batch(model, padded[start : start + self._batch_size], sampling)
            finally:
                model.train(was_training)
        return self._collect(dict(zip(mine, completions, strict=False)), len(rows))

    @contextmanager
    def _unwrapped(self) -> Iterator[Any]:
        if self._accelerator is None:
            yield self._model
            return
        # heavy: imported on use
        from trl.models.utils import unwrap_model_for_generation

        with unwrap_model_for_generation(
            self._model,
            self._accelerator,
            gather_deepspeed3_params=self._gather_deepspeed3_params,
            gradient_checkpointing_kwargs=self._gradient_checkpointing_kwargs,
        ) as model:
            yield model

    def _generate_batch(self, model: Any, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str]:
        import torch

        inputs = self._processor.apply_chat_template(
            [conversation(row) for row in rows],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        inputs = {key: value.to(model.device) for key, value in inputs.items()}
        fork = nullcontext() if sampling.temperature == 0 else torch.random.fork_rng()
        with fork:
            if sampling.temperature != 0:
                torch.manual_seed(sampling.seed)
            output = model.generate(**inputs, generation_config=self._generation_config(model, sampling))
        new_tokens = output[:, inputs["input_ids"].shape[1] :]  # [B, L]
        return list(self._processor.batch_decode(new_tokens, skip_special_tokens=True))

    def _generation_config(self, model: Any, sampling: SamplingConfig) -> Any:
        from transformers import GenerationConfig

        tokenizer = self._processor.tokenizer
        end = model.generation_config.eos_token_id
        end_ids = [end] if isinstance(end, int) else list(end or [])
        options: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            options = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted({*end_ids, tokenizer.eos_token_id}),
            # A sampled image token would ask the model for image features that do not exist.
            suppress_tokens=[model.config.image_token_id],
            **options,
        )

    def _collect(self, mine: dict[int, str], count: int) -> list[str]:
        if self._accelerator is None or self._accelerator.num_processes == 1:
            return [mine[i] for i in range(count)]
        from accelerate.utils import gather_object

        everything = dict(gather_object(list(mine.items())))
        return [everything[i] for i in range(count)]


def conversation(row: PromptRow) -> list[dict[str, Any]]:
    """Chat messages of a row with the picture itself in place of the image placeholder."""
    messages = []
    for message in row.messages:
        content = []
        for part in message["content"]:
            if part["type"] == "image":
                if row.prompt_image_path is None:
                    raise ValueError(f"prompt {row.prompt_id!r} has an image placeholder and no image")
                content.append({"type": "image", "image": load_prompt_image(row.prompt_image_path)})
            else:
                content.append({"type": "text", "text": part["text"]})
        messages.append({"role": message["role"], "content": content})
    return messages
