"""The worker of a completion: one engine and one renderer that fill part after part."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_mmpc.completion.asking import NO_RENDERER, ask, no_answer
from grpo_mmpc.completion.part import GENERATED, NOT_COMPLETED, Answer, Part
from grpo_mmpc.completion.plan import Gap, Plan, completing_tasks
from grpo_mmpc.config import RunConfig
from grpo_mmpc.evaluation.completions import CompletionLog, complete, completion_key
from grpo_mmpc.rendering.registry import load_renderer
from grpo_mmpc.rendering.store import render_into
from grpo_mmpc.rollout.engines import LateEngine
from grpo_mmpc.tasks import Task
from grpo_mmpc.tasks.prompt_rows import prompt_row
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.console import Say, quiet_when_redirected
from grpo_mmpc.utils.hashing import hex_digest
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer
    from grpo_mmpc.rollout.engine import Engine

Shown = Callable[[int], None]
"""Called with the number of gaps that are filled."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The parts that one worker fills, with all it needs to know, on any machine."""

    config: RunConfig
    checkpoint: Path | None
    out: Path
    plan: Plan
    parts: Sequence[Part]
    number: int
    working_directory: Path

    @property
    def num_gaps(self) -> int:
        """The gaps of its parts."""
        return sum(part.progress()[0] for part in self.parts)


def fill_shares(shares: Sequence[Share], say: Say = lambda text: None, shown: Shown = lambda done: None) -> int:
    """Fill the parts of shares that are not done, by one policy; return how many that were.

    Raises:
        GrpoMmpcError: The policy or the renderer cannot be loaded, or fails on all items alike.
    """
    first = shares[0]
    os.chdir(first.working_directory)  # of the command: a worker on another machine starts elsewhere
    quiet_when_redirected()
    # Beside the trainer's runs nothing is written: a server's log belongs to the completion.
    config = first.config.model_copy(update={"run_dir": str(first.out / f".worker-{first.number}")})
    filled = 0
    with ExitStack() as stack:
        engine = LateEngine(config, checkpoint=first.checkpoint, stack=stack, say=say)
        gaps = 0
        for share in shares:
            worker = _Worker(config=config, plan=share.plan, engine=engine, shown=shown, filled=gaps)
            gaps += share.num_gaps
            for part in share.parts:
                with part.alone():
                    if not part.is_done():
                        worker.fill(part)
                        filled += 1
    return filled


@dataclass(kw_only=True)
class _Worker:
    config: RunConfig
    plan: Plan
    engine: "Engine"
    shown: Shown
    filled: int
    """Gaps of all parts so far, those of earlier shares too."""

    @cached_property
    def renderer(self) -> "Renderer":
        """The renderer of the recipe, loaded at its first use."""
        settings = self.config.evaluation
        assert settings.renderer is not None
        return load_renderer(settings.renderer, **settings.renderer_kwargs)

    def fill(self, part: Part) -> None:
        """Answer all gaps of a part, those that were answered before without asking again."""
        part.clean()
        gaps, digest = part.gaps()
        wanted = {gap.record.item_id for gap in gaps}
        former = [one for one in [*part.former(), part] if one.folder.is_dir()]
        before = {line.item_id: line for one in former for line in one.answers() if line.item_id in wanted}
        log = CompletionLog(part.log)
        answers = {gap.record.item_id: _taken(gap) for gap in gaps if gap.beside is not None}
        for task in completing_tasks(self.config).values():
            mine = [gap for gap in gaps if gap.task == task.name and gap.beside is None]
            if mine and task.target == "image" and self.plan.renderer is None:
                none = no_answer(task, NO_RENDERER, "set evaluation.renderer")
                answers |= {gap.record.item_id: replace(none, item_id=gap.record.item_id) for gap in mine}
            elif mine:
                given = self._ask(task, mine, before, log)
                answers |= self._render(part, given, former) if task.target == "image" else given
            if mine:  # a bar before there is one would stand beside that of the weights
                self.filled += len(mine)
                self.shown(self.filled)
        part.write([answers[gap.record.item_id] for gap in gaps], gaps=digest)

    def _ask(
        self, task: Task, gaps: Sequence[Gap], before: Mapping[str, Answer], log: CompletionLog
    ) -> dict[str, Answer]:
        sampling = SamplingConfig(**self.plan.sampling[task.name])
        rows = [prompt_row(Path(self.plan.catalogue), gap.record, task) for gap in gaps]
        version = self.plan.prompts[task.name]
        samples = self.plan.samples if task.target != "image" else 0
        conditions = f"{version}+{samples}" if samples else version
        keys = {
            row.item_id: hex_digest(completion_key(row, sampling, policy=self.plan.policy), conditions) for row in rows
        }
        answers = {
            item_id: before[item_id]
            for item_id, key in keys.items()
            if item_id in before and before[item_id].key == key and before[item_id].reason != NOT_COMPLETED
        }
        asked = [row for row in rows if row.item_id not in answers]
        done_before = self.filled + len(answers)

        def progress(turn: int, done: int, _: int) -> None:
            if task.target != "image":  # which is still to be rendered
                self.shown(done_before + (turn * len(asked) + done) // (samples + 1))

        def generate(turn: int, one: SamplingConfig) -> Sequence[str | Failure]:
            policy, show = self.plan.policy, partial(progress, turn)
            return complete(asked, one, self.engine, log=log, policy=policy, progress=show)

        for given in ask(task, asked, sampling=sampling, samples=samples, generate=generate):
            answers[given.item_id] = replace(given, key=keys[given.item_id])
        return answers

    def _render(self, part: Part, answers: Mapping[str, Answer], former: Sequence[Part]) -> dict[str, Answer]:
        prompts = {item_id: given.answer for item_id, given in answers.items() if given.answer is not None}
        if not prompts:
            return dict(answers)
        assert self.plan.renderer is not None
        rendered = render_into(
            part.images,
            self.renderer,
            prompts,
            identity=self.plan.renderer,
            earlier=[one.images for one in former if one != part],
            progress=lambda done, _: self.shown(self.filled + done),
        )
        images: dict[str, Answer] = {}
        for item_id, path in rendered.paths.items():
            if path is None:
                failed = rendered.records[item_id].reason or ""
                images[item_id] = replace(answers[item_id], value=None, reason="failed render", detail=failed)
            else:
                value = f"{GENERATED}/{part.name}/{path.name}"
                images[item_id] = replace(answers[item_id], value=value, reason="", detail="")
        return {**answers, **images}


def _taken(gap: Gap) -> Answer:
    assert gap.beside is not None
    return Answer(item_id=gap.record.item_id, field="title", key="", answer=None, **asdict(gap.beside))
