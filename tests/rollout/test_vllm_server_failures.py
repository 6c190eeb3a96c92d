"""Rollouts over HTTP whose servers fail in the middle, played by a fake server."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import httpx
import pytest

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout.vllm.servers import ServerVLLM
from grpo_mmpc.utils.single_out import Raised
from tests.rollout.asking_servers import ADAPTER, EXPECTED, SAMPLED, asking, connect, due, tokens, wait_for_all
from tests.rollout.fake_vllm_server import FakeVLLM

# --- failures in the middle ---


@pytest.mark.parametrize("fault", ["reset", "500", "503", "hang", "cut", "abort"])
@pytest.mark.parametrize("num_servers", [1, 2])
def test_after_a_failure_every_completion_arrives_exactly_once(fakes, caplog, fault, num_servers):
    """The first server fails for 0.3 s; one warning when it goes, one when it is back."""
    began: list[float] = []

    def fail(number: int) -> str | None:
        if number < 2:
            return None
        began.append(time.monotonic())
        return fault if time.monotonic() - began[0] < 0.3 else None

    fakes[0].fault = fail
    engine = connect(*fakes[:num_servers], timeout=1.0 if fault == "hang" else 8.0, max_concurrent=4)
    with caplog.at_level(logging.WARNING):
        assert tokens(engine, 30) == due(30)
        for _ in range(50):  # a server that failed gets its next prompt after a pause
            if "is back after" in caplog.text:
                break
            time.sleep(0.1)
            assert tokens(engine, 4) == due(4)
    lines = [record.getMessage() for record in caplog.records if "rollout server" in record.getMessage()]
    assert all(fakes[0].url in line for line in lines)
    assert ["is back" in line for line in lines] == [False, True]


def test_a_request_that_the_server_refuses_is_not_sent_again_and_costs_no_other(fakes):
    fakes[0].fault = lambda number: "400" if number == 0 else None
    refused, output = connect(fakes[0], max_concurrent=1).generate([asking(1), asking(2)], SAMPLED, adapter=None)
    assert refused == Raised(reason=f"rollout server {fakes[0].url} refuses it (400): told to answer 400")
    assert [completion.token_ids for completion in output.completions] == [[2, 0], [2, 1]]
    assert len(fakes[0].chats) == 2


def test_an_outage_of_all_servers_ends_in_an_error_that_names_them(fakes):
    engine = connect(*fakes, timeout=1.0)
    for fake in fakes:
        fake.fault = lambda number: "reset"
    started = time.monotonic()
    with pytest.raises(RolloutError, match=r"no rollout server answered for rollout.server_timeout=1 s") as caught:
        tokens(engine, 20)
    assert time.monotonic() - started < 6
    assert all(fake.url in str(caught.value) for fake in fakes) and "--resume" in str(caught.value)


def test_one_request_at_a_time_finds_out_whether_a_server_is_back(fakes):
    """All others go to those that answer, instead of waiting for one that perhaps does not."""
    engine = connect(*fakes, max_concurrent=8, timeout=60.0)
    fakes[0].fault = lambda number: "500"
    assert tokens(engine, 8) == due(8)
    time.sleep(0.6)  # it is due for another attempt
    before = [len(fake.chats) for fake in fakes]
    fakes[0].fault = partial(wait_for_all, fakes[1:], before[1] + 23)  # answers when the other has done the rest
    assert tokens(engine, 24) == due(24)
    assert len(fakes[0].chats) == before[0] + 1


def test_a_server_that_is_back_in_time_but_still_answers_is_no_outage(fakes):
    """Away for most of the timeout, and past it before the request that tried it has its answer."""
    began: list[float] = []

    def back_after_two_seconds(number: int) -> str | None:
        began.append(time.monotonic())
        if began[-1] - began[0] < 2.0:
            return "500"
        time.sleep(1.5)
        return None

    engine = connect(fakes[0], max_concurrent=8, timeout=3.0)
    fakes[0].fault = back_after_two_seconds
    assert tokens(engine, 8) == due(8)


def test_a_server_has_ten_seconds_to_take_a_connection_and_the_timeout_to_answer(fakes):
    assert connect(fakes[0], timeout=60.0)._http.timeout == httpx.Timeout(60.0, connect=10.0)


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_closing_ends_what_another_thread_waits_for(fakes, fault):
    """A server that is down, or one that does not answer."""
    engine = connect(fakes[0], timeout=60.0)
    fakes[0].fault = lambda number: fault
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tokens, engine, 4)
        wait_for_all(fakes, 4, 0)
        engine.close()
        with pytest.raises(RolloutError, match="the run ended"):
            waiting.result(timeout=10)


def test_a_restarted_server_gets_its_adapters_back_before_it_answers(fakes):
    engine = connect(fakes[0])
    engine.load(ADAPTER)
    assert tokens(engine, 8, adapter="policy-1") == due(8)
    fakes[0].restart()
    assert tokens(engine, 8, adapter="policy-1") == due(8)
    (name,) = fakes[0].loaded
    assert fakes[0].uploads == [name, name]  # eight prompts noticed it, one upload
    assert fakes[0].files[name] == (ADAPTER.config, ADAPTER.weights)


def test_a_server_that_comes_back_as_another_engine_stops_the_run(fakes):
    engine = connect(fakes[0])
    engine.load(ADAPTER)
    fakes[0].restart()
    fakes[0].facts["model_identity"] = "bbbb"
    with pytest.raises(RolloutError, match="serves another base model"):
        tokens(engine, 8, adapter="policy-1")


def test_an_adapter_loaded_while_a_server_is_away_waits_for_it(fakes, caplog):
    engine = connect(*fakes, max_concurrent=2)
    port = fakes[0].port
    fakes[0].stop()
    engine.load(ADAPTER)
    assert tokens(engine, 4, adapter="policy-1") == due(4)
    fakes[0] = FakeVLLM(port)
    time.sleep(0.6)
    assert tokens(engine, 4, adapter="policy-1") == due(4)
    assert fakes[0].loaded == fakes[1].loaded and len(fakes[0].loaded) == 1
    assert fakes[0].chats


# --- what a server is ---


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"dtype": "float16"}, "it computes with dtype float16 instead of float32; start it with --dtype float32"),
        ({"quantization": "fp8"}, "it computes with quantization fp8 instead of None; start it without --quantization"),
        (
            {"max_loras": 1},
            "it serves 1 adapter at once, evaluation.where",
        ),
        ({"vllm_version": "0.32.1"}, "it runs vLLM 0.32.1; 0.31 is needed"),
    ],
)
def test_a_server_that_computes_otherwise_is_refused(fakes, facts, problem):
    fakes[0].facts |= {"max_loras": 2} | facts
    with pytest.raises(RolloutError) as caught:
        ServerVLLM([fakes[0].url], expected=replace(EXPECTED, dtype="float32", num_adapters=2), timeout=5.0)
    assert problem in str(caught.value)


def test_an_output_names_the_server_it_is_from(fakes):
    outputs = connect(*fakes).generate([asking(i) for i in range(4)], SAMPLED, adapter=None)
    assert {output.server for output in outputs} <= {fake.url for fake in fakes}


def test_an_adapter_is_sent_in_pieces_because_the_rest_of_a_large_one_is_copied_with_each_part(fakes, monkeypatch):
    """160 MB to this machine took 27 s as one piece, at a load of 17, and .1 s in pieces."""
    sent: list[int] = []
    request = httpx.Client.request

    def watched(self, method, url, *, content=None, **options):
        return request(self, method, url, content=content and (sent.append(len(p)) or p for p in content), **options)

    monkeypatch.setattr(httpx.Client, "request", watched)
    large = replace(ADAPTER, weights=bytes(3 * 2**20))
    connect(fakes[0]).load(large)
    ((_, weights),) = fakes[0].files.values()
    assert weights == large.weights
    assert len(sent) == 4 and max(sent) == 2**20
