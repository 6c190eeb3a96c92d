"""An adapter's folder is data: read within limits, held to the model, and never taken for one."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from grpo_mmpc.config.sections import ModelSection
from grpo_mmpc.errors import AdapterError
from grpo_mmpc.models.adapter import adapter_from_folder
from grpo_mmpc.models.adapter_folder import check_base, check_fits, open_adapter, parse_config
from grpo_mmpc.models.policy import load_policy, model_skeleton
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.rollout.offline import offline_engine
from grpo_mmpc.rollout.vllm.arguments import engine_arguments
from grpo_mmpc.utils.model_paths import resolve_model

QWEN = ModelSection(name_or_path="nano:qwen2_5_vl")
TARGETS = r".*language_model.*\.(q|v)_proj"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes something, as PEFT saves it."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("saved")
    model = get_peft_model(load_policy(QWEN), LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def test_an_engine_for_an_adapter_serves_its_rank_whatever_the_recipe_names(make_config, monkeypatch, tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    get_peft_model(load_policy(QWEN), adapter).save_pretrained(str(tmp_path))
    started: list[dict[str, Any]] = []

    def start(config: Any, processor: Any, **options: Any) -> Any:
        started.append(engine_arguments(config))
        return MagicMock()

    monkeypatch.setattr("grpo_mmpc.rollout.vllm.start.start_engine", start)
    config = make_config(model={"name_or_path": "nano:qwen2_5_vl"}, adapter={"r": 4}, rollout={"backend": "vllm"})
    with offline_engine(config, checkpoint=tmp_path):
        pass
    assert [arguments["max_lora_rank"] for arguments in started] == [16]


def change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rename(folder: Path, new_name: Callable[[str], str]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({new_name(name): tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def logits(model: Any) -> Any:
    return model(input_ids=torch.tensor([[5, 6, 7]])).logits


def test_an_adapter_loads_as_peft_loads_it(folder: Path) -> None:
    from peft import PeftModel

    with torch.no_grad():
        ours = logits(load_policy(QWEN, adapter=folder))
        theirs = logits(PeftModel.from_pretrained(load_policy(QWEN), str(folder)))
        base = logits(load_policy(QWEN))
    assert torch.equal(ours, theirs) and not torch.allclose(ours, base)


def test_weights_for_modules_that_the_model_does_not_have_are_refused_by_name(folder: Path) -> None:
    rename(folder, lambda name: name.replace("language_model.layers", "decoder.layers"))
    with pytest.raises(AdapterError) as caught:
        load_policy(QWEN, adapter=folder)
    message = str(caught.value)
    assert "16 of its 16 tensors" in message
    assert "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.weight" in message
    assert "the model has model.language_model.layers.0.self_attn.q_proj" in message
    with pytest.raises(AdapterError, match="16 of its 16 tensors"):  # what vLLM would leave out without a word
        check_fits(open_adapter(folder), model_skeleton(QWEN))


def test_one_wrong_key_among_many_is_refused(folder: Path) -> None:
    rename(folder, lambda name: name.replace("layers.1.self_attn.q_proj.lora_B", "layers.9.self_attn.q_proj.lora_B"))
    with pytest.raises(AdapterError, match=r"1 of its 16 tensors.*layers\.9\.self_attn\.q_proj\.lora_B"):
        load_policy(QWEN, adapter=folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder: Path, value: float) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "layers.1.self_attn.q_proj.lora_B" in name)
    tensors[name][0, 0] = value
    save_file(tensors, path)
    with pytest.raises(AdapterError, match=r"layers\.1\.self_attn\.q_proj\.lora_B\.weight holds NaN or infinity"):
        load_policy(QWEN, adapter=folder)


def test_an_adapter_of_another_size_is_refused(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_A" in name)
    save_file(tensors | {name: torch.zeros(4, 7)}, path)
    with pytest.raises(AdapterError, match=r"has shape \(4, 7\), its module takes 192 features"):
        load_policy(QWEN, adapter=folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 2_000_000}, "states rank 2000000, the weights beside it have rank 4"),
        ({"rank_pattern": {"q_proj": 10**9}}, "states rank 1000000000"),
        ({"r": -1}, "whole numbers above 0"),
        ({"r": "8"}, "whole numbers above 0"),
        ({"peft_type": "IA3"}, "describes 'IA3'; only LoRA"),
        ({"rank_pattern": {"(a+)+$": 4}}, "is not a plain name of modules"),
        ({"alpha_pattern": {"a" * 1000: 4}}, "is not a plain name of modules"),
        ({"alpha_pattern": ["a"]}, "map names of modules to numbers"),
    ],
)
def test_a_configuration_made_to_exhaust_is_refused_in_words(
    folder: Path, fields: dict[str, Any], message: str
) -> None:
    change(folder, **fields)
    with pytest.raises(AdapterError, match=message):
        open_adapter(folder)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"r": ' * 50_000, "{", "[]", "null", '"a"', " " * 2**21, ""])
def test_what_is_no_configuration_is_refused_in_words(folder: Path, content: str) -> None:
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        open_adapter(folder)


@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["r", "rank_pattern", "alpha_pattern", "peft_type"]),
        st.none() | st.integers() | st.text(max_size=9) | st.dictionaries(st.text(max_size=9), st.integers()),
    ).map(lambda content: json.dumps(content).encode())
)
def test_any_configuration_is_read_or_refused_in_words(content: bytes) -> None:
    try:
        config = parse_config(content, where="adapter_config.json")
    except AdapterError as error:
        assert str(error).startswith("adapter_config.json")
    else:
        assert config["r"] > 0


def test_a_pattern_without_end_is_never_matched(folder: Path) -> None:
    change(folder, target_modules="(.*.*.*.*.*.*.*.*.*.*.*.*)*x", exclude_modules="((a|a|.)*)*y")
    started = time.monotonic()
    with torch.no_grad():
        adapted = logits(load_policy(QWEN, adapter=folder))
        assert not torch.allclose(adapted, logits(load_policy(QWEN)))
    assert time.monotonic() - started < 20
    assert json.loads(adapter_from_folder(open_adapter(folder)).config)["target_modules"] == ["q_proj", "v_proj"]


def test_a_pickled_adapter_is_refused_with_the_reason(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin, a pickle, which can execute code"):
        load_policy(QWEN, adapter=folder)


def test_damaged_weights_are_refused_in_words(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors cannot be read"):
        open_adapter(folder)


def test_a_folder_without_adapter_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="give a checkpoint folder such as RUN/checkpoints/checkpoint-80"):
        load_policy(QWEN, adapter=tmp_path)


def test_the_base_of_an_adapter_is_known_by_its_content(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(resolve_model("nano:qwen2_5_vl"), tmp_path / "copy")
    change(folder, base_model_name_or_path=str(copy))
    assert check_base(open_adapter(folder), QWEN) is None
    for other in ("nano:gemma3", resolve_model("nano:gemma3")):
        change(folder, base_model_name_or_path=other)
        with pytest.raises(AdapterError, match=r"was trained on .*gemma3, which has other weights than .*nano:qwen2_5"):
            load_policy(QWEN, adapter=folder)
    change(folder, base_model_name_or_path="somebody/elsewhere")
    with caplog.at_level(logging.WARNING):
        load_policy(QWEN, adapter=folder)
    assert "was trained on somebody/elsewhere; whether nano:qwen2_5_vl is that model cannot be told" in caplog.text
    change(folder, base_model_name_or_path=None)
    assert check_base(open_adapter(folder), QWEN) is None


def test_an_adapter_in_the_place_of_a_model_is_refused_with_the_right_keys(folder: Path) -> None:
    section = ModelSection(name_or_path=str(folder))
    for load in (load_policy, load_processor):
        with pytest.raises(
            AdapterError, match=r"is an adapter, not a model: set model\.name_or_path to its base .*--ch"
        ):
            load(section)
