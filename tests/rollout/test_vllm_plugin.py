"""The plugin of a vLLM server that takes adapters over HTTP: its store and its routes."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_mmpc.rollout.vllm import adapter_store, guard
from grpo_mmpc.rollout.vllm import plugin as vllm_plugin
from grpo_mmpc.rollout.vllm.adapter_store import AdapterStore, content_hash, pack, unpack, write_adapter
from grpo_mmpc.rollout.vllm.guard import Guard
from grpo_mmpc.rollout.vllm.plugin import AdapterUpload


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a\n", "ä", "a" * 129])
def test_names_that_are_not_plain_files_are_refused(tmp_path, name):
    store = AdapterStore([tmp_path])
    with pytest.raises(ValueError, match="is not an adapter name"):
        store.put(name, config=b"{}", weights=b"w")
    assert store.names() == []


def test_stored_adapters_are_private_and_gone_after_close(tmp_path):
    store = AdapterStore([tmp_path])
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
        from grpo_mmpc.rollout.vllm.adapter_store import AdapterStore
        AdapterStore([pathlib.Path({str(tmp_path)!r})]).put("old", config=b"{{}}", weights=b"w")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    alive = AdapterStore([tmp_path])
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    another = AdapterStore([tmp_path])
    assert set(tmp_path.iterdir()) == {*alive.folders, *another.folders}


@pytest.fixture
def memory_and_disk(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Two places for adapters, of which the first has room for 100 bytes."""
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()

    def size(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:  # the draft of another upload, removed since it was listed
            return 0

    def usage(path: Path) -> Any:
        used = sum(size(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)
        return SimpleNamespace(free=(100 if memory in (path, *Path(path).parents) else 1000) - used)

    monkeypatch.setattr(adapter_store.shutil, "disk_usage", usage)
    return memory, disk


def test_an_adapter_that_memory_has_no_room_for_is_written_to_disk(memory_and_disk):
    memory, disk = memory_and_disk
    store = AdapterStore([memory, disk])
    paths = [store.put(name, config=b"{}", weights=b"w" * 58) for name in ("first", "second")]  # 60 bytes each
    assert [path.parents[1] for path in paths] == [memory, disk]
    assert store.names() == ["first", "second"]
    assert store.remove("second") and not paths[1].exists()
    assert store.remove("first") and store.names() == []
    store.close()
    assert [*memory.iterdir(), *disk.iterdir()] == []


def test_an_adapter_that_fits_nowhere_is_refused_with_what_was_needed_where_and_what_to_do(memory_and_disk):
    memory, disk = memory_and_disk
    message = (
        rf"no room for an adapter of 2\.0 MB \({memory} has 0\.0 MB free; {disk} has 0\.0 MB free\); .*shm.*TMPDIR"
    )
    with pytest.raises(OSError, match=message):
        write_adapter([memory, disk], "a", config=b"{}", weights=b"w" * 2_000_000)
    assert [*memory.iterdir(), *disk.iterdir()] == []


def test_a_place_that_fills_up_meanwhile_is_left_clean_and_the_next_one_used(memory_and_disk, monkeypatch):
    memory, disk = memory_and_disk
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if memory in path.parents and path.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert write_adapter([memory, disk], "a", config=b"{}", weights=b"w") == disk / "a"
    assert list(memory.iterdir()) == []
    with pytest.raises(OSError, match=rf"{memory}: No space left on device"):
        write_adapter([memory], "b", config=b"{}", weights=b"w")


def test_uploads_of_one_name_at_a_time_leave_one_adapter_where_all_were_told(memory_and_disk):
    """The first rank fills memory; the others must not move the adapter to disk."""
    memory, disk = memory_and_disk
    store = AdapterStore([memory, disk])
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: store.put("a", config=b"{}", weights=b"w" * 58), range(8)))
    (path,) = paths
    assert (path / "adapter_model.safetensors").read_bytes() == b"w" * 58
    assert [folder for place in store.folders for folder in place.iterdir() if folder.is_dir()] == [path]


def test_an_upload_survives_packing_and_half_of_one_is_refused():
    body = pack(config=b'{"r": 8}', weights=b"tensors")
    assert unpack(body) == (b'{"r": 8}', b"tensors")
    for broken in (body[:16], body[:5], b""):
        with pytest.raises(ValueError):
            unpack(broken)


LORA = b'{"peft_type": "LORA", "r": 8}'


def named(body: bytes, name: str = "policy") -> str:
    return f"/grpo_mmpc/adapters/{name}-{content_hash(body)}"


class Server:
    """The routes of the plugin behind the guard, on a vLLM that notes what it is told."""

    def __init__(self) -> None:
        from starlette.applications import Starlette
        from starlette.testclient import TestClient

        self.lora_requests: dict[str, str] = {}
        self.refuses = ""
        app, self.plugin = Starlette(), AdapterUpload()
        self.plugin.attach_router(app)
        app.add_middleware(Guard)
        state = SimpleNamespace(vllm_config=None, openai_serving_models=self)
        asyncio.run(self.plugin.init_state(self, state, None))
        self.client = TestClient(app, base_url="http://127.0.0.1:8000", headers={"Authorization": "Bearer secret"})

    async def load_lora_adapter(self, request: Any) -> Any:
        if self.refuses:
            return SimpleNamespace(error=SimpleNamespace(message=self.refuses))
        self.lora_requests[request.lora_name] = request.lora_path
        return "Success"

    async def unload_lora_adapter(self, request: Any) -> None:
        del self.lora_requests[request.lora_name]

    async def check_health(self) -> None:
        pass

    def put(self, weights: bytes, *, config: bytes = LORA, owner: str = "run", **options: Any) -> Any:
        body = pack(config=config, weights=weights)
        return self.client.put(named(body), content=body, headers={"X-Grpo-Mmpc-Owner": owner}, **options)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Server:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    monkeypatch.setattr(vllm_plugin, "engine_facts", lambda *_: {"model": "base"})
    monkeypatch.setattr(adapter_store.os, "access", lambda *_: False)
    monkeypatch.setattr(adapter_store.tempfile, "tempdir", str(tmp_path))
    return Server()


