"""The nano job's optimiser step beside a plain TRL script with the same settings.

    python benchmarks/grpo_step.py                    # about six minutes on two cores
    python benchmarks/grpo_step.py --quick            # under a minute, noisier
    python benchmarks/grpo_step.py --model qwen2_5_vl_3b        # one real-size step, on a GPU
    python benchmarks/grpo_step.py --checkpoints                # what saving costs a step

The plain script is what one writes with TRL alone: a ``GRPOTrainer``, a data set with an image
column, and one reward function per idea that goes through the completions one by one (nltk's
sentence BLEU, one ``BERTScorer``, one CLIP). Both sides run in blocks of a few steps that alternate
within this process. A step's time is the time between the ends of two steps, so it holds data,
sampling, rewards, update and logging; the first step of a block only warms up. Every repeat has a
seed of its own: a prompt seen before would let caches shine that real training cannot use.

``full_mix_vllm`` is the full mix with our rollouts from vLLM in the same process; it needs vLLM and
is left out without.

The last line is one JSON object; ``ratio`` is plain time over ours.
"""

import argparse
import importlib.util
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

# Python puts a script's folder first on the path, where benchmarks/rewards.py would hide the
# package of rewards.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from grpo_mmpc.utils.cpu_compat import ensure_importable  # noqa: E402

ensure_importable()  # before anything imports transformers' models

import torch  # noqa: E402
from transformers import TrainerCallback, set_seed  # noqa: E402

from grpo_mmpc.catalogue.run_data import RunData  # noqa: E402
from grpo_mmpc.config import RunConfig  # noqa: E402
from grpo_mmpc.models.policy import load_policy  # noqa: E402
from grpo_mmpc.models.processor import load_processor  # noqa: E402
from grpo_mmpc.pipelines.recipe import load_recipe  # noqa: E402
from grpo_mmpc.rewards import RewardMix, completion_text  # noqa: E402
from grpo_mmpc.tasks import IMAGE_TO_TEXT  # noqa: E402
from grpo_mmpc.training.arguments import grpo_arguments, lora_arguments  # noqa: E402
from grpo_mmpc.training.checkpoint import damage  # noqa: E402
from grpo_mmpc.training.dataset import training_dataset  # noqa: E402
from grpo_mmpc.training.sampler import TaskBatchSampler  # noqa: E402
from grpo_mmpc.training.session import TrainingSession  # noqa: E402
from grpo_mmpc.utils.hashing import stable_order  # noqa: E402
from grpo_mmpc.utils.manifest import environment  # noqa: E402
from grpo_mmpc.utils.model_paths import resolve_model  # noqa: E402

