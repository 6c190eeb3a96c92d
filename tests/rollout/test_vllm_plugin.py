"""The plugin of a vLLM server that takes adapters over HTTP: its store and its routes."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_mmpc.rollout.vllm import adapter_store
from grpo_mmpc.rollout.vllm import plugin as vllm_plugin
from grpo_mmpc.rollout.vllm.adapter_store import AdapterStore, pack, unpack, write_adapter
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

    def usage(path: Path) -> Any:
        used = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
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
    for broken in (body[:16], body[:5], b"", pack(config=b"[]", weights=b"w"), pack(config=b"{", weights=b"w")):
        with pytest.raises(ValueError):
            unpack(broken)


@pytest.fixture
def plugin_client(tmp_path, monkeypatch) -> Iterator[Callable[..., Any]]:
    """Make a client of the plugin's routes, with keys or without, and list what vLLM unloaded."""
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
    monkeypatch.setattr(adapter_store.os, "access", lambda *_: False)
    monkeypatch.setattr(adapter_store.tempfile, "tempdir", str(tmp_path))
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


def test_an_upload_that_the_server_has_no_room_for_is_answered_with_why(plugin_client, monkeypatch, tmp_path):
    client, _ = plugin_client()
    monkeypatch.setattr(adapter_store.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    answer = client.put("/grpo_mmpc/adapters/a", content=pack(config=b"{}", weights=b"w"))
    assert answer.status_code == 507
    assert f"no room for an adapter of 0.0 MB ({tmp_path}" in answer.json()["error"]["message"]


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
