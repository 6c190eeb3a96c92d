"""Rates of the logged steps, worked out by hand."""

import pytest

from grpo_mmpc.training.diagnostics import rates


@pytest.mark.parametrize(
    ("lengths", "waits", "steps", "tokens_per_second", "wait_share"),
    [
        ([10.0], [1.0], [4.0], 20.0, 0.25),  # 8 x 10 tokens and 1 s of waiting in 4 s
        ([10.0, 30.0], [1.0, 2.0], [4.0], 80.0, 0.75),  # two batches in one step: 8 x 40 tokens, 3 s in 4 s
        ([10.0], [1.0], [4.0, 1.0], 16.0, 0.2),  # the second of two steps reuses the batch: 80 tokens, 1 s in 5 s
        ([], [], [1.0], 0.0, 0.0),  # logged by itself
    ],
)
def test_every_batch_of_rollouts_counts_once_however_many_steps_use_it(
    lengths, waits, steps, tokens_per_second, wait_share
):
    metrics = {"completions/mean_length": lengths, "reward_time/wait": waits, "step_time": steps}
    assert rates(metrics, completions_per_batch=8) == {
        "tokens_per_second": pytest.approx(tokens_per_second),
        "reward_time/wait_share": pytest.approx(wait_share),
    }


def test_a_summary_that_follows_no_step_has_no_rates():
    assert rates({}, completions_per_batch=8) == {}
