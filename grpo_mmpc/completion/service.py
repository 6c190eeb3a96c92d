"""Completion as a service: items come one by one or in batches, and are asked together.

Requests wait in a queue; the thread that owns the engine takes all that wait, up to a batch of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.completion.asking import NO_RENDERER, ask, no_answer
from grpo_mmpc.completion.judging import Gate, proposal_of
from grpo_mmpc.completion.part import Answer
from grpo_mmpc.completion.plan import Provenance
from grpo_mmpc.completion.proposal import Proposal
from grpo_mmpc.rendering.renderer import render
from grpo_mmpc.rendering.store import render_seed
from grpo_mmpc.tasks import TASKS, Task
from grpo_mmpc.tasks.prompt_rows import filling_task, prompt_row
from grpo_mmpc.types import ProductRecord, PromptRow, SamplingConfig
from grpo_mmpc.utils.api_servers import png_base64
from grpo_mmpc.utils.batch_queue import BatchQueue
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer
    from grpo_mmpc.rollout.engine import Engine

Item = tuple[Path, ProductRecord]
"""The folder that the item's image is in, and an item that one of the tasks fills."""


class CompletionService:
    """Answers items of any thread, in the one that calls ``run``; see ``BatchQueue``."""

    def __init__(
        self,
        provenance: Provenance,
        *,
        engine: "Engine",
        renderer: "Renderer | None",
        gate: Gate,
        tasks: Mapping[str, Task] = TASKS,
    ) -> None:
        self.provenance, self.tasks = provenance, tasks
        self._engine, self._renderer, self._gate = engine, renderer, gate
        queue: BatchQueue[Item, Proposal] = BatchQueue(self._answer, batch_size=lambda: engine.rows_at_once)
        self.submit, self.run = queue.submit, queue.run

    def _answer(self, items: Sequence[Item]) -> list[Proposal]:
        proposals: list[Proposal | None] = [None] * len(items)
        for task in self.tasks.values():
            mine = [i for i, (_, record) in enumerate(items) if filling_task(record, self.tasks.values()) == task]
            answers = self._ask(task, [items[i] for i in mine]) if mine else []
            for i, answer in zip(mine, answers, strict=True):
                proposal = proposal_of(self.provenance, task, answer, is_asked=answer.reason != NO_RENDERER)
                proposals[i] = self._gate.judge(proposal, items[i][1], answer)
        return [proposal for proposal in proposals if proposal is not None]

    def _ask(self, task: Task, items: Sequence[Item]) -> list[Answer]:
        if task.target == "image" and self._renderer is None:
            none = no_answer(task, NO_RENDERER, "start the server with evaluation.renderer=...")
            return [replace(none, item_id=record.item_id) for _, record in items]
        rows = [prompt_row(folder, record, task) for folder, record in items]
        answers = ask(
            task,
            rows,
            sampling=SamplingConfig(**self.provenance.sampling[task.name]),
            samples=self.provenance.samples if task.target != "image" else 0,
            generate=lambda _, sampling: self._generate(rows, sampling),
        )
        return self._render(answers) if task.target == "image" else answers

    def _generate(self, rows: Sequence[PromptRow], sampling: SamplingConfig) -> list[str | Failure]:
        size = self._engine.rows_at_once
        pieces = (rows[start : start + size] for start in range(0, len(rows), size))
        return [completion for piece in pieces for completion in self._engine.generate(piece, sampling)]

    def _render(self, answers: Sequence[Answer]) -> list[Answer]:
        """Return the answers with their images, as base64 of a PNG."""
        assert self._renderer is not None
        prompts = {i: answer.answer for i, answer in enumerate(answers) if answer.answer is not None}
        seeds = [render_seed(answers[i].item_id) for i in prompts]
        rendered = list(answers)
        for i, image in zip(prompts, render(self._renderer, list(prompts.values()), seeds=seeds), strict=True):
            if isinstance(image, Failure):
                rendered[i] = replace(answers[i], reason="failed render", detail=image.reason)
            else:
                rendered[i] = replace(answers[i], value=png_base64(image, compress_level=6))
        return rendered
