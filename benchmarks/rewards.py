"""Rewards of a GRPO-like stream beside per-sample functions and beside bert-score's own batches.

What a real run waits for them.

    python benchmarks/rewards.py            # about five minutes on two cores
    python benchmarks/rewards.py --quick    # under a minute, noisier

The stream is what the nano policy really says before training: 64 prompts x 8 completions a step,
sampled anew in each of 3 epochs in which the same prompts come back, so it holds as many duplicates
as the policy makes. Every repeat has prompts of its own and starts with nothing encoded; the disk
cache is off. Both sides run in this process, on the same models (MiniLM, the nano CLIP) and
threads, and take turns step by step.

``per_sample``: the mix of recipes/nano.yaml with its monitors through ``RewardMix``, against
functions that take one completion after the other (nltk, rouge-score, one ``BERTScorer``, one CLIP,
the image opened each time). These score a share of each step, whose time is scaled to all of it.
``batched_bert_score``: the bertscore reward alone against ``BERTScorer.score`` on the step's whole
batch, the scorer kept. ``disk_references``, ``disk_images``: encodings of the training items read
from the disk cache of an earlier run, against encoding them again.
``wait_share``: share of the step time that ``grpo-mmpc train recipes/nano.yaml`` spends waiting for
rewards, from the ``metrics.jsonl`` of a short run in a process of its own; the first step, in which
encoders are loaded, is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Python puts a script's folder first on the path, where this file would hide the package of
# rewards.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from grpo_mmpc.utils.cpu_compat import ensure_importable  # noqa: E402

ensure_importable()  # before anything imports transformers' models

import torch  # noqa: E402

from grpo_mmpc.catalogue.run_data import RunData  # noqa: E402
from grpo_mmpc.config import RunConfig  # noqa: E402
from grpo_mmpc.encoders import loading, open_image  # noqa: E402
from grpo_mmpc.encoders.bertscore import BertScoreEncoder  # noqa: E402
from grpo_mmpc.encoders.clip import ClipEncoder  # noqa: E402
from grpo_mmpc.encoders.store import LIMIT_VARIABLE, EncodingStore  # noqa: E402
from grpo_mmpc.metrics.text import token_f1  # noqa: E402
from grpo_mmpc.models.policy import load_policy  # noqa: E402
from grpo_mmpc.models.processor import load_processor  # noqa: E402
from grpo_mmpc.pipelines.recipe import load_recipe  # noqa: E402
from grpo_mmpc.rewards import RewardMix  # noqa: E402
from grpo_mmpc.rollout.transformers_engine import TransformersEngine  # noqa: E402
from grpo_mmpc.tasks import IMAGE_TO_TEXT  # noqa: E402
from grpo_mmpc.types import PromptRow, SamplingConfig  # noqa: E402
from grpo_mmpc.utils.manifest import environment  # noqa: E402
from grpo_mmpc.utils.model_paths import resolve_model  # noqa: E402

ROOT = Path(__file__).parents[1]
LAYERS = 6
GROUP = 8
EPOCHS = 3
TOLERANCE = 1e-4

Rewards = dict[str, list[float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Completions of one step, with the row of each."""

    rows: list[PromptRow]
    completions: list[str]

    def score(self, mix: RewardMix) -> Rewards:
        """Raw rewards of a mix, scored as the trainer does."""
        names = ("prompt_id", "item_id", "category", "task", "reference", "image_path", "title", "attributes")
        columns = {name: [getattr(row, name) for row in self.rows] for name in names}
        scored = mix.score(prompts=[row.messages for row in self.rows], completions=self.completions, **columns)
        return scored.raw


