"""A recipe's model section is refused early, in words, with what to install or to write."""

from pathlib import Path
from typing import Any

import pytest

from grpo_mmpc.config.sections import ModelSection
from grpo_mmpc.errors import TrainingError
from grpo_mmpc.models import option_checks
from grpo_mmpc.models.option_checks import check_model
from grpo_mmpc.models.processor import load_processor


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
    ],
)
def test_a_value_with_which_no_model_loads_is_refused(key: str, value: str, message: str) -> None:
    assert message in problems(**{key: value})[f"model.init_kwargs.{key}"]


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
