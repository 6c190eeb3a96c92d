"""Rollouts over HTTP, with the network played by a fake server."""

import base64
import io
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from PIL import Image

from grpo_mmpc.errors import RolloutError
from grpo_mmpc.models.adapter import Adapter
from grpo_mmpc.rollout.vllm.protocol import Prompt
from grpo_mmpc.rollout.vllm.server_facts import expected_engine
from grpo_mmpc.rollout.vllm.servers import ServerVLLM
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.distributed import Ranks
from tests.rollout.asking_servers import ADAPTER, EXPECTED, SAMPLED, asking, connect, due, tokens, wait_for_all
from tests.rollout.fake_vllm_server import FakeVLLM
from tests.rollout.processes import free_port
from tests.rollout.vllm_policies import vllm_config

GREEDY = SamplingConfig(max_tokens=5, temperature=0.0)


def wait_until_empty(fakes: list[FakeVLLM]) -> None:
    """Wait for the adapters to leave, which happens in the background."""
    deadline = time.monotonic() + 5
    while any(fake.files or fake.loaded for fake in fakes):
        assert time.monotonic() < deadline, [(fake.files, fake.loaded) for fake in fakes]
        time.sleep(0.01)


# --- requests and answers ---


def test_results_stand_in_the_order_of_the_prompts(fakes):
    engine = connect(*fakes, max_concurrent=8)
    assert tokens(engine, 40) == due(40)
    assert sum(len(fake.chats) for fake in fakes) == 40


def test_a_server_that_takes_longer_gets_fewer_prompts(fakes):
    def until_the_other_has_twenty(_: int) -> None:
        wait_for_all(fakes[1:], 20, 0)

    fakes[0].fault = until_the_other_has_twenty
    assert tokens(connect(*fakes, max_concurrent=4, timeout=60.0), 24) == due(24)
    assert len(fakes[0].chats) <= 4  # two at the start, and two when it is as free as the other; in turn it had 12


@pytest.mark.parametrize(
    ("num_ranks", "num_prompts", "num_servers"), [(8, 2, 8), (8, 1, 4), (4, 3, 5), (3, 1, 4), (1, 5, 2), (2, 8, 3)]
)
def test_ranks_in_lockstep_load_the_servers_evenly(num_ranks, num_prompts, num_servers):
    """For instance 8 ranks with 2 prompts each on 8 servers: every server gets 2 of the 16.

    A server answers when all prompts of a rank have arrived.
    """
    fakes = [FakeVLLM() for _ in range(num_servers)]
    try:
        engines = [
            connect(*fakes, ranks=Ranks(rank=rank, count=num_ranks), max_concurrent=8, timeout=60.0)
            for rank in range(num_ranks)
        ]
        for prompts in (num_prompts, 1, num_prompts):
            before = [len(fake.chats) for fake in fakes]
            for number, engine in enumerate(engines, start=1):
                for fake in fakes:
                    fake.fault = partial(wait_for_all, fakes, sum(before) + number * prompts)
                assert tokens(engine, prompts) == due(prompts)
            got = [len(fake.chats) - start for fake, start in zip(fakes, before, strict=True)]
            assert sum(got) == num_ranks * prompts
            assert max(got) - min(got) <= 1
    finally:
        for fake in fakes:
            fake.stop()


def test_the_prompts_of_a_server_that_is_away_are_shared_by_all_others():
    fakes = [FakeVLLM() for _ in range(4)]
    try:
        engine = connect(*fakes, max_concurrent=1)
        fakes[0].stop()
        assert tokens(engine, 31) == due(31)  # the first tries the server that is away
        assert sorted(len(fake.chats) for fake in fakes[1:]) == [10, 10, 11]
    finally:
        for fake in fakes[1:]:
            fake.stop()


def test_a_group_is_one_request_that_leaves_no_parameter_to_a_default(fakes):
    engine = connect(fakes[0], suppressed_token_ids=[6, 9], chat_template_kwargs={"enable_thinking": False})
    engine.generate([asking(3, count=4)], SAMPLED, adapter=None)
    (body,) = fakes[0].chats
    assert body.pop("messages") == [{"role": "user", "content": [{"type": "text", "text": "1 3"}]}]
    assert body == {
        "model": "base",
        "n": 4,
        "seed": 3,
        "max_completion_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "logit_bias": {"6": -100.0, "9": -100.0},
        "chat_template_kwargs": {"enable_thinking": False},
        "logprobs": True,
        "return_token_ids": True,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def test_a_greedy_group_is_asked_for_once_because_vllm_refuses_equal_completions(fakes):
    (output,) = connect(fakes[0]).generate([asking(3, count=3)], GREEDY, adapter=None)
    assert [(body["n"], body["seed"], body["top_p"], body["top_k"]) for body in fakes[0].chats] == [(1, None, 1.0, 0)]
    assert [completion.token_ids for completion in output.completions] == [[0, 0]] * 3


def test_an_image_arrives_pixel_by_pixel_and_is_encoded_once(fakes, monkeypatch):
    image = Image.effect_noise((33, 20), 80).convert("RGB")
    image.info["exif"] = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    saved: list[str] = []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda *args, **kwargs: saved.append("png") or save(*args, **kwargs))
    connect(fakes[0], max_concurrent=1).generate([asking(i, image=image) for i in range(5)], SAMPLED, adapter=None)
    assert saved == ["png"]
    for body in fakes[0].chats:
        image_part, text = body["messages"][0]["content"]
        assert text["type"] == "text"
        header, _, data = image_part["image_url"]["url"].partition(",")
        assert header == "data:image/png;base64"
        received = Image.open(io.BytesIO(base64.b64decode(data)))
        assert received.tobytes() == image.tobytes()
        assert not received.getexif()  # vLLM would turn the image by its orientation


