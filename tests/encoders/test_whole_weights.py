"""Encoders load unsharded while the trainer shards (EasyR1#213, verl#1056, ms-swift#4580)."""

import os
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from grpo_mmpc.encoders.bertscore import BertScoreEncoder
from grpo_mmpc.encoders.clip import ClipEncoder
from grpo_mmpc.encoders.dinov2 import DinoEncoder
from grpo_mmpc.encoders.loading import frozen, pick_device, whole_weights
from grpo_mmpc.encoders.sentence import SentenceEncoder
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import resolve_model

ensure_importable()


class Zero3:
    """Stands for Transformers' HfDeepSpeedConfig with stage 3."""

    config: dict[str, object] = {}  # noqa: RUF012

    def is_zero3(self) -> bool:
        return True


@pytest.fixture
def zero3(monkeypatch: pytest.MonkeyPatch) -> Zero3:
    from transformers.integrations import deepspeed

    config = Zero3()
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", weakref.ref(config))
    assert deepspeed.is_deepspeed_zero3_enabled()
    return config


def test_zero3_is_switched_off_while_loading_and_back_on_afterwards(zero3: Zero3) -> None:
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    with whole_weights():
        assert not is_deepspeed_zero3_enabled()
    assert is_deepspeed_zero3_enabled()
    with pytest.raises(RuntimeError), whole_weights():
        raise RuntimeError
    assert is_deepspeed_zero3_enabled()


def test_an_encoder_loaded_under_zero3_has_full_matrices(zero3: Zero3) -> None:
    encoder = SentenceEncoder(model="nano:minilm")
    assert encoder._model.get_input_embeddings().weight.shape == (30522, 384)
    assert encoder.cosine(predictions=["red bag"], references=["red bag"]) == pytest.approx([1.0])


def test_an_encoder_loaded_on_a_later_fsdp_rank_has_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel
    from transformers.distributed import fsdp

    from grpo_mmpc.utils.model_paths import resolve_model

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    monkeypatch.setattr(fsdp, "_is_torch_distributed_initialized", lambda: True)
    # what Transformers does on every rank but the first: zeros, to be overwritten by a broadcast
    # that an encoder never gets
    plain = AutoModel.from_pretrained(resolve_model("nano:minilm"))
    assert plain.get_input_embeddings().weight.abs().max() == 0
    encoder = SentenceEncoder(model="nano:minilm")
    assert encoder._model.get_input_embeddings().weight.abs().max() > 0
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSDP_CPU_RAM_EFFICIENT_LOADING", raising=False)
    with whole_weights():
        pass
    assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ


def test_a_model_that_another_threads_zero_init_has_partitioned_is_refused() -> None:
    import torch

    layer = torch.nn.Linear(2, 2)
    layer.weight.ds_id = 7  # what deepspeed.zero.Init leaves on every parameter
    with pytest.raises(ScoringError, match="while DeepSpeed was building a sharded model"):
        frozen(layer, device="cpu")


def test_an_impossible_device_is_refused() -> None:
    assert pick_device("cpu") == "cpu"
    with pytest.raises(ScoringError, match="not a torch device"):
        pick_device("gpu0")


def _half_minilm(folder: Path) -> str:
    from transformers import AutoModel, AutoTokenizer

    model = resolve_model("nano:minilm")
    AutoModel.from_pretrained(model, dtype="float16").save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


def _half_clip(folder: Path) -> str:
    from transformers import CLIPModel

    model = shutil.copytree(resolve_model("nano:clip"), folder)
    CLIPModel.from_pretrained(model, dtype="float16").save_pretrained(model)
    return str(model)


def _half_dino(folder: Path) -> str:
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).half().save_pretrained(folder)
    BitImageProcessorPil().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("encoder", "saved"),
    [
        (SentenceEncoder, _half_minilm),
        (partial(BertScoreEncoder, num_layers=2), _half_minilm),
        (ClipEncoder, _half_clip),
        (DinoEncoder, _half_dino),
    ],
    ids=["sentence", "bertscore", "clip", "dinov2"],
)
def test_what_other_threads_build_while_an_encoder_loads_keeps_its_precision(
    encoder: Callable[..., Any],
    saved: Callable[[Path], str],
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    folder = saved(tmp_path / "half")
    defaults = []
    monkeypatch.setattr(torch, "set_default_dtype", defaults.append)
    loaded = encoder(model=folder, dtype=dtype)._model
    assert set(defaults) <= {torch.float32}
    stored = load_file(f"{folder}/model.safetensors")
    weights = loaded.state_dict()
    assert weights.keys() & stored.keys()
    for name in weights.keys() & stored.keys():
        assert weights[name].dtype in (getattr(torch, dtype), torch.int64)
        assert torch.equal(weights[name], stored[name].to(weights[name].dtype))
