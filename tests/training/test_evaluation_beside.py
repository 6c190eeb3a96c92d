"""Evaluations that go on beside training: whom they wait for, who waits for them, what they leave.

What asks the servers in the other process is the recipe's engine without a trainer; here that is
Transformers, and ``test_vllm_training.py`` has real servers.
"""

import json
import os
import signal
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from grpo_mmpc.catalogue.run_data import RunData
from grpo_mmpc.errors import ConfigError, EvaluationError
from grpo_mmpc.evaluation.suite import build_suite
from grpo_mmpc.pipelines.live_policies import LivePolicies
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.training.evaluation_hook import UnderWay
from grpo_mmpc.utils.distributed import Ranks
from tests.rollout.processes import children, is_running, wait_until
from tests.training.nano_runs import SAVING, adapter, mix, rollouts, session_for


def evaluations(run: Path) -> dict[str, str]:
    """By policy, all that an evaluation leaves but for how long it took; NaN equals NaN."""
    found = {}
    for folder in (run / "evaluations").glob("*/cqbench"):
        summary = json.loads((folder / "summary.json").read_text())
        del summary["seconds"]
        found[folder.parent.name] = repr((pq.read_table(folder / "samples.parquet").to_pylist(), summary))
    return found


def workers() -> list[int]:
    started = [pid for pid in children(os.getpid()) if is_running(pid)]
    return [pid for pid in started if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def inline(make_config, tmp_path):
    config = make_config(
        rewards=mix(digest=1.0), trainer={**SAVING, "learning_rate": 0.1}, run_dir=str(tmp_path / "inline")
    )
    assert run_training(config) == 0
    return config


def beside(config, run: Path):
    section = config.evaluation.model_copy(update={"where": "servers", "on_error": "raise"})
    return config.model_copy(update={"run_dir": str(run), "evaluation": section})


@pytest.mark.slow
def test_evaluations_beside_training_leave_what_those_between_steps_leave_also_after_a_stop(
    inline, tmp_path, monkeypatch, capsys
):
    from grpo_mmpc.training.recorder import RolloutRecorder

    config = beside(inline, tmp_path / "beside")
    write = RolloutRecorder.write

    def interrupt_in_third_step(self, **keywords):
        if keywords["step"] == 3:  # checkpoint-2 is being evaluated
            os.kill(os.getpid(), signal.SIGINT)
        return write(self, **keywords)

    monkeypatch.setattr(RolloutRecorder, "write", interrupt_in_third_step)
    assert run_training(config) == 130
    assert wait_until(lambda: not workers(), 20)
    assert "stopped at step 3 of 4; continue with:" in capsys.readouterr().out
    monkeypatch.undo()
    assert run_training(config) == 0
    said = capsys.readouterr().out
    theirs, ours = evaluations(Path(inline.run_dir)), evaluations(Path(config.run_dir))
    assert ours.pop("checkpoint-3")  # that of the step in which it was stopped
    assert ours == theirs
    assert all(said.count(f"evaluated checkpoint-{step} in ") == 1 for step in (2, 4))
    texts = [[(row["step"], row["completion"]) for row in rollouts(run)] for run in (inline, config)]
    assert texts[0] == texts[1]
    last = [adapter(Path(run.run_dir) / "checkpoints/checkpoint-4") for run in (inline, config)]
    assert all(last[0][name].equal(last[1][name]) for name in last[0])


def test_training_goes_on_until_the_next_save_which_waits(make_config):
    session = session_for(make_config(rewards=mix(digest=1.0), trainer=SAVING))
    ended, log = threading.Event(), []

    def is_done() -> bool:
        log.append(("asked", session.step))
        if session.step == 4:  # the save of step 4 is waiting
            ended.set()
        return ended.is_set()

    def evaluate(name: str) -> UnderWay:
        log.append((name, session.step))
        return UnderWay(is_done=is_done, finish=lambda name: log.append((f"{name} ended", session.step)))

    session.train(before=None, after_save=evaluate)
    session.hook.settle()
    assert log == [
        ("checkpoint-2", 2),
        ("asked", 3),
        ("asked", 4),
        ("checkpoint-2 ended", 4),
        ("checkpoint-4", 4),
        ("asked", 4),
        ("checkpoint-4 ended", 4),
    ]


def test_a_failure_beside_training_is_that_of_its_checkpoint(make_config):
    session = session_for(make_config(rewards=mix(digest=1.0), trainer={**SAVING, "max_steps": 3}))

    def fail(name: str) -> None:
        raise ValueError("no server answers")

    session.train(before=None, after_save=lambda name: UnderWay(is_done=lambda: True, finish=fail))
    session.hook.settle()
    assert session.hook.failures == [
        "checkpoint-2: ValueError: no server answers",
        "checkpoint-3: ValueError: no server answers",
    ]


def test_where_no_process_can_start_all_ranks_hear_of_it(make_config):
    config = make_config(rewards=mix(digest=1.0), trainer=SAVING)
    session, data = session_for(config), RunData(config)

    def fail(name: str) -> None:
        raise OSError("no memory")

    policies = LivePolicies(config, data, build_suite(config, data), session, progress=None, beside=fail)
    with pytest.raises(OSError, match="no memory"):
        policies.evaluate("checkpoint-0")
    session.ranks = Ranks(rank=1, count=2, broadcast=lambda value: (None, "OSError: no memory"))
    with pytest.raises(EvaluationError, match="the main process failed: OSError: no memory"):
        policies.evaluate("checkpoint-0")


@pytest.mark.parametrize(
    "rollout", [[], ["rollout.backend=vllm"], ["rollout.backend=vllm", "rollout.mode=server"]], ids=len
)
def test_without_servers_it_is_refused(rollout):
    with pytest.raises(ConfigError, match=r"evaluation.where: servers evaluates on those of rollout.servers"):
        load_recipe(["recipes/nano.yaml", "evaluation.where=servers", *rollout])