def test_a_prompt_that_server_and_trainer_see_differently_is_refused_with_what_differs(fakes):
    fakes[0].prompt_ids = lambda ids: [1, 6, 6, *ids[1:]]
    prompt = Prompt(token_ids=[1, 6, 8], conversation=[{"role": "user", "content": "1 6 8"}], count=1, seed=0)
    with pytest.raises(RolloutError) as caught:
        connect(fakes[0]).generate([prompt], SAMPLED, adapter=None)
    message = str(caught.value)
    assert fakes[0].url in message
    assert "3 and 5 tokens, parting at position 2" in message
    assert "Image tokens: 1 in the trainer's prompt, 3 in the server's" in message
    assert "max_pixels" in message and "chat template" in message and "begin-of-sequence" in message


def test_a_prompt_that_would_be_cut_short_is_refused_before_it_is_sent_and_costs_no_other(fakes):
    sampling = SamplingConfig(max_tokens=98, temperature=1.0)
    long = Prompt(token_ids=[1, 2, 3], conversation=asking(1).conversation, count=1, seed=1)
    refused, output = connect(fakes[0]).generate([long, asking(1)], sampling, adapter=None)
    assert "3 tokens and a completion of up to 98 exceed the context of 100" in refused.reason
    assert [completion.token_ids for completion in output.completions] == [[1, 0], [1, 1]]
    assert len(fakes[0].chats) == 1


# --- adapters ---


def test_an_adapter_reaches_every_server_byte_by_byte_and_leaves_every_server(fakes):
    engine = connect(*fakes)
    engine.load(ADAPTER)
    for fake in fakes:
        (name,) = fake.loaded
        assert fake.files[name] == (ADAPTER.config, ADAPTER.weights)
    tokens(engine, 4, adapter="policy-1")
    assert {body["model"] for fake in fakes for body in fake.chats} == {name}
    engine.unload("policy-1")
    wait_until_empty(fakes)


def test_what_another_run_left_under_the_same_name_is_never_used(fakes):
    connect(fakes[0]).load(Adapter(name="policy-1", config=b'{"r": 8}', weights=b"old tensors"))
    engine = connect(fakes[0])
    engine.load(ADAPTER)
    tokens(engine, 1, adapter="policy-1")
    assert fakes[0].files[fakes[0].chats[0]["model"]][1] == ADAPTER.weights


def test_an_adapter_that_is_already_there_is_not_sent_again(fakes):
    for _rank in range(2):
        connect(fakes[0]).load(ADAPTER)
    assert len(fakes[0].uploads) == 1


class Together:
    """Ranks as threads, and the collective that gives all of them the items of each."""

    def __init__(self, num_ranks: int) -> None:
        self._barrier = threading.Barrier(num_ranks)
        self._items: list[list[Any]] = [[] for _ in range(num_ranks)]
        self._pool = ThreadPoolExecutor(num_ranks)
        self.num_ranks = num_ranks

    def gather(self, rank: int, items: list[Any]) -> list[Any]:
        self._items[rank] = items
        self._barrier.wait(30)
        everyones = [item for items in self._items for item in items]
        self._barrier.wait(30)
        return everyones

    def connect(self, *servers: FakeVLLM, **options: Any) -> list[ServerVLLM]:
        return [
            connect(
                *servers,
                ranks=Ranks(rank=rank, count=self.num_ranks, gather=partial(self.gather, rank)),
                **options,
            )
            for rank in range(self.num_ranks)
        ]

    def each(self, do: Callable[[ServerVLLM], Any], engines: list[ServerVLLM]) -> list[Any]:
        """What ``do`` returned or raised, rank by rank."""
        futures = [self._pool.submit(do, engine) for engine in engines]
        return [future.exception(20) or future.result() for future in futures]


