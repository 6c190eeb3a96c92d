"""The model card of an exported policy: what it is, what changed, how to use it, its limits."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_mmpc.evaluation.records import Comparison, TaskComparison
from grpo_mmpc.evaluation.run_folder import RunFolder
from grpo_mmpc.reports.common.difference import difference_of
from grpo_mmpc.reports.common.labels import metric_label, number, plural, task_label
from grpo_mmpc.reports.run.findings import findings
from grpo_mmpc.rewards.troubles import signal_troubles
from grpo_mmpc.rollout.vllm.arguments import served_rank, template_options
from grpo_mmpc.tasks.task import Task
from grpo_mmpc.utils.sections import section

_ONE_IMAGE = '{"image": 1}'
_LOADING = """\
from transformers import AutoModelForImageTextToText, AutoProcessor
{peft}
model = AutoModelForImageTextToText.from_pretrained("{model}", dtype="{dtype}")
{adapter}processor = AutoProcessor.from_pretrained("{processor}", padding_side="left")
"""
_GENERATING = """\
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"{options}
)
output = model.generate(**inputs, do_sample=False, max_new_tokens={max_tokens})
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What a folder holds, as its card has to say it."""

    place: str
    """The folder, or the repository on the hub."""
    name: str
    base: str
    """As PEFT, Transformers and vLLM find it."""
    dtype: str
    """What the policy was trained and evaluated in, ``auto`` for that of the base model's files."""
    processor_options: Mapping[str, Any]
    """What the processor was loaded with, such as limits of pixels."""
    template_options: Mapping[str, Any]
    """What its chat template was given in training beside the messages."""
    rank: int | None
    """The greatest of the adapter; None for a whole model."""
    tasks: Sequence[tuple[Task, int]]
    """Those that it was trained on, with the most new tokens of an answer."""
    quantised: str | None
    """How the base model was quantised in training, where the merged one is not."""
    difference: float | None
    """The greatest difference in log-probability that merging made on a test prompt."""


