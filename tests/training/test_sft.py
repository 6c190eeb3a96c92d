"""Supervised fine-tuning on the prompts of GRPO, with the catalogue's own answers, in the same run
folder."""

import json
from pathlib import Path

import pytest
import torch

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.config import RunConfig
from grpo_mmpc.errors import ConfigError
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.rollout.prompts import model_inputs
from grpo_mmpc.tasks import TASKS
from grpo_mmpc.tasks.prompt_rows import prompt_row
from grpo_mmpc.training.dataset import training_dataset
from grpo_mmpc.training.session import TrainingSession
from grpo_mmpc.training.sft_trainer import TargetSFTTrainer

TRAINER = {
    "per_device_train_batch_size": 2,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


@pytest.fixture
def sft(make_config):
    """A configuration for supervised fine-tuning."""

    def make(architecture: str = "qwen2_5_vl", run_dir: str | None = None, **changes) -> RunConfig:
        trainer = TRAINER | changes.pop("trainer", {})
        config = make_config(architecture, method="sft", **changes)
        return config.model_copy(update={"trainer": trainer, "run_dir": run_dir or config.run_dir})

    return make


def session_for(config: RunConfig) -> TrainingSession:
    Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    return TrainingSession(config, RunData(config))


@pytest.mark.parametrize(("architecture", "task"), [("qwen2_5_vl", "image_to_text"), ("gemma3", "text_to_image")])
def test_prompts_are_grpos_and_the_loss_is_that_of_the_answer_alone(sft, architecture, task):
    config = sft(architecture, tasks=[task])
    data = RunData(config)
    Path(config.run_dir).mkdir()
    session = TrainingSession(config, data)
    trainer, processor = session.trainer, session.trainer.processing_class
    assert isinstance(trainer, TargetSFTTrainer)
    examples = [training_dataset(config, data, answers=True)[i] for i in range(2)]
    batch = trainer.collator(examples)

    losses, counts = [], []
    for row, example in enumerate(training_dataset(config, data, answers=True)[i] for i in range(2)):
        record = next(r for r in data.catalogue.records() if r.item_id == example["item_id"])
        prompt = model_inputs([prompt_row(data.catalogue.folder, record, TASKS[task])], processor, device="cpu")
        answer = TASKS[task].answer(record.title if task == "image_to_text" else record.description)
        end = {"qwen2_5_vl": "<|im_end|>", "gemma3": "<end_of_turn>"}[architecture]
        target = processor.tokenizer(answer + end, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids, length = torch.cat([prompt["input_ids"], target], dim=1), prompt["input_ids"].shape[1]
        whole = length + target.shape[1]
        assert batch["input_ids"][row, :whole].tolist() == ids[0].tolist()
        assert batch["labels"][row, length:whole].tolist() == target[0].tolist()
        assert set(batch["labels"][row, :length].tolist() + batch["labels"][row, whole:].tolist()) == {-100}
        typed = {
            name: torch.cat([tensor, torch.zeros_like(target)], dim=1)
            for name, tensor in prompt.items()
            if name.endswith("token_type_ids")
        }
        images = {name: t for name, t in prompt.items() if name not in {"input_ids", "attention_mask", *typed}}
        with torch.no_grad():
            logits = trainer.model(input_ids=ids, attention_mask=torch.ones_like(ids), **typed, **images).logits
        chosen = logits[0, length - 1 : -1].log_softmax(-1).gather(1, target[0, :, None])
        losses.append(-chosen.sum().item())
        counts.append(target.shape[1])
    expected = sum(losses) / sum(counts)
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, rel=1e-4)


def test_an_adapter_learns_from_answers_and_an_epoch_leaves_out_items_without_one(sft, tmp_path):
    config = sft("gemma3", tasks=["image_to_text", "text_to_image"], trainer={"max_steps": 3})
    session = session_for(config)
    before = {name: p.detach().clone() for name, p in session.trainer.model.named_parameters()}
    end = session.train(before=None, after_save=None)
    assert (end.step, end.reward_errors) == (3, {})
    for name, parameter in session.trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name
    rows = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3] and all(row["loss"] > 0 for row in rows)


