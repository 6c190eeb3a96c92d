"""Packed linear layers: PyTorch's private operators do what ``torch.nn.Linear`` does."""

import copy
from typing import Any

import pytest
import torch

from grpo_mmpc.cpu_compat import ensure_importable
from grpo_mmpc.scoring.loading import frozen
from grpo_mmpc.scoring.packed import packed

ensure_importable()


def tiny_bert(**options: Any) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
    return BertModel(BertConfig(vocab_size=50, **shape, **options))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_a_packed_encoder_computes_the_same_whatever_the_batch(rows: int) -> None:
    plain = frozen(tiny_bert(), device="cpu")
    fast = packed(copy.deepcopy(plain))
    assert not any(type(module) is torch.nn.Linear for module in fast.modules())
    ids = torch.randint(50, (rows, 9))
    with torch.no_grad():
        assert torch.allclose(fast(ids)[0], plain(ids)[0], atol=1e-5)


def test_other_precisions_and_other_kinds_of_models_are_left_alone() -> None:
    half = packed(frozen(tiny_bert(), device="cpu", dtype="bfloat16"))
    assert any(type(module) is torch.nn.Linear for module in half.modules())
    other = frozen(tiny_bert(), device="cpu")
    other.config.model_type = "deberta"
    assert any(type(module) is torch.nn.Linear for module in packed(other).modules())
