"""Completions one step ahead of the update: whose policy samples them, and what a stop keeps."""

import random
import shutil
from pathlib import Path

import pytest

from grpo_mmpc.errors import ConfigError, RolloutError
from grpo_mmpc.models.adapter import Adapter
from grpo_mmpc.pipelines.recipe import load_recipe
from grpo_mmpc.pipelines.train import run_training
from grpo_mmpc.rollout.vllm.ahead import SampledAhead
from grpo_mmpc.rollout.vllm.protocol import Completion, GroupOutput, Prompt
from grpo_mmpc.utils.files import read_json_lines
from grpo_mmpc.utils.hashing import hex_digest
from tests.rollout.processes import wait_until
from tests.training.nano_runs import QUIET, SAVING, adapter, assert_same_result, mix

OPEN, CLOSE, END = 1021, 1022, 2
"""Tokens of the nano tokenizer: {"title": ", "}, and the end of a turn."""


class StandIn:
    """Servers whose completions depend on seed and adapter, and which note who sampled what."""

    max_model_len = 4096
    image_attention = "causal"
    lora_dtype = "float32"

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, list[int]]] = []
        """Adapter and seeds."""
        self.before = lambda: None
        """Called before the completions of a call are there."""

    def load(self, adapter: Adapter) -> None:
        self.adapters[adapter.name] = hex_digest(adapter.weights)

    def unload(self, name: str) -> None:
        del self.adapters[name]

    def generate(self, prompts, sampling, *, adapter):
        if sampling.temperature:  # no evaluation
            self.calls.append((adapter, [prompt.seed for prompt in prompts]))
            self.before()
        return [GroupOutput(prompt_ids=p.token_ids, completions=self._completions(p, adapter)) for p in prompts]

    def _completions(self, prompt: Prompt, adapter: str) -> list[Completion]:
        chance = random.Random(f"{prompt.seed} {self.adapters[adapter]}")
        titles = [[chance.randint(50, 900) for _ in range(chance.randint(2, 6))] for _ in range(prompt.count)]
        answers = [[OPEN, *title, CLOSE, END] for title in titles]
        return [Completion(token_ids=answer, logprobs=[-6.0] * len(answer)) for answer in answers]

    def close(self) -> None:
        pass


@pytest.fixture
def served(make_config, tmp_path, monkeypatch):
    """A function that trains on a stand-in: the name of the run and ``rollout.ahead`` go in, its
    configuration and the stand-in come out."""

    def train(name: str, ahead: int, *, before=None, **changes):
        server = StandIn()
        server.before = before or server.before
        monkeypatch.setattr("grpo_mmpc.training.live_engine.start_engine", lambda *_, **__: server)
        config = make_config(
            rewards=mix(digest=1.0),
            data={"max_train_items": 6},  # three steps an epoch
            rollout={"backend": "vllm", "mode": "server", "ahead": ahead, "parity": {"enabled": False}},
            evaluation=QUIET,
            run_dir=str(tmp_path / name),
            trainer={**SAVING, "vllm_importance_sampling_mode": "token_truncate", **changes},
        )
        assert run_training(config) == 0
        return config, server

    return train


def staleness(config) -> list[float]:
    return [row["sampling/staleness"] for row in read_json_lines(Path(config.run_dir) / "metrics.jsonl")]


def test_each_step_but_the_first_learns_from_the_policy_of_exactly_one_update_before(served):
    """policy-1 is that before the first update."""
    _, lockstep = served("lockstep", 0)
    config, ahead = served("ahead", 1)
    assert [name for name, _ in lockstep.calls] == ["policy-1", "policy-2", "policy-3", "policy-4"]
    assert [name for name, _ in ahead.calls] == ["policy-1", "policy-1", "policy-2", "policy-3"]
    assert [seeds for _, seeds in ahead.calls] == [seeds for _, seeds in lockstep.calls]
    assert staleness(config) == [0, 1, 1, 1]


def test_a_step_is_scored_while_the_next_one_is_sampled(served, tmp_path):
    rollouts = tmp_path / "ahead" / "rollouts"
    waited = []

    def sampled_slowly() -> None:  # the first call is that of the first step, for which nothing can go on
        step = len(waited)
        waited.append(step == 0 or wait_until((rollouts / f"step-{step:06d}.parquet").exists, 60))

    served("ahead", 1, before=sampled_slowly)
    assert waited == [True] * 4


def test_a_resumed_run_learns_from_the_completions_that_were_sampled_before_it_stopped(served, tmp_path):
    whole, _ = served("resumed", 1)
    shutil.copytree(whole.run_dir, tmp_path / "whole")
    shutil.rmtree(Path(whole.run_dir) / "checkpoints/checkpoint-4")
    resumed, server = served("resumed", 1)
    assert_same_result(whole.model_copy(update={"run_dir": str(tmp_path / "whole")}), resumed)
    assert staleness(resumed) == [0, 1, 1, 1]
    assert len(server.calls) == 1  # of step 4; those of step 3 are in the checkpoint


def test_a_run_ahead_is_another_one_than_a_run_in_lockstep(served):
    lockstep, ahead = served("lockstep", 0)[0], served("ahead", 1)[0]
    last = [adapter(Path(config.run_dir) / "checkpoints/checkpoint-4") for config in (lockstep, ahead)]
    assert not all(last[0][name].equal(last[1][name]) for name in last[0])


def test_servers_that_fail_meanwhile_end_the_run_at_the_step_that_needs_them(served):
    calls = []

    def fail_the_second() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RolloutError("no rollout server answered")

    with pytest.raises(RolloutError, match="no rollout server answered"):
        served("ahead", 1, before=fail_the_second)


def test_completions_of_other_prompts_are_dropped_and_said(caplog):
    ahead = SampledAhead(upcoming=lambda: None, meet=lambda: None)
    one, other = (Prompt(token_ids=[i], conversation=[], count=1, seed=0) for i in (1, 2))
    result = [GroupOutput(prompt_ids=[1], completions=[])]
    ahead.begin([one], lambda: result)
    assert ahead.take([one]) is result and ahead.staleness == 1
    ahead.begin([one], lambda: result)
    assert ahead.take([other]) is None and ahead.staleness == 0
    assert "other prompts than were sampled ahead" in caplog.text
    ahead.close()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["rollout.mode=colocate"], "1 samples while the update runs"),
        (["trainer.vllm_importance_sampling_correction=false"], "1 samples with the policy of before the last update"),
        (["trainer.num_iterations=2"], "1 needs one rollout a step"),
        (["trainer.gradient_accumulation_steps=2", "trainer.steps_per_generation=4"], "1 needs one rollout a step"),
        (["trainer.generation_batch_size=64"], "1 needs one rollout a step"),
        (["rewards.dead_groups=resample"], "1 samples nothing twice"),
    ],
)
def test_what_cannot_go_ahead_is_refused(changes, problem):
    recipe = ["recipes/nano.yaml", "rollout.backend=vllm", "rollout.mode=server", "rollout.ahead=1"]
    with pytest.raises(ConfigError, match=f"rollout.ahead: {problem}"):
        load_recipe([*recipe, *changes])
