"""Measure a nano policy on items that no nano asset was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.nano.texts import read_attributes
from grpo_mmpc.nano.vocabulary import KINDS
from grpo_mmpc.tasks import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Task
from grpo_mmpc.utils.files import without_nan, write_json

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

    from grpo_mmpc.nano.items import NanoItem

GIST_OPENINGS: Mapping[str, tuple[str, ...]] = {
    "image_to_text": ("Stylish", "Beautiful"),
    "text_to_image": ("photo",),
}
"""First words of answers that keep the gist only; other answers are in the seller's style."""

_Pair = tuple[Mapping[str, str], Mapping[str, str]]


def complete(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    task: Task,
    *,
    images: Sequence["Image.Image"] | None = None,
    titles: Sequence[str] | None = None,
    temperature: float = 0.0,
    seller_style: bool = False,
    max_new_tokens: int = 64,
) -> list[str]:
    """Return completions of one task, one per image (image to text) or title (text to image).

    Args:
        model: The policy.
        processor: Its processor.
        task: The task.
        images: Shown to the policy.
        titles: Shown to the policy.
        temperature: 0 is greedy; otherwise torch's global generator is used.
        seller_style: Start the answer for the policy and forbid the words that open a gist.
        max_new_tokens: Upper limit.
    """
    import torch  # heavy: imported on use

    tokenizer = processor.tokenizer
    shown: list[dict[str, Any]] = [{"image": image} for image in images or ()] or [{"title": t} for t in titles or ()]
    completions: list[str] = []
    opening = task.answer("\0").split("\\u0000")[0] if seller_style else ""
    sampling: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        sampling |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    if seller_style:
        sampling["begin_suppress_tokens"] = tokenizer.convert_tokens_to_ids(list(GIST_OPENINGS[task.name]))
    for start in range(0, len(shown), 100):
        chunk = shown[start : start + 100]
        messages = [task.messages(title=entry.get("title")) for entry in chunk]
        prompts = [
            processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False) + opening
            for message in messages
        ]
        batch = {"images": [[entry["image"]] for entry in chunk]} if images else {}
        inputs = processor(text=prompts, add_special_tokens=False, padding=True, return_tensors="pt", **batch)
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
        tails = output[:, inputs["input_ids"].shape[1] :]
        completions += [opening + text for text in tokenizer.batch_decode(tails, skip_special_tokens=True)]
    return completions


def measure_policy(folder: Path, items: Sequence["NanoItem"], *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the quality table of a saved policy: task -> measure -> value in [0, 1].

    ``greedy_*`` come from greedy completions, ``sampled_seller_share`` from sampling at temperature
    1, ``seller_KIND`` from greedy completions held to the seller's style: the share of items whose
    KIND is named and right among the items that have one. ``greedy_KIND_right`` is the share that
    is right among the greedy completions that name KIND.
    """
    import torch  # heavy: imported on use

    from grpo_mmpc.nano.drawing import draw
    from nano_weights.policy import load_policy

    model, processor = load_policy(folder)
    table: dict[str, dict[str, float]] = {}
    for task in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
        shown: dict[str, Any] = (
            {"images": [draw(item.attributes, jitter=item.jitter) for item in items]}
            if task is IMAGE_TO_TEXT
            else {"titles": [item.title for item in items]}
        )
        truths = [item.attributes for item in items]
        greedy = complete(model, processor, task, **shown)
        torch.manual_seed(seed)
        sampled = complete(model, processor, task, **shown, temperature=1.0)
        seller = complete(model, processor, task, **shown, seller_style=True)
        sellers = [(t, text) for t, text in zip(truths, sampled, strict=True) if _is_seller(task, text)]
        row = {
            "greedy_json": _mean(task.parse(text).prediction is not None for text in greedy),
            "greedy_seller_share": _mean(_is_seller(task, text) for text in greedy),
            "sampled_json": _mean(task.parse(text).prediction is not None for text in sampled),
            "sampled_seller_share": len(sellers) / len(items),
        }
        pairs, seller_pairs = _pairs(task, truths, greedy), _pairs(task, truths, seller)
        sampled_pairs = _pairs(task, [truth for truth, _ in sellers], [text for _, text in sellers])
        for kind in KINDS:
            row[f"greedy_{kind}"] = _recall(kind, pairs)
            row[f"greedy_{kind}_right"] = _mean(
                truth.get(kind) == named[kind] for truth, named in pairs if kind in named
            )
            row[f"seller_{kind}"] = _recall(kind, seller_pairs)
            row[f"sampled_seller_{kind}"] = _recall(kind, sampled_pairs)
        table[task.name] = row
    return table


def format_table(table: Mapping[str, Mapping[str, float]]) -> str:
    """Format the quality table as text, one line per measure."""
    measures = list(dict.fromkeys(measure for row in table.values() for measure in row))
    lines = ["measure".ljust(28) + "".join(name.rjust(16) for name in table)]
    for measure in measures:
        cells = [f"{row[measure]:.3f}" if measure in row else "" for row in table.values()]
        lines.append(measure.ljust(28) + "".join(cell.rjust(16) for cell in cells))
    return "\n".join(lines)


def write_quality(folder: Path, table: Mapping[str, Mapping[str, float]]) -> None:
    """Store the table beside the weights as ``quality.json``."""
    rounded = {name: {measure: round(value, 4) for measure, value in row.items()} for name, row in table.items()}
    write_json(folder / "quality.json", without_nan(rounded), indent=2)


def _is_seller(task: Task, completion: str) -> bool:
    prediction = task.parse(completion).prediction
    return prediction is not None and prediction.split()[0] not in GIST_OPENINGS[task.name]


def _pairs(task: Task, truths: Sequence[Mapping[str, str]], completions: Sequence[str]) -> list[_Pair]:
    """Pair the true attributes of each item with those that its completion names."""
    named = (read_attributes(task.parse(text).prediction or "") for text in completions)
    return list(zip(truths, named, strict=True))


def _recall(kind: str, pairs: Sequence[_Pair]) -> float:
    return _mean(named.get(kind) == truth[kind] for truth, named in pairs if kind in truth)


def _mean(values: Any) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else float("nan")
