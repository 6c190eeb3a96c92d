"""Base models and policies are told apart by content, not by path."""

import json
import shutil
from pathlib import Path

from grpo_mmpc.models.identity import base_model_identity, policy_identity
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


def test_other_weights_in_the_same_folder_are_another_policy_and_a_moved_model_is_the_same(tmp_path, make_config):
    model = tmp_path / "model"
    shutil.copytree(resolve_model("nano:qwen2_5_vl"), model)
    embedded = make_config()
    config = embedded.model_copy(update={"model": embedded.model.model_copy(update={"name_or_path": str(model)})})
    before = policy_identity(config, adapter=None)
    assert before == policy_identity(embedded, adapter=None)
    weights = bytearray((model / "model.safetensors").read_bytes())
    for position in range(8 + int.from_bytes(weights[:8], "little"), len(weights)):
        weights[position] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert policy_identity(config, adapter=None) != before