def test_an_upload_is_stored_loaded_and_unloaded(server):
    assert server.put(b"tensors").status_code == 200
    assert server.put(b"tensors").status_code == 200  # another rank
    ((name, path),) = server.lora_requests.items()
    assert (Path(path) / "adapter_model.safetensors").read_bytes() == b"tensors"
    assert server.client.delete(f"/grpo_mmpc/adapters/{name}").status_code == 200
    assert server.lora_requests == {} and not Path(path).exists()
    assert server.client.delete(f"/grpo_mmpc/adapters/{name}").status_code == 404


def test_a_name_that_is_not_the_contents_is_refused(server):
    good, other = pack(config=LORA, weights=b"one"), pack(config=LORA, weights=b"two")
    for path in (named(other), "/grpo_mmpc/adapters/policy", named(good, ".a"), named(good, "a%2Fb")):
        assert server.client.put(path, content=good).status_code in (400, 404)
    assert server.lora_requests == {}


@pytest.mark.parametrize("config", [b"[]", b"{", b"[" * 100_000, b'{"r": -1}', b"{" + b" " * 2**20 + b"}"])
def test_a_configuration_that_is_none_is_refused_in_words(server, config):
    answer = server.put(b"w", config=config)
    assert answer.status_code == 400 and "adapter_config.json" in answer.json()["error"]["message"]


def test_an_adapter_that_vllm_refuses_is_answered_with_its_reason_and_not_kept(server):
    server.refuses = "rank 999 is greater than max_lora_rank"
    answer = server.put(b"w")
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, server.refuses)
    assert server.plugin._store.names() == []


def test_an_upload_that_the_server_has_no_room_for_is_answered_with_why(server, monkeypatch, tmp_path):
    monkeypatch.setattr(adapter_store.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    answer = server.put(b"w")
    assert answer.status_code == 507
    assert f"no room for an adapter of 0.0 MB ({tmp_path}" in answer.json()["error"]["message"]


def test_a_run_pushes_out_its_own_adapters_and_no_other_runs(server):
    assert server.put(b"theirs", owner="other").status_code == 200
    for number in range(8):
        assert server.put(b"%d" % number).status_code == 200
    held = {(Path(path) / "adapter_model.safetensors").read_bytes() for path in server.lora_requests.values()}
    assert held == {b"theirs", b"4", b"5", b"6", b"7"}


def test_silent_runs_make_room_and_others_do_not(server, monkeypatch):
    monkeypatch.setattr(vllm_plugin, "MAX_BYTES", 250)
    assert server.put(b"a" * 100, owner="first").status_code == 200
    assert server.put(b"b" * 100, owner="second").status_code == 507
    monkeypatch.setattr(vllm_plugin, "IDLE_S", -1.0)
    assert server.put(b"b" * 100, owner="second").status_code == 200
    assert len(server.lora_requests) == 1


# The guard ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "Bearer other", "secret", "Basic secret", "Bearer "])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "OPTIONS"])
def test_nothing_answers_without_the_key_but_the_health_probe(server, authorization, method):
    headers = {} if authorization is None else {"Authorization": authorization}
    if authorization is None:
        del server.client.headers["Authorization"]
    for path in ("/grpo_mmpc/engine", "/metrics", "/v1/chat/completions", "/docs"):
        assert server.client.request(method, path, headers=headers).status_code == 401
    assert server.client.get("/health", headers=headers).status_code == 404  # this app has none


def test_a_server_without_a_key_answers_nobody(server, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "")
    keyless = Server()
    assert keyless.client.get("/grpo_mmpc/engine", headers={"Authorization": "Bearer "}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_page_that_gives_the_loopback_interface_another_name_is_refused(server, host, monkeypatch):
    assert server.client.get("/grpo_mmpc/engine", headers={"Host": host}).status_code == 400
    for fine in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert server.client.get("/grpo_mmpc/engine", headers={"Host": fine}).status_code == 200
    monkeypatch.setenv("GRPO_MMPC_SERVE_HOST", "0.0.0.0")
    assert Server().client.get("/grpo_mmpc/engine", headers={"Host": "node7:8000"}).status_code == 200


def test_bodies_are_bounded_whether_their_length_is_stated_or_not(server, monkeypatch):
    monkeypatch.setattr(guard, "MAX_UPLOAD_BYTES", 1000)
    assert server.put(b"w" * 900).status_code == 200
    assert server.put(b"w" * 1000).status_code == 413
    chunks = (b"w" * 300 for _ in range(9))
    assert server.client.put(named(b""), content=chunks).status_code == 413
    assert server.client.put(named(b""), content=b"w", headers={"Content-Length": "-1"}).status_code in (400, 413)


@pytest.mark.parametrize(("pause_s", "chunk", "word"), [(10.0, b"", "no byte"), (0.03, b"w", "too slowly")])
def test_a_body_that_only_holds_the_server_is_cut(monkeypatch, pause_s, chunk, word):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    monkeypatch.setattr(guard, "_PATIENCE_S", 0.2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": chunk, "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer secret")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    asyncio.run(asyncio.wait_for(Guard(app)(scope, trickle, send), 5))
    assert sent[0]["status"] == 408 and word in sent[1]["body"].decode()
