"""Sentence embeddings by mean pooling, equal to what ``sentence-transformers`` computes for such models."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.assets import resolve_model
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.scoring.batching import length_batches
from grpo_mmpc.scoring.cache import EncodingCache
from grpo_mmpc.scoring.loading import frozen, load, num_bytes, pick_device, scoring

if TYPE_CHECKING:
    import torch

_CACHE_BYTES = 128 * 2**20


def sentence_encoder(*, model: str, device: str | None = None) -> "SentenceEncoder":
    """The process's one encoder of this configuration; loaded when first asked for.

    Args:
        model: Hub name, local folder or ``nano:minilm``.
        device: None takes the GPU of this process if there is one.

    Raises:
        ScoringError: The model cannot be loaded, or does not pool by the mean.
    """
    return _shared(model, pick_device(device))


@cache
def _shared(model: str, device: str) -> "SentenceEncoder":
    return SentenceEncoder(model=model, device=device)


class SentenceEncoder:
    """A mean-pooling sentence encoder with its embeddings. Use ``sentence_encoder`` to share one per process."""

    def __init__(self, *, model: str, device: str = "cpu") -> None:
        self.model_name = model
        self.device = device
        folder = resolve_model(model)
        self._model, self._tokenizer, self._max_tokens = load("sentence encoder", folder, lambda: _load(folder))
        self._model = frozen(self._model, device=device)
        self._cache: EncodingCache[str, torch.Tensor] = EncodingCache(max_bytes=_CACHE_BYTES)

    def cosine(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Cosines of the embeddings of N pairs, in [-1, 1].

        Raises:
            ValueError: The numbers of texts differ.
        """
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
        if not predictions:
            return []
        embeddings = self.encode([*predictions, *references])
        half = len(predictions)
        cosines = (embeddings[:half] * embeddings[half:]).sum(dim=1)
        return [max(-1.0, min(1.0, cosine)) for cosine in cosines.tolist()]

    def encode(self, texts: Sequence[str]) -> "torch.Tensor":
        """Unit embeddings of N texts, shape [N, D], fp32 on the CPU; texts beyond the model's limit are cut."""
        import torch  # heavy: imported on use

        found: dict[str, torch.Tensor] = {}
        missing: list[str] = []
        for text in dict.fromkeys(texts):
            embedding = self._cache.get(text)
            if embedding is None:
                missing.append(text)
            else:
                found[text] = embedding
        for text, embedding in self._encode(missing):
            found[text] = embedding
            self._cache.put(text, embedding, num_bytes=num_bytes(embedding))
        if not texts:
            return torch.zeros(0, self._model.config.hidden_size)
        return torch.stack([found[text] for text in texts])

    def _encode(self, texts: list[str]) -> "list[tuple[str, torch.Tensor]]":
        if not texts:
            return []
        ids = self._tokenizer(
            [text.strip() for text in texts], truncation=True, max_length=self._max_tokens, verbose=False
        )["input_ids"]
        encoded: list[tuple[str, torch.Tensor]] = []
        for positions in length_batches([len(row) for row in ids]):
            embeddings = self._forward([ids[position] for position in positions])
            encoded += zip((texts[position] for position in positions), embeddings, strict=True)
        return encoded

    def _forward(self, ids: list[list[int]]) -> "torch.Tensor":
        """Unit embeddings [N, D] of token ids."""
        import torch

        inputs = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.device)
        with scoring(self.device):
            hidden = self._model(**inputs)[0].float()  # [N, L, D]
            mask = inputs["attention_mask"].unsqueeze(-1).float()  # [N, L, 1]
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1).cpu()


def _load(folder: str) -> tuple[Any, Any, int]:
    from transformers import AutoModel, AutoTokenizer  # heavy: imported on use

    pooling = _side_file(folder, "1_Pooling/config.json")
    if pooling and not pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode") == "mean"):
        raise ScoringError(f"sentence encoder: {folder} does not pool by the mean of its tokens; use a model that does")
    model = AutoModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limits = (
        _side_file(folder, "sentence_bert_config.json").get("max_seq_length"),
        tokenizer.model_max_length,
        getattr(model.config, "max_position_embeddings", None),
    )
    return model, tokenizer, min(int(limit) for limit in limits if limit)


def _side_file(folder: str, name: str) -> dict[str, Any]:
    """A JSON file that sentence-transformers keeps beside the model; empty where there is none."""
    from transformers.utils import cached_file  # heavy: imported on use

    path = cached_file(
        folder, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if path is None:
        return {}
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