def sample_stream(config: RunConfig, rows: list[PromptRow], *, prompts: int, repeats: int) -> list[list[Step]]:
    """Epochs of each repeat: what the untrained policy says to prompts of the repeat's own."""
    policy, processor = load_policy(config.model), load_processor(config.model)
    engine = TransformersEngine(policy, processor, batch_size=64)
    length, temperature = config.trainer["max_completion_length"], config.trainer["temperature"]
    stream = []
    for repeat in range(repeats):
        chosen = [row for row in rows[repeat * prompts : (repeat + 1) * prompts] for _ in range(GROUP)]
        steps = []
        for epoch in range(EPOCHS):
            completions: list[str] = []
            for start in range(0, len(chosen), 64):  # the engine's seed is that of each batch
                seed = (repeat * EPOCHS + epoch) * 10_000 + start
                sampling = SamplingConfig(max_tokens=length, temperature=temperature, seed=seed)
                completions += engine.generate(chosen[start : start + 64], sampling)
            steps.append(Step(rows=chosen, completions=completions))
        stream.append(steps)
        print(f"sampled repeat {repeat + 1} of {repeats}", flush=True)
    return stream


# ---- one completion after the other ----


@cache
def bert_scorer() -> Any:
    """The bert-score package's scorer, loaded once."""
    from bert_score import BERTScorer

    return BERTScorer(model_type=resolve_model("nano:minilm"), num_layers=LAYERS, device="cpu")


@cache
def clip() -> tuple[Any, Any]:
    """CLIP and its processor, loaded once."""
    from transformers import AutoProcessor, CLIPModel

    folder = resolve_model("nano:clip")
    return CLIPModel.from_pretrained(folder).float().eval(), AutoProcessor.from_pretrained(folder)


@cache
def text_tools() -> tuple[Any, Any, Any]:
    """The tokenizer of sacrebleu, nltk's smoothing, rouge-score's scorer."""
    from nltk.translate.bleu_score import SmoothingFunction
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a(), SmoothingFunction().method3, RougeScorer(["rougeL"])


def score_one(completion: str, row: PromptRow) -> dict[str, float]:
    """Score one completion by the field's packages, the way a first script does."""
    from nltk.translate.bleu_score import sentence_bleu

    parsed = IMAGE_TO_TEXT.parse(completion)
    title, truth = parsed.prediction, str(row.reference)
    form = {"json": 1.0, "embedded": 0.5, "malformed": 0.0}[parsed.format]
    if title is None:
        worst = dict.fromkeys(("bleu", "bertscore", "rouge_l", "token_f1"), 0.0)
        return {**worst, "clip_similarity": -1.0, "json_format": form}
    tokenize, smoothing, rouge = text_tools()
    expected, predicted = tokenize(truth).split(), tokenize(title).split()
    order = min(4, len(expected))
    model, processor = clip()
    inputs = processor(text=[title], images=open_image(row.image_path), return_tensors="pt", truncation=True)
    with torch.no_grad():
        output = model(**inputs)
    return {
        "bleu": sentence_bleu([expected], predicted, weights=[1 / order] * order, smoothing_function=smoothing),
        "bertscore": min(1.0, max(0.0, bert_scorer().score([title], [truth])[2].item())),
        "clip_similarity": torch.nn.functional.cosine_similarity(output.text_embeds, output.image_embeds).item(),
        "json_format": form,
        "rouge_l": rouge.score(truth, title)["rougeL"].fmeasure,
        "token_f1": token_f1(prediction=title, reference=truth),
    }


# ---- comparisons ----


def fresh_mix(config: RunConfig, warm_up: Step, *names: str) -> RewardMix:
    """Build the recipe's mix, or some of its rewards, with loaded encoders and empty caches."""
    loading._slots.clear()
    mix = RewardMix.from_specs([spec for spec in config.rewards.mix if not names or spec.name in names])
    warm_up.score(mix)
    return mix


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what was computed."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def gap(ours: float | None, theirs: float) -> float:
    """Distance of two rewards; infinite where we left a completion unscored."""
    return float("inf") if ours is None else abs(ours - theirs)


