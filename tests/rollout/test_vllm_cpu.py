"""The CPU platform's LoRA: the numbers of vLLM's own, by matrix products where possible."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from grpo_mmpc.rollout.vllm import cpu as vllm_cpu

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM was built for a GPU here"),
]

SLICES = (6, 4, 4)  # q, k and v of one fused layer
RANK, WIDTH, SLOTS = 3, 5, 2


def wrappers():
    """Ours and vLLM's own."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from grpo_mmpc.rollout.vllm.cpu_lora import OneAdapterPunicaWrapper

    return [cls(64, 8, torch.device("cpu")) for cls in (OneAdapterPunicaWrapper, PunicaWrapperCPU)]


def applied(wrapper, token_adapters: list[int], *, is_prefill: bool) -> torch.Tensor:
    """Output of a fused layer of zeros with adapters of ids 11 and 12, in slots 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    a = tuple(torch.randn(SLOTS, 1, RANK, WIDTH, generator=generator) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, size, RANK, generator=generator) for size in SLICES)
    x = torch.randn(len(token_adapters), WIDTH, generator=generator)
    mapping = SimpleNamespace(
        index_mapping=tuple(token_adapters), prompt_mapping=tuple(token_adapters), is_prefill=is_prefill
    )
    wrapper.update_metadata(mapping, [11, 12], SLOTS, 100)
    y = torch.zeros(len(token_adapters), sum(SLICES))
    wrapper.add_lora_linear(y, x, a, b, 0.5, SLICES)
    return y


@pytest.mark.parametrize("is_prefill", [True, False])
@pytest.mark.parametrize(
    ("token_adapters", "only_slot"), [([11] * 7, 0), ([12] * 7, 1), ([11, 12, 12, 11, 11, 11, 12], None)]
)
def test_the_numbers_are_those_of_vllms_own_arithmetic(token_adapters, only_slot, is_prefill):
    ours, theirs = wrappers()
    expected = applied(theirs, token_adapters, is_prefill=is_prefill)
    assert torch.allclose(applied(ours, token_adapters, is_prefill=is_prefill), expected, atol=1e-5)
    assert ours._only_slot == only_slot
    assert expected.abs().max() > 0.1


def test_rows_without_an_adapter_beside_rows_with_one_go_vllms_way():
    ours, _ = wrappers()
    applied(ours, [11, 0, 11], is_prefill=False)
    assert ours._only_slot is None


def test_the_platform_is_chosen_only_where_it_was_asked_for(monkeypatch):
    monkeypatch.delenv(vllm_cpu.SWITCH, raising=False)
    assert vllm_cpu.platform() is None
    monkeypatch.setenv(vllm_cpu.SWITCH, "0")
    assert vllm_cpu.platform() is None
    monkeypatch.setenv(vllm_cpu.SWITCH, "1")
    name = vllm_cpu.platform()
    assert name == "grpo_mmpc.rollout.vllm.cpu_platform.OneAdapterCpuPlatform"
    from vllm.platforms.cpu import CpuPlatform
    from vllm.utils.import_utils import resolve_obj_by_qualname

    chosen = resolve_obj_by_qualname(name)
    assert issubclass(chosen, CpuPlatform)
    assert resolve_obj_by_qualname(chosen.get_punica_wrapper()).__name__ == "OneAdapterPunicaWrapper"


def test_another_build_of_vllm_keeps_its_own_platform(monkeypatch):
    from vllm import platforms

    monkeypatch.setenv(vllm_cpu.SWITCH, "1")
    monkeypatch.setattr(platforms, "cpu_platform_plugin", lambda: "vllm.platforms.zen_cpu.ZenCpuPlatform")
    assert vllm_cpu.platform() is None
