"""``data import`` of a data set: by name, with a hub that is a server made here, or saved."""

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
from PIL import Image

from grpo_mmpc.catalogue.sources.importing import import_tables
from grpo_mmpc.catalogue.sources.opening import open_source

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


def test_items_without_identifier_are_named_by_their_split_and_one_without_label_has_no_category(
    tmp_path: Path,
) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["Mugs", "Pots"])})
    train = Dataset.from_dict({"text": ["red mug", "pan"], "label": [0, -1]}, features=features)
    test = Dataset.from_dict({"text": ["pot"], "label": [1]}, features=features)
    items = {}
    for name, data in (("both", DatasetDict(train=train, test=test)), ("one", DatasetDict(train=train))):
        data.save_to_disk(str(tmp_path / name))
        import_tables(open_source(str(tmp_path / name)), out=tmp_path / "shop" / name)
        items[name] = [json.loads(line) for line in (tmp_path / "shop" / name / "items.jsonl").open()]
    assert [(item["item_id"], item["category"]) for item in items["both"]] == [
        ("train-1", "Mugs"),
        ("train-2", "products"),
        ("test-1", "Pots"),
    ]
    assert [item["item_id"] for item in items["one"]] == ["one-1", "one-2"]


def test_what_cannot_be_decoded_costs_its_image_or_its_column_and_no_more(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Pdf, Value
    from datasets import Image as ImageColumn

    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    features = Features({"id": Value("string"), "title": Value("string"), "photos": {"image": ImageColumn()}})
    features |= {"image": ImageColumn(), "sheet": Pdf()}
    files = [(tmp_path / "red.png").read_bytes(), b"no image"]
    rows = [
        {
            "id": str(number),
            "title": "Mug",
            "photos": {"image": {"bytes": files[1], "path": None}},
            "image": {"bytes": content, "path": None},
            "sheet": {"bytes": b"%PDF", "path": None},
        }
        for number, content in enumerate(files)
    ]
    Dataset.from_list(rows, features=Features(features)).save_to_disk(str(tmp_path / "saved"))
    done = import_tables(open_source(str(tmp_path / "saved")), out=tmp_path / "shop")
    items = [json.loads(line) for line in (tmp_path / "shop" / "items.jsonl").open()]
    assert [bool(item["image"]) for item in items] == [True, False]
    assert [one.item_id for one in done.image_failures] == ["1"]
    assert "sheet" not in items[0]