def against_per_sample(
    config: RunConfig, stream: list[list[Step]], warm_up: Step, *, share: int
) -> tuple[list[tuple[float, float]], dict[str, float]]:
    """Seconds of both sides for each repeat's whole stream, and the largest difference by reward.

    Args:
        config: The recipe.
        stream: Steps of each repeat.
        warm_up: A step of other prompts.
        share: One of how many completions the per-sample side scores.
    """
    worst: dict[str, float] = {}
    seconds = []
    score_one(warm_up.completions[0], warm_up.rows[0])
    for steps in stream:
        mix = fresh_mix(config, warm_up)
        ours = theirs = 0.0
        for offset, step in enumerate(steps):
            spent, rewards = timed(lambda step=step, mix=mix: step.score(mix))
            ours += spent
            chosen = range(offset % share, len(step.rows), share)
            spent, expected = timed(
                lambda step=step, c=chosen: [score_one(step.completions[i], step.rows[i]) for i in c]
            )
            theirs += spent * len(step.rows) / len(chosen)
            for i, values in zip(chosen, expected, strict=True):
                for name, value in values.items():
                    worst[name] = max(worst.get(name, 0.0), gap(rewards[name][i], value))
        mix.close()
        seconds.append((ours, theirs))
        print(f"per_sample: {ours:.2f} s against {theirs:.2f} s", flush=True)
    return seconds, worst


def against_bert_score(
    config: RunConfig, stream: list[list[Step]], warm_up: Step
) -> tuple[list[tuple[float, float]], float]:
    """Time the bertscore reward and bert-score's batches on each repeat's whole stream.

    bert-score lets padding take part in the matching where all similarities of a token are
    negative, so a pair's score can depend on the pairs beside it; where the two differ, bert-score
    alone with the pair decides.
    """
    seconds, worst = [], 0.0
    bert_scorer().score(["a bag"], ["a red bag"])
    for steps in stream:
        mix = fresh_mix(config, warm_up, "bertscore")
        ours = theirs = 0.0
        for step in steps:
            spent, rewards = timed(lambda step=step, mix=mix: step.score(mix)["bertscore"])
            ours += spent
            titles = [IMAGE_TO_TEXT.parse(completion).prediction for completion in step.completions]
            rows = [i for i, title in enumerate(titles) if title is not None]
            said, true = [titles[i] for i in rows], [str(step.rows[i].reference) for i in rows]
            spent, scores = timed(lambda said=said, true=true: bert_scorer().score(said, true)[2].tolist())
            theirs += spent
            for i, score in zip(rows, scores, strict=True):
                if gap(rewards[i], min(1.0, max(0.0, score))) > TOLERANCE:
                    score = bert_scorer().score([titles[i]], [str(step.rows[i].reference)])[2].item()
                worst = max(worst, gap(rewards[i], min(1.0, max(0.0, score))))
        mix.close()
        seconds.append((ours, theirs))
        print(f"batched_bert_score: {ours:.2f} s against {theirs:.2f} s", flush=True)
    return seconds, worst


def from_disk(
    rows: list[PromptRow], folder: Path, *, repeats: int
) -> tuple[dict[str, list[tuple[float, float]]], bool]:
    """Time encodings read from disk and computed again, and check that they are the same."""
    titles, images = [str(row.reference) for row in rows], [row.image_path for row in rows]
    seconds: dict[str, list[tuple[float, float]]] = {"disk_references": [], "disk_images": []}
    same = True
    for repeat in range(repeats):
        path = folder / f"encodings-{repeat}.sqlite"

        def bert(path: Path = path) -> Any:
            return BertScoreEncoder(
                model="nano:minilm", num_layers=LAYERS, store=EncodingStore(path=path, max_bytes=2**40)
            )

        def vision(path: Path = path) -> Any:
            return ClipEncoder(model="nano:clip", store=EncodingStore(path=path, max_bytes=2**40))

        first, second = bert(), bert()
        again, _ = timed(lambda e=first: e.encode_references(titles))
        read, _ = timed(lambda e=second: e.encode_references(titles))
        seconds["disk_references"].append((read, again))
        same &= first.score(predictions=titles[:99], references=titles[1:100]) == second.score(
            predictions=titles[:99], references=titles[1:100]
        )
        first, second = vision(), vision()
        again, expected = timed(lambda e=first: e.embed_images(images))
        read, found = timed(lambda e=second: e.embed_images(images))
        seconds["disk_images"].append((read, again))
        same &= bool(torch.equal(expected, found))
    return seconds, same


