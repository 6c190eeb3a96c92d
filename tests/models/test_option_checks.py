"""A recipe's model section is refused early, in words, with what to install or to write."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from grpo_mmpc.config.sections import ModelSection
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models import option_checks
from grpo_mmpc.models.option_checks import check_model
from grpo_mmpc.models.policy import load_policy
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.models.weights import weights_problem
from grpo_mmpc.utils.model_paths import resolve_model


def problems(name: str = "nano:qwen2_5_vl", **options: Any) -> dict[str, str]:
    return dict(check_model({"model": {"name_or_path": name, "init_kwargs": options}}))


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"attn_implementation": "sdpa", "revision": "main"}])
def test_options_that_are_taken_are_no_problem(options: dict[str, Any]) -> None:
    assert problems(**options) == {}


@pytest.mark.parametrize(
    ("options", "key", "package"),
    [
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation", "flash_attn"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config", "bitsandbytes"),
        ({"quantization_config": {"quant_method": "hqq"}}, "quantization_config", "hqq"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_the_line_to_run(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], key: str, package: str
) -> None:
    monkeypatch.setattr(option_checks.importlib.util, "find_spec", lambda name: None)
    message = problems(**options)[f"model.init_kwargs.{key}"]
    assert f"needs the package {package}, which is not installed: pip install" in message


def test_a_misspelt_option_is_refused_with_the_nearest_one() -> None:
    assert "dtype" in problems(dtyp="float32")["model.init_kwargs.dtyp"].replace("dtyp'", "")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dtype", "foo", "expected auto, float32, bfloat16 or float16, found 'foo'"),
        ("dtype", "int8", "expected auto, float32, bfloat16 or float16"),
        ("attn_implementation", "spda", "did you mean 'sdpa'?"),
        ("tp_plan", "auto", "set the launch file"),
        ("output_loading_info", True, "returns more than the model"),
        ("device_map", {"": "meta"}, "meta holds no weights"),
    ],
)
def test_a_value_with_which_no_model_loads_is_refused(key: str, value: str, message: str) -> None:
    assert message in problems(**{key: value})[f"model.init_kwargs.{key}"]


def test_a_misspelt_key_of_a_quantisation_is_refused_with_the_nearest_one() -> None:
    found = problems(quantization_config={"load_in_4bt": True})
    key = "model.init_kwargs.quantization_config.load_in_4bt"
    assert found[key] == "unknown key; did you mean 'load_in_4bit'?"


def test_an_adapter_in_the_place_of_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "the/base"}')
    message = problems(str(tmp_path))["model.name_or_path"]
    assert "is an adapter, not a model" in message and "the/base" in message


@pytest.mark.parametrize(
    ("name", "option", "is_known"),
    [("qwen2_5_vl", "max_pixels", True), ("qwen2_5_vl", "max_pixls", False), ("gemma3", "max_pixels", False)],
)
def test_options_of_the_processor_that_nobody_reads_are_refused(name: str, option: str, is_known: bool) -> None:
    section = ModelSection(name_or_path=f"nano:{name}", processor_kwargs={option: 7056})
    checked = dict(check_model({"model": section.model_dump()}))
    assert list(checked) == ([] if is_known else [f"model.processor_kwargs.{option}"])
    if is_known:
        load_processor(section)
        return
    with pytest.raises(TrainingError, match=rf"model\.processor_kwargs\.{option}"):
        load_processor(section)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3"])
def test_a_key_that_the_chat_template_does_not_read_is_refused(name: str) -> None:
    def checked(**template: Any) -> dict[str, str]:
        return dict(
            check_model({"model": {"name_or_path": f"nano:{name}"}, "trainer": {"chat_template_kwargs": template}})
        )

    assert checked(processor_kwargs={"padding": False}, continue_final_message=False) == {}
    assert list(checked(enable_thinkin=False)) == ["trainer.chat_template_kwargs.enable_thinkin"]


def test_a_package_that_only_the_processor_needs_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def lacks(*_: Any, **__: Any) -> None:
        raise ImportError("\nIt needs `num2words`.\nInstall it with `pip install num2words`.\n")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lacks)
    message = problems()["model.name_or_path"]
    assert message.endswith(": It needs `num2words`. Install it with `pip install num2words`.")


def shard(path: Path, *, cut: int = 0) -> None:
    content = save({"a": np.zeros(64, np.float32)})
    path.write_bytes(content[: len(content) - cut])


def test_a_folder_of_which_a_part_was_not_copied_says_which(tmp_path: Path) -> None:
    assert weights_problem(tmp_path / "a/hub-name") is None
    assert "holds no weights (model.safetensors)" in str(weights_problem(tmp_path))
    shard(tmp_path / "model-00001-of-00002.safetensors")
    assert weights_problem(tmp_path) is None
    index = {"weight_map": {f"w{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "1 of 2 files of model.safetensors.index.json are missing, such as model-00002-of" in str(
        weights_problem(tmp_path)
    )
    second = tmp_path / "model-00002-of-00002.safetensors"
    shard(second, cut=9)
    assert f"{second} cannot be read" in str(weights_problem(tmp_path))
    second.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert f"{second} is a pointer of Git LFS" in str(weights_problem(tmp_path))
    shard(second)
    assert weights_problem(tmp_path) is None


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve_model("nano:qwen2_5_vl"), tmp_path / "model"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("tokenizer.json", "tokenizer_config.json"), "its tokenizer knows no word"),  # Transformers makes an empty one
        (("chat_template.jinja",), "its chat template cannot be used"),
        (("processor_config.json",), "cannot load the processor"),
    ],
)
def test_a_processor_of_which_a_file_is_missing_is_refused_early_and_at_loading(tmp_path, missing, message) -> None:
    model = copied(tmp_path)
    for name in missing:
        (model / name).unlink()
    assert message in problems(str(model))["model.name_or_path"]
    with pytest.raises(TrainingError, match=message):
        load_processor(ModelSection(name_or_path=str(model)))


def test_weights_that_were_cut_end_in_words_wherever_a_model_is_loaded(tmp_path: Path) -> None:
    weights = copied(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(TrainingError, match="cannot load the model"):
        load_policy(ModelSection(name_or_path=str(weights.parent)))


def test_nobody_is_asked_whether_code_of_a_folder_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    model = copied(tmp_path)
    config = {"model_type": "x_vl", "auto_map": {"AutoConfig": "configuration_x.XConfig"}}
    (model / "config.json").write_text(json.dumps(config))
    assert "contains custom code" in problems(str(model))["model.name_or_path"]


def test_a_model_that_reads_no_images_is_refused_by_its_type(tmp_path: Path) -> None:
    model = copied(tmp_path)
    (model / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    assert "of type 'llama', which does not read images" in problems(str(model))["model.name_or_path"]
