"""The names of Transformers, PEFT and Torch that nobody promises (docs/upstream.md)."""

import inspect

import pytest
import torch

from grpo_mmpc.config import ModelSection
from grpo_mmpc.models.processor import load_processor
from grpo_mmpc.utils.cpu_compat import ensure_importable

ensure_importable()

LAYER = "base_model.model.layer"


def adapted() -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

    return get_peft_model(Model(), LoraConfig(r=2, target_modules=["layer"]))


def test_peft_names_adapter_weights_and_starts_with_an_adapter_that_changes_nothing():
    """``read_adapter`` finds them by name; ``is_identity`` looks at B."""
    model = adapted()
    weights = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    assert set(weights) == {f"{LAYER}.lora_A.default.weight", f"{LAYER}.lora_B.default.weight"}
    assert weights[f"{LAYER}.lora_A.default.weight"].any()
    assert not weights[f"{LAYER}.lora_B.default.weight"].any()
    assert hasattr(model.base_model.model.layer, "lora_A")  # how adapted modules are told from others


def test_peft_saves_a_state_that_it_is_given():
    """Whole tensors that were gathered from shards take the place of the model's own."""
    from peft.utils import get_peft_model_state_dict

    model = adapted()
    state = {name: torch.full_like(p, 7.0) for name, p in model.named_parameters() if "lora_" in name}
    saved = get_peft_model_state_dict(
        model, state_dict=state, adapter_name=model.active_adapter, save_embedding_layers=False
    )
    assert set(saved) == {f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"}
    assert all(bool((tensor == 7.0).all()) for tensor in saved.values())
    assert model.peft_config[model.active_adapter].to_dict()["r"] == 2


def test_compiled_and_checkpointed_modules_put_the_names_in_front_that_are_taken_off():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    from grpo_mmpc.models.adapter import _plain

    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    plain = [name for name, _ in model.named_parameters()]
    inner = torch.nn.Sequential(torch.compile(checkpoint_wrapper(model[0])))
    wrapped = list(inner.state_dict(keep_vars=True))
    raw = [name for name, _ in torch.nn.Sequential(torch.compile(model[0])).named_parameters()]
    assert raw != plain and [_plain(name) for name in raw] == plain
    assert [_plain(name) for name in wrapped] == plain


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "gemma3"])
def test_configurations_hold_a_text_configuration_and_the_image_token(architecture):
    from transformers import AutoConfig

    from grpo_mmpc.utils.model_paths import resolve_model

    config = AutoConfig.from_pretrained(resolve_model(f"nano:{architecture}"))
    assert config.get_text_config() is not config
    assert isinstance(config.image_token_id, int)


def test_processors_hold_what_image_features_are_counted_by():
    gemma, qwen = (load_processor(ModelSection(name_or_path=f"nano:{name}")) for name in ("gemma3", "qwen2_5_vl"))
    assert gemma.image_seq_length > 0
    assert qwen.image_processor.merge_size == 2
    assert list(inspect.signature(gemma.create_mm_token_type_ids).parameters) == ["input_ids"]


def test_deepspeed_gathers_sharded_parameters():
    deepspeed = pytest.importorskip(
        "deepspeed", reason="DeepSpeed is not installed: pip install 'grpo-mmpc[deepspeed]'"
    )
    assert callable(deepspeed.zero.GatheredParameters)
