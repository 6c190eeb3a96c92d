"""``data import`` of a data set's name, in a fresh process whose hub is a server made here."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NAME, COMMIT = "shop/products", "a" * 40
FILES = {
    "train.jsonl": b'{"item_id": "1", "title": "red mug"}\n{"item_id": "2", "title": "blue mug"}\n',
    "test.jsonl": b'{"item_id": "3", "title": "green mug"}\n',
}


class Hub(BaseHTTPRequestHandler):
    """Answers what is asked of the hub about one data set, and 404 to all else."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        about = f"/api/datasets/{NAME}"
        file = path.removeprefix(f"/datasets/{NAME}/resolve/").partition("/")[2]
        if path in (about, f"{about}/revision/{COMMIT}"):
            files = [{"rfilename": name} for name in FILES]
            self._answer(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": files}).encode())
        elif path == f"{about}/tree/{COMMIT}":
            files = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in FILES.items()
            ]
            self._answer(200, json.dumps(files).encode())
        elif file in FILES:
            tag = hashlib.sha1(FILES[file]).hexdigest()
            self._answer(200, FILES[file], {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        else:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def imported(folder: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grpo_mmpc", "data", "import", name, "--out", str(folder / "shop")]
    environment = {**os.environ, "HF_HOME": str(folder / "home"), **environment}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


def test_every_split_of_a_data_set_of_the_hub_is_imported(endpoint: str, tmp_path: Path) -> None:
    done = imported(tmp_path, NAME, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stderr
    assert "Rows: 3; items: 3" in done.stdout
    items = [json.loads(line) for line in (tmp_path / "shop" / "items.jsonl").read_text().splitlines()]
    assert {item["item_id"]: item["title"] for item in items} == {"1": "red mug", "2": "blue mug", "3": "green mug"}


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_name_that_is_neither_here_nor_on_the_hub_is_refused_in_words(
    endpoint: str, tmp_path: Path, offline: str
) -> None:
    done = imported(tmp_path, "shop/product", HF_ENDPOINT=endpoint, HF_HUB_OFFLINE=offline)
    assert done.returncode == 2
    assert f"shop/product is no file or folder here (looked from {tmp_path})" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "shop").exists()