def test_a_run_goes_on_as_if_it_had_not_stopped(sft, tmp_path):
    from safetensors.torch import load_file

    def run(name: str, *steps: int) -> dict[str, torch.Tensor]:
        for max_steps in steps:
            trainer = {"max_steps": max_steps, "lr_scheduler_type": "constant"}
            session_for(sft(run_dir=str(tmp_path / name), trainer=trainer)).train(before=None, after_save=None)
        return load_file(tmp_path / name / "checkpoints" / f"checkpoint-{steps[-1]}" / "adapter_model.safetensors")

    whole, continued = run("whole", 2), run("continued", 1, 2)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in continued.items())


def test_a_prompt_that_is_set_aside_has_no_loss_and_is_listed(sft):
    config = sft()
    session = session_for(config)
    trainer = session.trainer
    assert isinstance(trainer, TargetSFTTrainer)
    examples = [trainer.train_dataset[i] for i in range(2)]
    examples[1]["set_aside"] = "the image does not exist any more"
    batch = trainer.collator(examples)
    assert (batch["labels"][0] != -100).any() and (batch["labels"][1] == -100).all()
    trainer.compute_loss(trainer.model, batch)
    [listed] = [json.loads(line) for line in trainer.set_aside.path.read_text().splitlines()]
    assert (listed["item_id"], listed["reason"]) == (examples[1]["item_id"], examples[1]["set_aside"])


def test_options_that_only_grpo_knows_are_named_and_left_out(capsys):
    config = load_recipe(["recipes/nano.yaml", "method=sft", "trainer.loss_type=dapo", "trainer.learning_rate=0.0002"])
    said = capsys.readouterr().err
    assert "method sft does not use rewards, rollout, trainer." in said
    unused = {"num_generations", "beta", "temperature", "max_completion_length", "loss_type"}
    assert all(f", trainer.{name}" in said for name in unused) and not unused & config.trainer.keys()
    assert config.trainer["learning_rate"] == 2e-4


def test_what_cuts_answers_or_is_not_fed_is_refused():
    words = ["trainer.max_length=64", "trainer.packing=true", "trainer.loss_type=foo", "trainer.learning_ratte=1"]
    with pytest.raises(ConfigError) as caught:
        load_recipe(["recipes/nano.yaml", "method=sft", *words, "rollout.backend=vllm"])
    message = str(caught.value)
    for part in (
        "trainer.max_length: is not set here: an example is one prompt of GRPO's with its answer, whole",
        "trainer.packing: is not set here",
        "trainer.loss_type: expected one of nll, dft, found 'foo'",
        "trainer.learning_ratte: unknown key; did you mean 'learning_rate'?",
        "rollout.backend: vllm is fed by GRPO's trainer",
    ):
        assert part in message


@pytest.mark.slow
def test_base_sft_and_grpo_after_it_stand_beside_each_other(sft, make_config, tmp_path, capsys):
    from grpo_mmpc.cli import main

    measured = {"max_items": 9, "renderer": None, "metrics": ["bleu", "token_f1"]}
    config = sft(run_dir=str(tmp_path / "sft"), evaluation=measured, report={"enabled": True})
    assert run_training(config) == 0
    assert json.loads((tmp_path / "sft" / "comparison.json").read_text())["rewards"] == {"image_to_text": []}
    assert (tmp_path / "sft" / "report.html").is_file()
    capsys.readouterr()
    assert run_training(config) == 0
    assert "all is done: 2 steps" in capsys.readouterr().out

    start = tmp_path / "sft" / "checkpoints" / "checkpoint-2"
    after = make_config(model={"init_from": str(start)}, trainer={"beta": 0.1}, evaluation=measured)
    assert run_training(after) == 0
    base, tuned, both = (
        str(tmp_path / run / "evaluations" / name / "cqbench")
        for run, name in (("sft", "base"), ("sft", "final"), ("run", "final"))
    )
    before = json.loads((tmp_path / "run" / "evaluations" / "base" / "cqbench" / "summary.json").read_text())
    assert before["policy"] == json.loads((Path(tuned) / "summary.json").read_text())["policy"]
    assert main(["compare", base, tuned, both]) == 0
    assert "bleu" in capsys.readouterr().out.lower()
