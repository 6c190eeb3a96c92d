"""FSDP2 with adapters, on one process: the first forward pass must know what is trained."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from grpo_mmpc.models.policy import adapter_off
from grpo_mmpc.utils.cpu_compat import ensure_importable


@pytest.fixture
def mesh(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.config: dict = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def with_adapter(**options) -> nn.Module:
    ensure_importable()
    from peft import LoraConfig, get_peft_model

    return get_peft_model(Block(), LoraConfig(r=2, target_modules=["linear"], **options))


def gradients_after(off: Callable[[nn.Module], AbstractContextManager], mesh) -> list[torch.Tensor]:
    """Gradients of a bfloat16 step whose first forward pass was one of the base model."""
    torch.manual_seed(0)
    model = with_adapter()
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    fully_shard(model.base_model.model.linear, mesh=mesh, mp_policy=half)
    fully_shard(model, mesh=mesh, mp_policy=half)
    x = torch.ones(2, 4)
    with torch.no_grad(), off(model):
        model(x)
    model(x).sum().backward()
    return [parameter.grad.full_tensor() for parameter in model.parameters() if parameter.grad is not None]


def test_a_base_model_that_is_evaluated_first_leaves_training_possible(mesh):
    gradients = gradients_after(adapter_off, mesh)
    assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float32]  # A and B
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_pefts_own_context_does_not_which_is_why_ours_exists(mesh):
    with pytest.raises(RuntimeError, match="grad_dtype"):
        gradients_after(lambda model: model.disable_adapter(), mesh)


def test_the_adapter_is_off_within_and_trained_after():
    model = with_adapter(init_lora_weights=False)
    x = torch.ones(2, 4)
    base = model.base_model.model.linear.base_layer(x)
    with adapter_off(model):
        assert torch.equal(model(x), base)
    assert not torch.allclose(model(x), base)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "base_model.model.linear.lora_A.default.weight",
        "base_model.model.linear.lora_B.default.weight",
    }