def wait_share(folder: Path, *, steps: int) -> float:
    """Share of a real run's step time spent waiting for rewards, without the first step."""
    overrides = {
        "run_dir": str(folder / "run"),
        "tasks": "[image_to_text]",
        "trainer.num_generations": 8,
        "trainer.max_steps": steps,
        "trainer.save_strategy": "no",
        "evaluation.before": "false",
        "evaluation.checkpoints": "false",
        "evaluation.max_items": 1,
        "evaluation.controls": "[]",
        "report.enabled": "false",
    }
    command = [sys.executable, "-m", "grpo_mmpc", "train", str(ROOT / "recipes/nano.yaml")]
    command += [f"{key}={value}" for key, value in overrides.items()]
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=folder)
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text("utf-8").splitlines()]
    measured = [line for line in lines if "step_time" in line][1:]
    return sum(line["reward_time/wait"] for line in measured) / sum(line["step_time"] for line in measured)


def _result(seconds: list[tuple[float, float]]) -> dict[str, Any]:
    ours, theirs = (statistics.median(side) for side in zip(*seconds, strict=True))
    ratio = statistics.median(slow / fast for fast, slow in seconds)
    return {"ours": round(ours, 3), "baseline": round(theirs, 3), "unit": "s", "ratio": round(ratio, 2)}


def main() -> None:
    """Measure everything and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 prompts a step, one repeat, two training steps")
    parser.add_argument("--repeats", type=int, default=3, help="streams, each with prompts of its own (%(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="prompts a step (%(default)s)")
    parser.add_argument(
        "--share", type=int, default=8, help="per-sample functions score one in this many (%(default)s)"
    )
    parser.add_argument("--references", type=int, default=3000, help="items of the disk comparison (%(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="training steps of the real run (%(default)s)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.prompts, arguments.references, arguments.steps = 1, 8, 100, 2
    os.environ[LIMIT_VARIABLE] = "0"
    config = load_recipe([str(ROOT / "recipes/nano.yaml")])
    rows = RunData(config).training_rows("image_to_text", at_most=max(4 + arguments.repeats * arguments.prompts, 3000))
    warm_up = Step(rows=rows[-4:], completions=['{"title": "warm up"}', "no title"] * 2)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        share = wait_share(Path(scratch), steps=arguments.steps)
        stream = sample_stream(config, rows, prompts=arguments.prompts, repeats=arguments.repeats)
        seconds, worst = against_per_sample(config, stream, warm_up, share=arguments.share)
        results["per_sample"] = _result(seconds)
        seconds, worst_bert = against_bert_score(config, stream, warm_up)
        results["batched_bert_score"] = _result(seconds)
        disk, same = from_disk(rows[: arguments.references], Path(scratch), repeats=arguments.repeats)
        results |= {name: _result(seconds) for name, seconds in disk.items()}
    said = [list(zip(step.completions, (row.item_id for row in step.rows), strict=True)) for s in stream for step in s]
    epochs = [[pair for step in steps for pair in zip(step.completions, step.rows, strict=True)] for steps in stream]
    figures = {
        "wait_share": round(share, 4),
        "completions": sum(map(len, said)),
        "new_completions_of_a_step": round(sum(len(set(pairs)) for pairs in said) / sum(map(len, said)), 3),
        "new_completions_of_all_epochs": round(
            sum(len({(c, row.item_id) for c, row in pairs}) for pairs in epochs) / sum(map(len, epochs)), 3
        ),
    }
    checks = {f"same_{name}": value <= TOLERANCE for name, value in worst.items()}
    checks |= {"same_batched_bert_score": worst_bert <= TOLERANCE, "same_from_disk": same}
    where = environment()
    print(
        json.dumps(
            {
                "benchmark": "rewards",
                "hardware": where["hardware"],
                "versions": where["versions"],
                "results": results,
                "figures": figures,
                "checks": checks,
            }
        )
    )


if __name__ == "__main__":
    main()