def model_card(run: RunFolder, exported: Exported, *, comparison: Comparison | None) -> str:
    """Return the card as Markdown with the hub's metadata before it."""
    kind = "model" if exported.rank is None else "LoRA adapter"
    method = "SFT" if run.config.get("method") == "sft" else "GRPO"
    written = " and ".join(f"the {task.target}" for task, _ in exported.tasks)
    parts = [
        _metadata(exported, method=method),
        f"# {exported.name}",
        f"A {kind} of `{exported.base}`, aligned by {method} to complete product catalogues: it writes {written} of "
        "a product as JSON.",
        *(f"> {sentence}" for sentence in signal_troubles(run.steps, run.weights).values()),
        "## Before and after",
        *_results(comparison),
        "## Use",
        *_use(exported),
        "## Training",
        *_training(run),
        "## Limits",
        *_limits(exported, comparison),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(exported: Exported, *, method: str) -> str:
    # heavy: imported on use
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=None if Path(exported.base).is_dir() else exported.base,
        library_name="transformers" if exported.rank is None else "peft",
        pipeline_tag="image-text-to-text",
        tags=[method.lower(), "trl", "grpo-mmpc", *(["lora"] if exported.rank is not None else [])],
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return ["This checkpoint was not evaluated beside the base model."]
    parts = []
    for task in comparison.tasks:
        products = "" if task.groups is None else f" of {plural(task.groups, 'product')}, resampled as wholes"
        parts += [
            f"**{task_label(task.task)}**, {plural(task.n, 'held-out item')}{products}:",
            _table(task, comparison),
        ]
    return [
        *parts,
        f"Intervals: {comparison.percent} bootstrap of the paired difference. Verdicts are corrected for all metrics "
        "of a task. \\* = was a reward of the training.",
    ]


def _table(task: TaskComparison, comparison: Comparison) -> str:
    rows = [
        ["Metric", "Before", "After", "Change", f"{comparison.percent} interval", "Verdict"],
        ["---", "---:", "---:", "---:", "---", "---"],
    ]
    for name, cell in task.metrics.items():
        if cell.n_scored:
            difference = difference_of(cell)
            star = " \\*" if cell.was_reward else ""
            rows.append(
                [
                    f"{metric_label(name)}{star}",
                    *(number(value) for value in (cell.before, cell.after)),
                    *(difference.change, difference.interval_text, difference.verdict_text),
                ]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _use(exported: Exported) -> list[str]:
    is_adapter = exported.rank is not None
    served = ["vllm", "serve", exported.base if is_adapter else exported.place, "--limit-mm-per-prompt", _ONE_IMAGE]
    served += ["--dtype", exported.dtype]
    if exported.processor_options:
        served += ["--mm-processor-kwargs", json.dumps(dict(exported.processor_options))]
    if template := template_options(exported.template_options):
        served += ["--default-chat-template-kwargs", json.dumps(template)]
    if exported.rank is not None:
        served += ["--enable-lora", "--max-lora-rank", str(served_rank(exported.rank))]
        served += ["--lora-modules", f"{exported.name}={exported.place}"]
    loading = _LOADING.format(
        peft="from peft import PeftModel\n" if is_adapter else "",
        model=exported.base if is_adapter else exported.place,
        adapter=f'model = PeftModel.from_pretrained(model, "{exported.place}")\n' if is_adapter else "",
        processor=exported.place,
        dtype=exported.dtype,
    )
    options = "".join(f", {name}={value!r}" for name, value in exported.template_options.items())
    asked = [
        f"{task_label(task.name)}, greedily decoded as in training's evaluations:\n\n```python\n"
        f"messages = {_messages(task)}\n{_GENERATING.format(max_tokens=max_tokens, options=options)}```"
        for task, max_tokens in exported.tasks
    ]
    return [f"```python\n{loading}```", *asked, "Served with the API of OpenAI:", f"```bash\n{shlex.join(served)}\n```"]


def _messages(task: Task) -> str:
    """Return the chat messages of a prompt as Python."""
    shown: dict[str, Any] = {name: f"the product's {name}" for name in task.source if name != "images"}
    asked = task.messages(**shown)
    for message in asked:
        message["content"] = [
            {"type": "image", "image": "photo.jpg"} if part["type"] == "image" else part for part in message["content"]
        ]
    return json.dumps(asked, indent=1, ensure_ascii=False)


def _training(run: RunFolder) -> list[str]:
    data = section(run.manifest, "data")
    facts = {
        "Recipe": "`recipe.yaml` in this folder",
        "Rewards": ", ".join(f"{reward.name} {reward.weight:g}" for reward in run.mix if reward.weight > 0),
        "Steps": run.steps[-1]["step"] if run.steps else None,
        "Training items": data.get("train_items"),
        "Catalogue": f"fingerprint `{run.catalogue_fingerprint}`" if run.catalogue_fingerprint else None,
        "Seed": run.manifest.get("seed"),
        "Versions": ", ".join(f"{name} {version}" for name, version in section(run.manifest, "versions").items()),
    }
    return ["\n".join(f"- {name}: {value}" for name, value in facts.items() if value not in (None, ""))]


def _limits(exported: Exported, comparison: Comparison | None) -> list[str]:
    said = ["It was measured on held-out items of the catalogue that it was trained on; on others nothing is known."]
    for task in comparison.tasks if comparison else []:
        cautions = [finding for finding in findings(task, label=metric_label) if finding.kind != "supported"]
        said += [f"{task_label(task.task)}: {finding.text}" for finding in cautions]
    if exported.quantised:
        said.append(
            f"In training the base model was quantised ({exported.quantised}); merged into weights that are not, the "
            "adapter meets slightly other values."
        )
    if exported.difference is not None:
        said.append(f"Merging changed log-probabilities by at most {exported.difference:.2g} on a test prompt.")
    if Path(exported.base).is_dir() and exported.rank is not None:
        said.append(
            f"The base model is a folder of the machine that wrote this card, `{exported.base}`; on others put that "
            "model's place into `adapter_config.json`, or export with `--merged`."
        )
    return ["\n".join(f"- {sentence}" for sentence in said)]