def test_an_adapter_of_eight_ranks_travels_once_to_every_server(fakes):
    ranks = Together(8)
    engines = ranks.connect(*fakes)
    assert ranks.each(lambda engine: engine.load(ADAPTER), engines) == [None] * 8
    assert [len(fake.uploads) for fake in fakes] == [1, 1]
    assert ranks.each(lambda engine: tokens(engine, 2, adapter="policy-1"), engines) == [due(2)] * 8
    ranks.each(lambda engine: engine.unload("policy-1"), engines)
    wait_until_empty(fakes)


def test_the_main_rank_alone_unloads_and_waits_for_no_server(fakes):
    ranks = Together(2)
    main, other = ranks.connect(fakes[0], timeout=60.0)
    ranks.each(lambda engine: engine.load(ADAPTER), [main, other])
    answers = threading.Event()
    fakes[0].before_unload = lambda: answers.wait(10)
    try:
        other.unload("policy-1")
        main.unload("policy-1")  # returns although the server has not answered
        assert fakes[0].loaded
    finally:
        answers.set()
    wait_until_empty(fakes)
    for engine in (main, other):
        engine.close()
    assert fakes[0].unloads == 1


def test_a_rank_that_sent_nothing_can_give_a_restarted_server_its_adapter_back(fakes):
    ranks = Together(2)
    engines = ranks.connect(fakes[0])
    ranks.each(lambda engine: engine.load(ADAPTER), engines)
    fakes[0].restart()
    assert tokens(engines[1], 4, adapter="policy-1") == due(4)
    (name,) = fakes[0].loaded
    assert fakes[0].files[name] == (ADAPTER.config, ADAPTER.weights)


def test_an_adapter_that_one_rank_cannot_load_is_an_error_on_every_rank(fakes):
    fakes[1].refuses_adapters = "target modules ['visual'] not supported"
    ranks = Together(3)
    engines = ranks.connect(*fakes)
    errors = ranks.each(lambda engine: engine.load(ADAPTER), engines)
    assert [type(error) for error in errors] == [RolloutError] * 3
    assert all("target modules ['visual'] not supported" in str(error) for error in errors)
    assert ["rank 1 failed" in str(error) for error in errors] == [True, False, True]  # it sends to the second server
    fakes[1].refuses_adapters = ""
    assert ranks.each(lambda engine: engine.load(ADAPTER), engines) == [None] * 3  # nothing is left of the failure


def test_a_bug_on_one_rank_stops_the_other_ranks_too(fakes, monkeypatch):
    ranks = Together(2)
    engines = ranks.connect(fakes[0])
    monkeypatch.setattr(engines[0], "_send", lambda upload: 1 / 0)
    errors = ranks.each(lambda engine: engine.load(ADAPTER), engines)
    assert [type(error) for error in errors] == [ZeroDivisionError, RolloutError]


def test_processes_that_train_together_send_an_adapter_once_and_share_the_servers(fakes, tmp_path):
    """Over gloo, with a recipe's engine; a second adapter has no room: both processes say so."""
    config = vllm_config("qwen2_5_vl", tmp_path)
    expected = expected_engine(config, context_tokens=6)
    for fake in fakes:
        fake.facts.update(model_identity=expected.model_identity, mm_processor_kwargs={})
        fake.room = 1
    code = """
        import sys
        from accelerate import PartialState
        from grpo_mmpc.config import RunConfig
        from grpo_mmpc.errors import RolloutError
        from grpo_mmpc.models.adapter import Adapter
        from grpo_mmpc.rollout.vllm.start import start_engine
        from tests.rollout.test_vllm_servers import ADAPTER, due, tokens
        from grpo_mmpc.utils.distributed import launched_ranks
        state = PartialState(cpu=True)
        recipe = RunConfig.model_validate_json(sys.argv[1])
        engine = start_engine(recipe, None, suppressed=[], max_tokens=5, ranks=launched_ranks())
        engine.load(ADAPTER)
        assert tokens(engine, 1, adapter="policy-1") == due(1)
        state.wait_for_everyone()
        try:
            engine.load(Adapter(name="policy-2", config=b"{}", weights=b"more"))
        except RolloutError as error:
            print(error)
        state.wait_for_everyone()
        state.destroy_process_group()
    """
    recipe = json.loads(config.model_dump_json())
    recipe["rollout"].update(mode="server", servers=[fake.url for fake in fakes], server_timeout=30)
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), json.dumps(recipe)],
            env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [[name[:8] for name in fake.uploads] for fake in fakes] == [["policy-1", "policy-2"]] * 2
    assert [len(fake.chats) for fake in fakes] == [1, 1]
    assert all("cannot store the adapter: no room" in output for output in outputs)
    assert not any("failed: RolloutError" in output for output in outputs)  # each at its own server


