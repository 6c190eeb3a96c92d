"""The recommendation benchmark of a policy: its completions are measured as a fill."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_mmpc.catalogue import Catalogue
from grpo_mmpc.catalogue.images import find_image
from grpo_mmpc.errors import ImageError
from grpo_mmpc.evaluation.completions import COMPLETIONS_FILE, CompletionLog, complete
from grpo_mmpc.evaluation.evaluator import Evaluator
from grpo_mmpc.recbench.benchmark import run_benchmark
from grpo_mmpc.recbench.cells import VERSION
from grpo_mmpc.recbench.completions import COMPLETED, Completion, encoded_completion
from grpo_mmpc.recbench.data import BenchmarkData, read_benchmark_data
from grpo_mmpc.recbench.engines import run_local
from grpo_mmpc.recbench.masks import widest_masks
from grpo_mmpc.recbench.records import Modality
from grpo_mmpc.recbench.report.findings import completion_findings
from grpo_mmpc.recbench.report.labels import group_title
from grpo_mmpc.recbench.results import read_results
from grpo_mmpc.recbench.settings import RecBenchSection
from grpo_mmpc.rendering.registry import renderer_identity
from grpo_mmpc.rendering.store import render_into
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_row
from grpo_mmpc.types import PromptRow, SamplingConfig
from grpo_mmpc.utils.console import Progress, Say
from grpo_mmpc.utils.distributed import ONE, Ranks
from grpo_mmpc.utils.files import open_own, read_json_lines, read_object, write_json_lines
from grpo_mmpc.utils.hashing import json_digest
from grpo_mmpc.utils.manifest import command_line
from grpo_mmpc.utils.single_out import Failure

if TYPE_CHECKING:
    from grpo_mmpc.rendering.renderer import Renderer
    from grpo_mmpc.rollout.engine import Engine

SUITE = "recbench"
WORK = "recbench-work"
"""Folder of splits, features and trained cells, shared by all policies that are evaluated into one
folder."""
ANSWERS = "answers.jsonl"
"""A policy's completions, or why there are none, which later policies are measured beside; below a
line with the key of the settings."""
_TASKS: dict[Modality, str] = {"text": "image_to_text", "image": "text_to_image"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBenchmark:
    """The benchmark of one recipe; runs on any number of policies, into a folder of evaluations."""

    settings: RecBenchSection
    catalogue: Catalogue
    evaluations: Path
    sampling: Mapping[Modality, SamplingConfig]
    """The decoding of what completes each of them."""
    load_renderer: "Callable[[], Renderer | None]"
    """The renderer of image prompts; None where there is none."""
    renderer: str | None
    """See ``renderer_identity``; known without loading it."""
    trained_on: frozenset[str]
    """Items whose titles and images took part in training."""
    about: Mapping[str, Any]
    """Goes into every ``results.json``."""
    say: Say
    progress: Progress | None = None
    ranks: Ranks = ONE

    def run(self, engine: "Callable[[], AbstractContextManager[Engine]]", *, name: str, policy: str) -> None:
        """Complete and measure with a policy, beside policies measured before. A collective."""
        folder = self.evaluations / name / SUITE
        key = self._key()
        if self.ranks.on_main(lambda: _finished(folder, key=key, policy=policy)):
            self.say(f"{name}: the recommendation benchmark was already run with these settings")
            self.ranks.on_main(lambda: self._tell(folder, name))
            return
        say = self.say if self.ranks.is_main else lambda _: None
        data = read_benchmark_data(self.settings, self.catalogue, say=say)
        # The main process's own masks: those of paper mode differ from process to process.
        wanted = self.ranks.on_main(
            lambda: {name: np.flatnonzero(mask).tolist() for name, mask in widest_masks(self.settings, data).items()}
        )
        if not wanted:
            self.say(
                f"{name}: no recommendation benchmark: items that lose title and image at once (missing: both) cannot "
                "be completed from anything; add text or image to missing"
            )
            return
        prompts = self._prompts(data, wanted)
        logs: list[CompletionLog] = []
        self.ranks.on_main(lambda: logs.append(CompletionLog(folder / COMPLETIONS_FILE)))
        with engine() as opened:
            texts = {
                modality: complete(
                    rows,
                    self.sampling[modality],
                    opened,
                    log=logs[0] if logs else None,
                    policy=policy,
                    ranks=self.ranks,
                    progress=partial(self._shown, f"completing {_TASKS[modality]}"),
                )
                for modality, rows in prompts.items()
            }

        def measure() -> None:
            self._measure(data, prompts, texts, folder=folder, name=name, policy=policy, key=key)
            self._tell(folder, name)

        self.ranks.on_main(measure)

    def _tell(self, folder: Path, name: str) -> None:
        results = read_results(folder)
        for group in results["groups"]:
            for finding in completion_findings(group, f"{COMPLETED}{name}"):
                self.say(f"{name}, {group_title(group)}: {finding.text}")
        for caution in results["cautions"]:
            self.say(f"{name}: {caution}")
        self.say(f"recommendation benchmark of {name}: {folder / 'results.json'}")

    def _measure(
        self,
        data: BenchmarkData,
        prompts: Mapping[Modality, Sequence[PromptRow]],
        texts: Mapping[Modality, Sequence[str | Failure]],
        *,
        folder: Path,
        name: str,
        policy: str,
        key: str,
    ) -> None:
        answers = [
            answer
            for modality, rows in prompts.items()
            for answer in self._answers(modality, rows, texts[modality], folder=folder)
        ]
        write_json_lines(folder / ANSWERS, [{"key": key}, *answers])
        # Cells of earlier policies are there already: measured beside them costs nothing and can be
        # compared.
        files = {
            path.parent.parent.name: path
            for path in sorted(self.evaluations.glob(f"*/{SUITE}/{ANSWERS}"))
            if _key_of(path) == key
        }
        # The model before training first: later completions are compared with the first.
        order = sorted(files, key=lambda one: (one != "base", one == name))
        device = self.settings.training.device or "cpu"  # GPUs belong to the policy
        run_benchmark(
            self.settings,
            self.catalogue,
            data,
            complete=lambda of: [self._completion(of, one, files[one]) for one in order],
            run_cells=lambda work, cells, show: run_local(work, cells, parallel=None, device=device, show=show),
            work=self.evaluations / WORK,
            out=folder,
            about={
                **self.about,
                "key": key,
                "policy": policy,
                "checkpoint": name,
                "cautions": self._cautions(data, name),
            },
            say=self.say,
            progress=self.progress,
        )

    def _prompts(
        self, data: BenchmarkData, wanted: Mapping[Modality, Sequence[int]]
    ) -> dict[Modality, list[PromptRow]]:
        """Return, by modality, prompts of the items that lose it and have both title and image."""
        by_id = {record.item_id: record for record in self.catalogue.records()}
        return {
            modality: [
                prompt_row(self.catalogue.folder, by_id[data.item_ids[row]], TASKS[_TASKS[modality]])
                for row in rows
                if data.titles[row] is not None and data.image_paths[row] is not None
            ]
            for modality, rows in wanted.items()
        }

    def _answers(
        self, modality: Modality, rows: Sequence[PromptRow], completions: Sequence[str | Failure], *, folder: Path
    ) -> list[dict[str, str | None]]:
        task = TASKS[_TASKS[modality]]
        values: dict[str, tuple[str | None, str | None]] = {}
        predictions: dict[str, str | None] = {}
        for row, text in zip(rows, completions, strict=True):
            if isinstance(text, Failure):
                values[row.item_id] = (None, text.reason)
            else:
                prediction = predictions[row.item_id] = task.parse(text).prediction
                values[row.item_id] = (prediction, None if prediction else "malformed completion")
        if modality == "image":
            values |= self._rendered({item_id: text for item_id, text in predictions.items() if text}, folder=folder)
        return [
            {"item_id": item_id, "modality": modality, "value": value, "reason": reason}
            for item_id, (value, reason) in values.items()
        ]

    def _rendered(self, prompts: Mapping[str, str], *, folder: Path) -> dict[str, tuple[str | None, str | None]]:
        renderer = self.load_renderer()
        if renderer is None:
            return dict.fromkeys(prompts, (None, "no renderer: evaluation.renderer is not set"))
        result = render_into(
            folder / "images",
            renderer,
            prompts,
            identity=self.renderer or "",
            progress=partial(self._shown, "rendering"),
        )
        return {
            # Relative: the file may be read from another working directory later.
            item_id: (None, "failed render") if path is None else (os.path.relpath(path, folder), None)
            for item_id, path in result.paths.items()
        }

    def _completion(self, data: BenchmarkData, name: str, path: Path) -> Completion:
        by_item = {(row["modality"], row["item_id"]): row for row in read_json_lines(path, skip_broken=True)[1:]}
        unasked = {"value": None, "reason": "it lacks what it would be completed from"}
        lacking: dict[Modality, list[str | None]] = {}
        values: dict[Modality, list[str | Path | None]] = {}
        for modality in dict.fromkeys(modality for modality, _ in by_item):
            rows = [by_item.get((modality, item_id), unasked) for item_id in data.item_ids]
            values[modality] = [row["value"] for row in rows]
            lacking[modality] = [row["reason"] for row in rows]
        if "image" in values:
            values["image"] = [None if one is None else _inside(path.parent, str(one)) for one in values["image"]]
        return encoded_completion(self.settings, name, values=values, lacking=lacking, progress=self.progress)

    def _cautions(self, data: BenchmarkData, name: str) -> list[str]:
        seen = len(self.trained_on.intersection(data.item_ids)) if name != "base" else 0
        if not seen:
            return []
        return [
            f"{seen:,} of the {len(data.item_ids):,} items took part in this policy's training, which was rewarded for "
            "coming close to their titles: on items it has never seen it may do worse. The base model saw none of them."
        ]

    def _shown(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(what, done, total)

    def _key(self) -> str:
        content = [
            *(VERSION, self.settings.model_dump(mode="json"), self.catalogue.fingerprint, repr(self.sampling)),
            self.renderer if "image" in self.settings.missing else None,
        ]
        return json_digest(content)


def benchmark_policy(
    evaluator: Evaluator, engine: "Callable[[], AbstractContextManager[Engine]]", *, name: str, policy: str
) -> None:
    """Run the recommendation benchmark on a policy, if the recipe asks for it. A collective."""
    recipe = evaluator.config.evaluation
    if recipe.recbench is None:
        return
    catalogue = evaluator.data.catalogue
    PolicyBenchmark(
        settings=RecBenchSection.model_validate(recipe.recbench),
        catalogue=catalogue,
        evaluations=evaluator.evaluations,
        sampling={
            modality: TASKS[task].greedy(recipe.max_tokens, structured=evaluator.config.rollout.structured)
            for modality, task in _TASKS.items()
        },
        load_renderer=evaluator.renderer,
        renderer=None if recipe.renderer is None else renderer_identity(recipe.renderer, recipe.renderer_kwargs),
        trained_on=frozenset(catalogue.column("item_id", evaluator.data.train)),
        about={"command": command_line(), "catalogue": evaluator.config.data.catalogue},
        say=evaluator.say,
        progress=evaluator.progress,
        ranks=evaluator.ranks,
    ).run(engine, name=name, policy=policy)


def _inside(folder: Path, image: str) -> Path | None:
    try:
        return find_image(image, folder=folder)
    except ImageError:  # gone, or no file of this folder
        return None


def _key_of(path: Path) -> str | None:
    try:
        with open_own(path) as file:
            return str(json.loads(file.readline())["key"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _finished(folder: Path, *, key: str, policy: str) -> bool:
    results = read_object(folder / "results.json")
    # Cells that failed are run again; completions and finished cells are kept.
    return bool(results.get("key") == key and results.get("policy") == policy and not results.get("failures"))
