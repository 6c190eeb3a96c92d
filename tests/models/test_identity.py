"""Base models and policies are told apart by content, not by path."""

import json
import os
import shutil
from pathlib import Path

import pytest

from grpo_mmpc.errors import AdapterError
from grpo_mmpc.models.adapter_folder import open_checkpoint
from grpo_mmpc.models.identity import adapter_identity, base_model_identity, policy_identity
from grpo_mmpc.utils import content
from grpo_mmpc.utils.content import content_of_file
from grpo_mmpc.utils.hashing import file_digest
from grpo_mmpc.utils.model_paths import resolve_model


def test_base_models_are_told_apart_by_content_and_not_by_path(tmp_path):
    original = Path(resolve_model("nano:qwen2_5_vl"))
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(original, first)
    shutil.copytree(original, second)
    identity = base_model_identity(str(first))
    assert identity is not None and identity == base_model_identity(str(second))
    weights = bytearray((second / "model.safetensors").read_bytes())
    for position in range(8 + int.from_bytes(weights[:8], "little"), len(weights)):
        weights[position] ^= 1  # the same shapes, other values
    (second / "model.safetensors").write_bytes(weights)
    assert base_model_identity(str(second)) != identity
    config = json.loads((first / "config.json").read_bytes())
    (first / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    assert base_model_identity(str(first)) == identity
    assert base_model_identity("nobody/has-this-model") is None


def test_policies_differ_by_model_section_and_by_adapter(tmp_path, make_config):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, weights in zip(folders, (b"one", b"one", b"two"), strict=True):
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(weights)
        (folder / "optimizer.pt").write_bytes(folder.name.encode())  # no part of the policy
    config, other = make_config(), make_config("gemma3")
    base, first, same, changed = (policy_identity(config, adapter=folder) for folder in (None, *folders))
    assert first == same
    assert len({base, first, changed, policy_identity(other, adapter=None)}) == 4


def test_a_token_changes_no_policy_and_its_place_may_be_empty(make_config):
    with_token, recorded = (
        make_config(model={"init_kwargs": {"dtype": "float32", "token": token}}) for token in ("hf_secret", None)
    )
    assert policy_identity(with_token, adapter=None) == policy_identity(recorded, adapter=None)


def test_other_weights_in_the_same_folder_are_another_policy_and_a_copy_elsewhere_is_the_same(tmp_path, make_config):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(resolve_model("nano:qwen2_5_vl"), folder)

    def identity(folder: Path) -> str:
        return policy_identity(make_config(model={"name_or_path": str(folder)}), adapter=None)

    before = identity(first)
    assert before == identity(second) == policy_identity(make_config(), adapter=None)
    with (first / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        last = weights.read(1)
        weights.seek(-1, 2)
        weights.write(bytes([last[0] ^ 1]))
    assert identity(first) != before
    (second / "chat_template.jinja").write_text("{{ messages }}")
    assert identity(second) != before


def test_a_file_is_read_once_for_each_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_MMPC_CACHE", str(tmp_path / "cache"))
    file, reads = tmp_path / "model.safetensors", []
    file.write_bytes(b"weights")
    monkeypatch.setattr(content, "file_digest", lambda path: reads.append(path) or file_digest(path))
    fresh = [content.content_of_file(file) for _ in range(2)]
    assert len(reads) == 2  # it may change again within its time stamp
    os.utime(file, (1_000_000_000, 1_000_000_000))
    settled = [content.content_of_file(file) for _ in range(3)]
    assert (len(reads), len({*fresh, *settled})) == (3, 1)
    file.write_bytes(b"WEIGHTS")
    assert content.content_of_file(file) != settled[0]


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": []}}',
        "[" * 100_000,
        None,
    ],
)
def test_an_index_that_does_not_name_the_weights_is_refused_in_words(tmp_path, content):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / INDEX).write_bytes(b"\xff\xfe" if content is None else content.encode())
    for read in (open_checkpoint, adapter_identity, lambda folder: base_model_identity(str(folder))):
        with pytest.raises(AdapterError, match=rf"{INDEX} does not name the files .*; copy the whole folder again"):
            read(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_configuration_that_is_no_object_is_known_by_its_bytes(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert content_of_file(tmp_path / "config.json") == file_digest(tmp_path / "config.json")