def test_a_server_without_room_is_an_error_at_once_and_not_an_outage(fakes):
    fakes[0].room = 0
    with pytest.raises(RolloutError, match=rf"{fakes[0].url}: the server cannot store the adapter: no room"):
        connect(fakes[0], timeout=30).load(ADAPTER)
    assert len(fakes[0].uploads) == 1


@pytest.mark.parametrize(("dtypes", "sent"), [(("bfloat16",) * 2, "bfloat16"), (("bfloat16", "float16"), "float32")])
def test_adapters_are_sent_in_the_type_in_which_every_server_keeps_them(fakes, dtypes, sent):
    for fake, dtype in zip(fakes, dtypes, strict=True):
        fake.facts["lora_dtype"] = dtype
    assert connect(*fakes).lora_dtype == sent


def test_closing_takes_the_runs_adapters_along(fakes):
    engine = connect(*fakes)
    engine.load(ADAPTER)
    engine.close()
    assert [(fake.files, fake.loaded) for fake in fakes] == [({}, [])] * 2


def test_an_adapter_that_vllm_cannot_use_is_an_error_at_once(fakes):
    fakes[0].refuses_adapters = "target modules ['visual'] not supported"
    started = time.monotonic()
    with pytest.raises(RolloutError, match=r"cannot load the adapter: .*target modules \['visual'\] not supported"):
        connect(fakes[0], timeout=30).load(ADAPTER)
    assert time.monotonic() - started < 5


# --- checks at start ---


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"enable_lora": False}, r"serves no adapters; start it with --enable-lora"),
        ({"max_lora_rank": 4}, r"takes adapters up to rank 4, adapter\.r .* is 8; raise --max-lora-rank"),
        ({"model_identity": "bbbb"}, r"another base model: /models/base \(identity bbbb\) instead of base"),
        ({"model_identity": None}, r"another base model: /models/base \(identity unknown\)"),
        (
            {"structured_outputs": {"backend": "auto"}},
            r"spaces to the end of its tokens.*--structured-outputs-",
        ),
        ({"logprobs_mode": "raw_logprobs"}, r"returns raw_logprobs, .*--logprobs-mode processed_logprobs"),
        ({"mm_processor_kwargs": {}}, r"images with {}, the trainer with {'max_pixels': 7056}.*--mm-processor-kwargs"),
        ({"max_model_len": 99}, r"context of 99 tokens, .* up to 100; raise --max-model-len"),
    ],
)
def test_a_server_that_is_not_what_the_run_needs_is_refused_with_name_and_remedy(fakes, facts, message):
    fakes[1].facts.update(facts)
    with pytest.raises(RolloutError, match=message) as caught:
        connect(*fakes)
    assert fakes[1].url in str(caught.value) and fakes[0].url not in str(caught.value)


def test_every_difference_is_named_at_once(fakes):
    fakes[0].facts.update(max_lora_rank=4, max_model_len=99)
    with pytest.raises(RolloutError, match=r"(?s)up to rank 4.*context of 99"):
        connect(fakes[0])


def test_a_server_without_the_upload_route_is_refused_with_how_to_start_it(fakes):
    fakes[0].has_plugin = False
    with pytest.raises(RolloutError, match=r"grpo-mmpc serve RECIPE.*VLLM_PLUGINS=grpo_mmpc_adapters"):
        connect(fakes[0])


def test_a_server_that_is_not_there_is_waited_for_and_then_named(fakes):
    fakes[0].stop()
    started = time.monotonic()
    with pytest.raises(RolloutError, match=rf"{fakes[0].url} is not there after rollout.server_timeout=0.5 s"):
        connect(fakes[0], timeout=0.5)
    assert 0.5 <= time.monotonic() - started < 3


def test_a_server_that_starts_late_is_used(fakes):
    port = fakes[0].port
    fakes[0].stop()

    def start() -> None:
        fakes[0] = FakeVLLM(port)

    threading.Timer(0.7, start).start()
    engine = ServerVLLM([f"http://127.0.0.1:{port}"], expected=EXPECTED, timeout=10)
    assert tokens(engine, 2) == due(2)


@pytest.mark.parametrize(("url", "message"), [("localhost:8000", "write http://host:8000"), (None, "is empty")])
def test_addresses_that_cannot_be_are_refused(url, message):
    with pytest.raises(RolloutError, match=message):
        ServerVLLM([] if url is None else [url], expected=EXPECTED, timeout=1)


def test_the_api_key_is_sent_when_there_is_one(fakes, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    connect(fakes[0])
    assert fakes[0].api_keys == {"Bearer secret"}


def test_the_trainers_machine_needs_no_vllm():
    code = "import sys; sys.modules['vllm'] = None; from grpo_mmpc.rollout.vllm import servers; print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "fine\n"
