"""When the engine is compared with the policy: until an update was seen to reach it."""

import logging
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from grpo_mmpc.rollout.parity_check import ParityReport
from grpo_mmpc.training.parity_callback import ParityCheck, _line


def run(*, seen_from: int, start: int = 0, steps: int = 40) -> tuple[list[int], ParityCheck]:
    """Steps at which a run asks, where updates are large enough to be seen from a step on."""
    asked: list[int] = []

    def check(step: int) -> bool:
        asked.append(step)
        return step >= seen_from

    callback = ParityCheck(check)
    callback.on_train_begin(None, SimpleNamespace(global_step=start), None)
    for step in range(start + 1, start + steps + 1):
        callback.on_step_end(None, SimpleNamespace(global_step=step), None)
    return asked, callback


def test_an_update_that_is_seen_at_once_is_checked_once() -> None:
    assert run(seen_from=1)[0] == [0, 1]


def test_updates_too_small_to_be_seen_are_checked_again_at_doubling_pauses() -> None:
    assert run(seen_from=10)[0] == [0, 1, 2, 4, 8, 16]


def test_a_resumed_run_is_checked_at_its_start_and_after_its_first_update() -> None:
    assert run(seen_from=1, start=100)[0] == [100, 101]


@pytest.mark.parametrize(("seen_from", "warnings"), [(1, 0), (1000, 1)])
def test_a_training_whose_updates_were_never_seen_says_so(caplog, seen_from: int, warnings: int) -> None:
    _, callback = run(seen_from=seen_from)
    with caplog.at_level(logging.WARNING):
        callback.on_train_end(None, SimpleNamespace(global_step=40, log_history=[{"grad_norm": 0.1}]), None)
    assert (
        len([r for r in caplog.records if "could not verify that LoRA updates reach the rollout engine" in r.message])
        == warnings
    )


def test_a_training_without_gradients_is_not_told_that_its_updates_are_small(caplog) -> None:
    _, callback = run(seen_from=1000)
    with caplog.at_level(logging.WARNING):
        callback.on_train_end(None, SimpleNamespace(log_history=[{"grad_norm": 0.0}, {"eval_loss": 1.0}]), None)
    assert caplog.messages[-1].endswith("reach the rollout engine: there was none, every gradient was 0")


@pytest.mark.parametrize(
    ("by_server", "ending"),
    [
        ({}, "2.0e-03 at most"),
        ({"a": 1e-3}, "2.0e-03 at most"),
        ({"a": 1e-3, "b": 1e-6}, "2.0e-03 at most; by server: a 1.0e-03, b 1.0e-06"),
    ],
)
def test_the_log_says_how_far_each_of_several_servers_is_off(by_server: dict[str, float], ending: str) -> None:
    report = ParityReport(
        step=1,
        rows=4,
        tokens=80,
        largest_image=None,
        dtype="float32",
        tolerance=1e-2,
        mean_difference=1e-3,
        max_difference=2e-3,
        mean_difference_to_base=0.5,
        nearer_policy_share=1.0,
        mean_difference_by_server=by_server,
    )
    assert _line(report, is_base=False).endswith(ending)
