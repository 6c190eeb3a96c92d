"""Gradients that are no numbers, no memory, ranks that are gone: skipped, or explained."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grpo_mmpc.errors import TrainingError
from grpo_mmpc.training.faults import MAX_SKIPPED, FiniteUpdates, explained_faults
from grpo_mmpc.utils.distributed import ONE, Ranks

ARGUMENTS = SimpleNamespace(
    fp16=False,
    learning_rate=1e-3,
    max_grad_norm=1.0,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    max_completion_length=64,
    output_dir="run/checkpoints",
)


class Step:
    """One parameter and its optimizer, updated as Transformers' trainer does."""

    def __init__(self, ranks: Ranks = ONE) -> None:
        self.model = torch.nn.Linear(2, 1, bias=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.noted: list[str] = []
        self.callback = FiniteUpdates(ranks, lambda name, value: self.noted.append(name))

    def take(self, gradient: float, step: int = 0) -> bool:
        """Return whether the parameter moved."""
        before = self.model.weight.detach().clone()
        self.model.weight.grad = torch.full_like(self.model.weight, gradient)
        state = SimpleNamespace(global_step=step)
        self.callback.on_pre_optimizer_step(ARGUMENTS, state, None, model=self.model, optimizer=self.optimizer)
        self.optimizer.step()
        return not torch.equal(before, self.model.weight)


@pytest.mark.parametrize("gradient", [float("nan"), float("inf")])
def test_an_update_that_is_no_number_is_skipped_and_counted(gradient, caplog):
    step = Step()
    assert step.take(1.0)
    assert not step.take(gradient, step=1)
    assert step.noted == ["skipped_updates"]
    assert "step 2: the gradient is no number; this update is skipped" in caplog.text
    assert step.take(1.0)


def test_a_gradient_of_another_rank_counts_too():
    step = Step(Ranks(count=2, gather=lambda flags: [*flags, True]))
    assert not step.take(1.0)


def test_training_stops_after_some_in_a_row_and_says_what_to_change():
    step = Step()
    for _ in range(MAX_SKIPPED - 1):
        step.take(float("nan"))
    step.take(1.0)
    with pytest.raises(TrainingError, match=r"5 updates in a row .* lower trainer.learning_rate \(now 0.001\)"):
        for i in range(MAX_SKIPPED):
            step.take(float("nan"), step=i)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "per_device_train_batch_size (now 8)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "gradient_checkpointing=true"),
        (MemoryError(), "step 4: out of memory"),
        (RuntimeError("probability tensor contains either `inf`, `nan` or element < 0"), "learning_rate (now 0.001)"),
        (RuntimeError("[pair.cc:538] Connection closed by peer [127.0.0.1]:5"), "another rank has died"),
    ],
)
def test_what_ends_training_is_said_in_the_words_of_the_recipe(error, said):
    with pytest.raises(TrainingError) as caught, explained_faults(ARGUMENTS, step=lambda: 3):
        raise error
    assert said in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_checkpoint_that_could_run_code_is_not_read_and_no_advice_is_given_to_do_so(tmp_path):
    class Command:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "optimizer.pt").write_bytes(pickle.dumps(Command()))
    with pytest.raises(TrainingError) as caught, explained_faults(ARGUMENTS, step=lambda: 3):
        torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert "holds more than tensors and numbers" in str(caught.value) and "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_another_error_stays_as_it_is():
    with pytest.raises(RuntimeError, match="a bug"), explained_faults(ARGUMENTS, step=lambda: 3):
        raise RuntimeError("a bug")


def test_a_learning_rate_without_measure_ends_in_words(make_config):
    from grpo_mmpc.pipelines.train import run_training

    config = make_config(
        rewards={"mix": [{"name": "bleu", "weight": 1.0}, {"name": "token_f1", "weight": 1.0}]},
        trainer={"max_steps": 4, "learning_rate": 1e30, "warmup_steps": 0},
        evaluation={"before": False, "checkpoints": False},
    )
    with pytest.raises(TrainingError, match=r"no numbers? any more|is no number"):
        run_training(config)