ROOT = Path(__file__).parents[1]
WEIGHTS = {
    "plain_rewards": {"bleu": 0.9, "json_format": 0.1},
    "full_mix": {"bleu": 0.3, "bertscore": 0.4, "clip_similarity": 0.2, "json_format": 0.1},
}
VARIANTS = {
    "plain_rewards": ("plain_rewards", "transformers"),
    "full_mix": ("full_mix", "transformers"),
    "full_mix_vllm": ("full_mix", "vllm"),
}
"""Result -> the mix of both sides and where our completions come from."""
KWARGS = {
    "bertscore": {"model": "nano:minilm", "num_layers": 6},
    "clip_similarity": {"model": "nano:clip", "floor": -1.0},
}
TOLERANCE = 1e-4
RECIPES = {"qwen2_5_vl": "qwen2_5_vl_3b", "gemma3": "gemma3_4b"}
"""Model type -> the recipe of a real-size step."""
IMAGES = {
    # 256 image tokens for every picture: a photo of 448 x 448 pixels, and what Gemma-3 makes of
    # any.
    "qwen2_5_vl": {"min_pixels": 200704, "max_pixels": 200704},
    "gemma3": {"size": {"height": 896, "width": 896}, "image_seq_length": 256},
}
SPECIAL_TOKENS = {
    "qwen2_5_vl": {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    },
    "gemma3": {
        "image_token_index": "<image_soft_token>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    },
}


# ---- the plain script ----


def title_of(completion: list[dict[str, str]]) -> str | None:
    """The predicted title, or None for a malformed completion."""
    return IMAGE_TO_TEXT.parse(completion[0]["content"]).prediction


def bleu(completions: list, reference: list[str], **_: Any) -> list[float]:
    """Smoothed sentence BLEU of each title, with nltk."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize, smoothing = Tokenizer13a(), SmoothingFunction()
    scores = []
    for completion, truth in zip(completions, reference, strict=True):
        title = title_of(completion)
        if title is None:
            scores.append(0.0)
            continue
        expected, predicted = tokenize(truth).split(), tokenize(title).split()
        order = min(4, len(expected))
        weights = [1 / order] * order
        scores.append(sentence_bleu([expected], predicted, weights=weights, smoothing_function=smoothing.method3))
    return scores


@cache
def bert_scorer() -> Any:
    """The bert-score package's scorer, loaded once."""
    from bert_score import BERTScorer

    return BERTScorer(model_type=resolve_model("nano:minilm"), num_layers=6, device="cpu")


def bertscore(completions: list, reference: list[str], **_: Any) -> list[float]:
    """BERTScore F1 of each title."""
    scorer = bert_scorer()
    scores = []
    for completion, truth in zip(completions, reference, strict=True):
        title = title_of(completion)
        scores.append(0.0 if title is None else max(0.0, scorer.score([title], [truth])[2].item()))
    return scores


@cache
def clip() -> tuple[Any, Any]:
    """CLIP and its processor, loaded once."""
    from transformers import AutoProcessor, CLIPModel

    folder = resolve_model("nano:clip")
    return CLIPModel.from_pretrained(folder).float().eval(), AutoProcessor.from_pretrained(folder)


def clip_similarity(completions: list, image: list, **_: Any) -> list[float]:
    """CLIP cosine of each title and its picture."""
    model, processor = clip()
    scores = []
    for completion, picture in zip(completions, image, strict=True):
        title = title_of(completion)
        if title is None:
            scores.append(-1.0)  # the nano CLIP's cosines are often negative: -1 is the worst
            continue
        inputs = processor(text=[title], images=picture, return_tensors="pt", truncation=True)
        with torch.no_grad():
            output = model(**inputs)
        cosine = torch.nn.functional.cosine_similarity(output.text_embeds, output.image_embeds)
        scores.append(cosine.item())
    return scores


def json_format(completions: list, **_: Any) -> list[float]:
    """1 for the bare JSON object, 0.5 for one inside other text, 0 otherwise."""
    scores = {"json": 1.0, "embedded": 0.5, "malformed": 0.0}
    return [scores[IMAGE_TO_TEXT.parse(completion[0]["content"]).format] for completion in completions]


PLAIN = {"bleu": bleu, "bertscore": bertscore, "clip_similarity": clip_similarity, "json_format": json_format}


def plain_dataset(config: RunConfig, arguments: Any, data: RunData) -> Any:
    """One row per training item.

    The prompt, its image (decoded when a batch asks for it), the reference.

    Rows stand in the order in which our sampler draws them, so that both sides get the same
    prompts.
    """
    from datasets import Dataset, Image

    ids = list(data.catalogue.items.select(data.train)["item_id"])
    positions = stable_order(ids, salt=config.data.salt)
    draws = TaskBatchSampler(
        ["image_to_text"] * len(positions),
        num_generations=arguments.num_generations,
        prompts_per_batch=arguments.generation_batch_size // arguments.num_generations,
        repeat_count=1,
        shuffle=True,
        seed=arguments.seed,
    )
    records = [data.catalogue.record(data.train[positions[draw]]) for draw in dict.fromkeys(draws)]
    rows = {
        "prompt": [[{"role": "user", "content": IMAGE_TO_TEXT.instruction}]] * len(records),
        "image": [str(data.catalogue.image_path(record)) for record in records],
        "reference": [record.title for record in records],
    }
    return Dataset.from_dict(rows).cast_column("image", Image())


def plain_trainer(config: RunConfig, data: RunData) -> Any:
    """TRL's trainer and nothing else."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    arguments = grpo_arguments(config)
    arguments.shuffle_dataset = False  # shuffled already, as ours is
    trainer = GRPOTrainer(
        model=load_policy(config.model),
        reward_funcs=[PLAIN[spec.name] for spec in config.rewards.mix],
        args=arguments,
        train_dataset=plain_dataset(config, arguments, data),
        processing_class=load_processor(config.model),
        peft_config=lora_arguments(config),
    )
    trainer.remove_callback(PrinterCallback)  # printing is no part of the comparison
    return trainer


# ---- timing ----


@dataclass
class StepClock(TrainerCallback):
    """Record the seconds and completion tokens of each step."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """The same in time on a processor: what the step would take if nothing else ran."""
    tokens: list[float] = field(default_factory=list)
    largest_difference: float = 0.0
    """Between log-probabilities of engine and policy, where rollouts come from vLLM."""
    _last: tuple[float, float] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        if self._last is not None:
            self.seconds.append(now[0] - self._last[0])
            self.cpu_seconds.append(now[1] - self._last[1])
        self._last = now

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Count the tokens."""
        if "completions/mean_length" in logs and state.global_step > 1:
            per_step = args.generation_batch_size / args.steps_per_generation * args.gradient_accumulation_steps
            self.tokens.append(logs["completions/mean_length"] * per_step)
        self.largest_difference = max(self.largest_difference, logs.get("sampling/sampling_logp_difference/max", 0.0))


def run_block(side: str, config: RunConfig, data: RunData) -> tuple[StepClock, list[str]]:
    """Train one side for a few steps from the same start.

    Returns its clock and the completions of its first step.
    """
    set_seed(config.seed)
    session = None
    if side == "ours":
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        session = TrainingSession(config, data)
        trainer = session.trainer
    else:
        trainer = plain_trainer(config, data)
    clock = StepClock()
    trainer.add_callback(clock)
    first: list[str] = []
    trainer.add_callback(_FirstCompletions(trainer, first))
    with redirect_stdout(sys.stderr):
        trainer.train()
        if session is not None:
            session.close()
    return clock, first


class _FirstCompletions(TrainerCallback):
    """Copies the completions of the first step out of TRL's own log."""

    def __init__(self, trainer: Any, into: list[str]) -> None:
        self._trainer, self._into = trainer, into

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._into:
            self._into += [completion_text(completion) for completion in self._trainer._logs["completion"]]


def nano_config(
    run_dir: Path, mix: str, *, seed: int, steps: int, batch: int | None, backend: str = "transformers"
) -> RunConfig:
    """Load the nano recipe with one of the two mixes, cut to a few steps and no evaluation."""
    specs = [{"name": n, "weight": w} | ({"kwargs": KWARGS[n]} if n in KWARGS else {}) for n, w in WEIGHTS[mix].items()]
    overrides = [
        f"run_dir={run_dir}",
        f"seed={seed}",
        f"rewards.mix={json.dumps(specs)}",
        "rewards.aggregation=sum_then_normalize",
        "tasks=[image_to_text]",
        "trainer.num_generations=8",
        "trainer.temperature=1.0",
        "trainer.max_completion_length=48",
        f"trainer.max_steps={1 + steps}",
        "trainer.save_strategy='no'",
        "report.enabled=false",
        f"rollout.backend={backend}",
        "rollout.parity.enabled=false",  # its second check falls into a timed step
    ]
    if batch is not None:
        overrides.append(f"trainer.per_device_train_batch_size={batch}")
    return load_recipe([str(ROOT / "recipes/nano.yaml"), *overrides])


# ---- what is reported ----


def rewards_agree(data: RunData) -> bool:
    """Both sides' reward functions on the same completions.

    Right, half right, wrong, short, repeated, malformed.
    """
    from PIL import Image

    config = nano_config(Path("unused"), "full_mix", seed=0, steps=1, batch=None)
    records = [data.catalogue.record(index) for index in data.train[:8]]
    titles = [str(record.title) for record in records]
    answers = []
    for i, title in enumerate(titles):
        words = title.split()
        texts = [title, " ".join(words[: len(words) // 2]), titles[i - 1], words[0], " ".join(words[::-1]), title]
        group = [IMAGE_TO_TEXT.answer(text) for text in texts]
        answers.append([*group, f"Sure! {group[0]}", "no JSON", '{"name": "x"}'])
    rows = [(record, answer) for record, group in zip(records, answers, strict=True) for answer in group]
    paths = [str(data.catalogue.image_path(record)) for record, _ in rows]
    completions = [[{"role": "assistant", "content": answer}] for _, answer in rows]
    references = [str(record.title) for record, _ in rows]

    mix = RewardMix.from_specs(config.rewards.mix)
    columns = {
        "prompt_id": [record.item_id for record, _ in rows],
        "item_id": [record.item_id for record, _ in rows],
        "category": [record.category for record, _ in rows],
        "task": ["image_to_text"] * len(rows),
        "reference": references,
        "image_path": paths,
    }
    ours = mix.score(prompts=[None] * len(rows), completions=completions, **columns).raw
    images = [Image.open(path).convert("RGB") for path in paths]
    for name, function in PLAIN.items():
        plain = function(completions=completions, reference=references, image=images)
        for a, b in zip(ours[name], plain, strict=True):
            if a is None or abs(a - b) > TOLERANCE:
                print(f"{name}: ours {a}, plain {b}", file=sys.stderr)
                return False
    return True


def compare(*, repeats: int, steps: int, batch: int | None) -> dict[str, Any]:
    """Results, figures and checks of the nano comparison."""
    results: dict[str, Any] = {}
    figures: dict[str, float] = {}
    checks: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as scratch:
        probe = nano_config(Path(scratch), "full_mix", seed=0, steps=steps, batch=batch)
        data = RunData(probe)
        checks["same_rewards_on_the_same_completions"] = rewards_agree(data)
        for variant, (mix, backend) in VARIANTS.items():
            if backend == "vllm" and importlib.util.find_spec("vllm") is None:
                print(f"{variant}: left out, vLLM is not installed", file=sys.stderr)
                continue
            clocks: dict[str, list[StepClock]] = {"ours": [], "plain": []}
            same_start = True
            for repeat in range(repeats):
                first = {}
                # Who goes first alternates, so that neither side always finds the warmer machine.
                for side in ("ours", "plain") if repeat % 2 else ("plain", "ours"):
                    folder = Path(scratch) / f"{variant}-{side}-{repeat}"
                    config = nano_config(folder, mix, seed=100 + repeat, steps=steps, batch=batch, backend=backend)
                    clock, first[side] = run_block(side, config, data)
                    clocks[side].append(clock)
                    shown = [round(seconds, 2) for seconds in clock.seconds]
                    print(f"{variant} {side} {repeat}: {shown}", file=sys.stderr, flush=True)
                same_start &= first["ours"] == first["plain"] and bool(first["ours"])
            medians = {side: statistics.median(s for c in clocks[side] for s in c.seconds) for side in clocks}
            results[variant] = {
                "ours": round(medians["ours"], 4),
                "baseline": round(medians["plain"], 4),
                "unit": "s/step",
                "ratio": round(medians["plain"] / medians["ours"], 3),
            }
            for side, runs in clocks.items():
                tokens = sum(t for c in runs for t in c.tokens) / sum(s for c in runs for s in c.seconds)
                figures[f"{variant}_tokens_per_s_{side}"] = round(tokens, 1)
                figures[f"{variant}_cpu_s_{side}"] = round(statistics.median(s for c in runs for s in c.cpu_seconds), 4)
            if backend == "vllm":
                largest = max(clock.largest_difference for clock in clocks["ours"])
                figures["vllm_largest_log_probability_difference"] = largest
                checks["vllm_log_probabilities_are_the_policys"] = 0.0 < largest < 1e-3
            else:
                checks[f"same_completions_in_the_first_step_{variant}"] = same_start
    figures["completions_per_step"] = probe.trainer["per_device_train_batch_size"]
    figures["timed_steps_per_side"] = repeats * steps
    return {"results": results, "figures": figures, "checks": checks}


def checkpoint_cost(*, saves: int) -> dict[str, Any]:
    """Time what saving takes from training, for the nano adapter and one of 12 times its size.

    ``ours`` is the time until training goes on, ``baseline`` until the checkpoint has its name;
    both in turns.
    """
    results: dict[str, Any] = {}
    figures: dict[str, float] = {}
    checks: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(dir=".") as scratch:  # on a disk, where /tmp may be memory
        for name, rank in (("checkpoint", 16), ("checkpoint_12_times", 192)):
            folder = Path(scratch) / name
            config = nano_config(folder, "plain_rewards", seed=0, steps=2 * saves, batch=None)
            assert config.adapter is not None
            changed = {
                "adapter": config.adapter.model_copy(update={"r": rank}),
                "trainer": {**config.trainer, "save_strategy": "steps", "save_steps": 1},
            }
            folder.mkdir()
            session = TrainingSession(config.model_copy(update=changed), RunData(config))
            trainer, seconds, clock = session.trainer, {"ours": [], "baseline": []}, StepClock()
            write = trainer.save_checkpoint

            def save(below: str, write: Any = write, trainer: Any = trainer, seconds: Any = seconds) -> None:
                trainer.finish_saving()
                began = time.perf_counter()
                write(below)
                if trainer.state.global_step % 2:
                    trainer.finish_saving()
                seconds["baseline" if trainer.state.global_step % 2 else "ours"].append(time.perf_counter() - began)

            trainer.save_checkpoint = save
            trainer.add_callback(clock)
            with redirect_stdout(sys.stderr):
                session.train(before=None, after_save=None)
                session.close()
            print(name, seconds, clock.seconds, file=sys.stderr)
            ours, whole = (statistics.median(seconds[side]) for side in ("ours", "baseline"))
            saved = sorted((folder / "checkpoints").iterdir())
            began = time.perf_counter()
            checks[f"{name}_all_are_whole"] = all(damage(path) == "" for path in saved)
            figures |= {
                f"{name}_check_s": round((time.perf_counter() - began) / len(saved), 4),
                f"{name}_mb": round(sum(file.stat().st_size for file in saved[-1].iterdir()) / 1e6, 2),
                f"{name}_s_per_step": round(statistics.median(clock.seconds) - (ours + whole) / 2, 3),
            }
            per_step = ours / 10 / figures[f"{name}_s_per_step"]
            figures[f"{name}_share_of_step_with_save_steps_10"] = round(per_step, 5)
            results[name] = {"ours": round(ours, 4), "baseline": round(whole, 4), "unit": "s/save"}
            results[name]["ratio"] = round(whole / ours, 2)
    return {"results": results, "figures": figures, "checks": checks}


def random_model(fields: dict[str, Any], processor: Any, *, dtype: torch.dtype, device: str) -> Any:
    """Build a model of a real configuration with random weights and the processor's tokens.

    Args:
        fields: Of the model's ``config.json``.
        processor: With a smaller vocabulary than the model's.
        dtype: Of the weights.
        device: Where they are drawn; nothing as large is made elsewhere first.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(**fields)
    for token, text in SPECIAL_TOKENS[fields["model_type"]].items():
        setattr(config, token, processor.tokenizer.convert_tokens_to_ids(text))
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")


def real_size_step(name: str, *, steps: int) -> dict[str, Any]:
    """Time, tokens and memory of our step on a randomly initialised model of a real configuration.

    The tokenizer is the nano one, so nearly every sampled token lies outside it and completions run
    to their limit: the longest, and always the same, amount of work. Every completion is malformed,
    so encoders are not part of this time.
    """
    from transformers import PrinterCallback

    from grpo_mmpc.training.recorder import RolloutRecorder
    from grpo_mmpc.training.set_aside import SetAside
    from grpo_mmpc.training.trainer import RecordingGRPOTrainer

    path = Path(name) if name.endswith(".json") else ROOT / "tests" / "recipes" / "model_configs" / f"{name}.json"
    fields = {key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("_")}
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    with tempfile.TemporaryDirectory() as scratch:
        config = load_recipe(
            [
                str(ROOT / f"recipes/{RECIPES[fields['model_type']]}.yaml"),
                "data.catalogue=nano:catalogue",
                f"run_dir={scratch}",
                "tasks=[image_to_text]",
                "trainer.num_generations=8",
                "rewards.mix=[{name: bleu, weight: 0.9}, {name: json_format, weight: 0.1}]",
                f"trainer.max_steps={1 + steps}",
                "trainer.save_strategy='no'",
                "trainer.report_to=none",
                "rollout.backend=transformers",
                f"model.name_or_path=nano:{fields['model_type']}",
                f"model.processor_kwargs={json.dumps(IMAGES[fields['model_type']])}",
                *([] if on_gpu else ["trainer.use_cpu=true", "trainer.bf16=false", "rollout.sleep=false"]),
            ]
        )
        data = RunData(config)
        processor = load_processor(config.model)
        set_seed(config.seed)
        model = random_model(fields, processor, dtype=dtype, device="cuda" if on_gpu else "cpu")
        mix = RewardMix.from_specs(config.rewards.mix)
        trainer = RecordingGRPOTrainer(
            model=model,
            reward_funcs=mix.functions,
            args=grpo_arguments(config),
            train_dataset=training_dataset(config, data),
            processing_class=processor,
            peft_config=lora_arguments(config),
            recorder=RolloutRecorder(Path(scratch) / "rollouts"),
            set_aside=SetAside(Path(scratch) / "set_aside.jsonl", data.catalogue, processor, max_tokens=1),
            mix=mix,
        )
        trainer.remove_callback(PrinterCallback)
        clock = StepClock()
        trainer.add_callback(clock)
        with redirect_stdout(sys.stderr):
            trainer.train()
        parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        arguments = trainer.args
    completions = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    seconds = statistics.median(clock.seconds)
    figures = {
        "parameters": parameters,
        "completions_per_step": completions,
        "completion_tokens_limit": arguments.max_completion_length,
        "image_tokens_per_prompt": 256,
        "s_per_step": round(seconds, 3),
        "tokens_per_s": round(statistics.median(clock.tokens) / seconds, 1),
    }
    if on_gpu:
        figures["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    else:
        figures["peak_rss_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return {"results": {}, "figures": figures, "checks": {"loss_is_finite": math.isfinite(_last_loss(trainer))}}


def _last_loss(trainer: Any) -> float:
    return float(next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry))


def main() -> None:
    """Run one of the two measurements and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two repeats of one step with half the completions")
    parser.add_argument("--repeats", type=int, default=5, help="blocks per side and mix (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="timed steps per block (%(default)s)")
    parser.add_argument("--model", help="qwen2_5_vl_3b or another tests/recipes/model_configs/*.json, or a path to one")
    parser.add_argument("--checkpoints", action="store_true", help="time what saving takes from training instead")
    arguments = parser.parse_args()
    repeats, steps, batch = (2, 1, 32) if arguments.quick else (arguments.repeats, arguments.steps, None)
    if arguments.model:
        measured = real_size_step(arguments.model, steps=steps)
    elif arguments.checkpoints:
        measured = checkpoint_cost(saves=1 if arguments.quick else 5)
    else:
        measured = compare(repeats=repeats, steps=steps, batch=batch)
    where = environment()
    head = {"benchmark": "grpo_step", "hardware": where["hardware"], "versions": where["versions"]}
    print(json.dumps(head | measured))


if __name__ == "__main__":
    main()
