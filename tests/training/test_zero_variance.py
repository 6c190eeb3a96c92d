"""Zero-variance groups: kept, dropped from the loss, or sampled again."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.rewards import advantages
from grpo_mmpc.training.option_checks import check_trainer, zero_variance_problems
from grpo_mmpc.training.resampling import drop_rows, groups_to_sample_again, replace_rows
from grpo_mmpc.training.session import TrainingSession

REWARD = f"{Path(__file__).parent / 'counting_rewards.py'}:flat_at_first"


def test_ranks_sample_equally_many_groups_zero_variance_ones_first():
    prompts = [p for p in "abcdef" for _ in range(2)]  # rank 0: a, b, c; rank 1: d, e, f
    assert groups_to_sample_again(prompts, {"c"}, num_ranks=2, group_size=2) == [[2], [0]]
    assert groups_to_sample_again(prompts, {"a", "c", "e"}, num_ranks=2, group_size=2) == [[0, 2], [1, 0]]
    assert groups_to_sample_again(prompts, {"b"}, num_ranks=1, group_size=2) == [[1]]


def test_replaced_rows_take_everything_of_the_new_completion_and_widen_the_batch():
    old = {
        "prompt_ids": torch.tensor([[7], [8]]),
        "completion_ids": torch.tensor([[1, 2], [3, 9]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0]]),
        "ref_per_token_logps": torch.tensor([[-0.1, -0.2], [-0.3, 0.0]]),
        "importance_sampling_ratio": torch.tensor([[1.1], [1.2]]),  # per sequence
        "mm_token_type_ids": torch.tensor([[1, 0, 0], [1, 0, 0]]),
        "pixel_values": torch.arange(4.0),
    }
    new = {
        "completion_ids": torch.tensor([[4, 5, 6]]),
        "completion_mask": torch.tensor([[1, 1, 1]]),
        "ref_per_token_logps": torch.tensor([[-1.0, -2.0, -3.0]]),
        "importance_sampling_ratio": torch.tensor([[0.7]]),
    }
    merged = replace_rows(old, new, {1: 0}, pad=9)
    assert merged["completion_ids"].tolist() == [[1, 2, 9], [4, 5, 6]]
    assert merged["completion_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    torch.testing.assert_close(merged["ref_per_token_logps"], torch.tensor([[-0.1, -0.2, 0], [-1, -2, -3]]))
    torch.testing.assert_close(merged["importance_sampling_ratio"], torch.tensor([[1.1], [0.7]]))
    assert merged["mm_token_type_ids"].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]
    assert merged["prompt_ids"] is old["prompt_ids"]
    assert merged["pixel_values"] is old["pixel_values"]
    assert old["completion_ids"].tolist() == [[1, 2], [3, 9]]


def test_a_shorter_new_completion_is_padded():
    old = {"completion_ids": torch.tensor([[1, 2, 3]]), "completion_mask": torch.tensor([[1, 1, 1]])}
    new = {"completion_ids": torch.tensor([[4]]), "completion_mask": torch.tensor([[1]])}
    merged = replace_rows(old, new, {0: 0}, pad=9)
    assert merged["completion_ids"].tolist() == [[4, 9, 9]]
    assert merged["completion_mask"].tolist() == [[1, 0, 0]]


def test_dropped_rows_have_no_token_left():
    output = {"completion_mask": torch.tensor([[1, 1], [1, 0]])}
    drop_rows(output, [1])
    assert output["completion_mask"].tolist() == [[1, 1], [0, 0]]


@pytest.fixture(params=["qwen2_5_vl", "gemma3"])
def run(request, make_config):
    """Trains two steps; returns session, batches as the loss gets them, rollouts as recorded."""

    def train(policy: str, **rewards):
        config = make_config(
            request.param,
            rewards={"mix": [{"name": REWARD, "weight": 1.0}], "dead_groups": policy, **rewards},
            trainer={"max_steps": 2, "per_device_train_batch_size": 16, "beta": 0.05},
        )
        data = RunData(config)
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        session = TrainingSession(config, data)
        batches, original = [], session.trainer.generate_and_score

        def spy(inputs):
            batches.append(original(inputs))
            return batches[-1]

        session.trainer.generate_and_score = spy
        session.train(before=None, after_save=None)
        files = sorted((Path(config.run_dir) / "rollouts").glob("*.parquet"))
        return session, batches, [pq.read_table(file).to_pylist() for file in files]

    return train


def is_even(row) -> bool:
    return int(row["item_id"].rpartition("-")[2]) % 2 == 0


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_resampled_groups_gain_variance_and_the_loss_sees_what_is_recorded(run, aggregation):
    session, batches, recorded = run("resample", aggregation=aggregation)
    assert any(is_even(row) for rows in recorded for row in rows), "no group was without variance at first"
    tokenizer = session.trainer.processing_class.tokenizer
    for output, rows in zip(batches, recorded, strict=True):
        assert {row["reward/flat_at_first"] for row in rows if is_even(row)} != {0.5}
        expected = advantages(
            {"a": [row["reward/flat_at_first"] for row in rows]},
            {"a": 1.0},
            groups=[row["prompt_id"] for row in rows],
            aggregation=aggregation,
        )
        assert [row["advantage"] for row in rows] == pytest.approx(expected, abs=1e-4)
        assert output["advantages"].tolist() == pytest.approx(expected, abs=1e-4)
        assert max(map(abs, expected)) > 0.1
        assert output["num_items_in_batch"].item() == output["completion_mask"].sum().item()
        for ids, mask, logps, row in zip(
            output["completion_ids"], output["completion_mask"], output["ref_per_token_logps"], rows, strict=True
        ):
            kept = ids[mask.bool()]
            assert tokenizer.decode(kept, skip_special_tokens=True) == row["completion"]
            assert (logps[mask.bool()] <= 0).all()
            assert logps[mask.bool()].sum() < 0
    first = session.trainer.state.log_history[0]
    assert first["dead_group_share"] > 0
    assert first["resampled_share"] == 1.0


def test_dropped_groups_leave_the_loss_and_its_normaliser(run):
    _, batches, recorded = run("drop")
    for output, rows in zip(batches, recorded, strict=True):
        flat = torch.tensor([is_even(row) for row in rows])
        assert (output["completion_mask"][flat] == 0).all()
        assert (output["completion_mask"][~flat].sum(dim=1) > 0).all()
        assert output["num_items_in_batch"].item() == output["completion_mask"].sum().item()
    assert any(is_even(row) for rows in recorded for row in rows)


def test_kept_groups_stay_in_the_loss_with_advantages_of_zero(run):
    _, batches, recorded = run("keep")
    for output, rows in zip(batches, recorded, strict=True):
        flat = torch.tensor([is_even(row) for row in rows])
        assert (output["completion_mask"].sum(dim=1) > 0).all()
        assert (output["advantages"][flat] == 0).all()


def test_dropping_is_refused_for_a_loss_without_a_token_normaliser():
    raw = {
        "rewards": {"dead_groups": "drop"},
        "trainer": {"use_cpu": True, "bf16": False, "loss_type": "grpo"},
        "adapter": {},
    }
    assert [key for key, text in check_trainer(raw) if "which loss_type grpo does not have" in text] == [
        "rewards.dead_groups"
    ]


def test_resampling_is_refused_where_groups_are_split_over_processes():
    # Two processes with 6 completions each hold three groups of 4, one of them split.
    split = SimpleNamespace(loss_type="dapo", per_device_train_batch_size=6, steps_per_generation=1, num_generations=4)
    [(key, message)] = zero_variance_problems({"rewards": {"dead_groups": "resample"}}, split)
    assert key == "rewards.dead_groups"
    assert "(6) must be a multiple of num_generations (4)" in message
