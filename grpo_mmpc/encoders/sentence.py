"""Sentence embeddings by mean pooling, equal to those of ``sentence-transformers``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_mmpc.encoders.loading import frozen, load, pick_device, pick_dtype, pretrained, shared, token_limit
from grpo_mmpc.encoders.store import EncodingStore, encoding_store, stored_encodings
from grpo_mmpc.encoders.texts import TextEncodings
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.model_paths import NO_QUESTION, resolve_model

if TYPE_CHECKING:
    import torch

_CACHE_BYTES = 64 * 2**20  # about 40,000 embeddings of 384 numbers, for completions and for references each


def sentence_encoder(*, model: str, device: str | None = None, dtype: str = "float32") -> "SentenceEncoder":
    """Return the process's one encoder of this configuration; see ``grpo_mmpc.encoders``.

    Raises:
        ScoringError: Also if the model does not pool by the mean.
    """
    return shared(
        SentenceEncoder, model=model, device=pick_device(device), dtype=pick_dtype(dtype), store=encoding_store()
    )


class SentenceEncoder:
    """A mean-pooling sentence encoder. Use ``sentence_encoder`` to share one per process."""

    def __init__(
        self, *, model: str, device: str = "cpu", dtype: str = "float32", store: EncodingStore | None = None
    ) -> None:
        self.device = device
        folder = resolve_model(model)
        self._model, self._tokenizer, self._max_tokens = load("sentence encoder", folder, lambda: _load(folder))
        stored = stored_encodings(store, self._model, what="sentence", dtype=dtype)
        self._model = frozen(self._model, device=device, dtype=dtype)
        self._texts: TextEncodings[torch.Tensor] = TextEncodings(
            device=device,
            tokenize=self._tokenize,
            forward=self._forward,
            padding=self._tokenizer.pad_token_id,
            limit=self._max_tokens,
            finish=lambda _, embedding: embedding,
            max_bytes=_CACHE_BYTES,
            max_kept_bytes=_CACHE_BYTES,
            stored=stored,
        )

    def cosine(self, *, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Return the cosines of the embeddings of N pairs, in [-1, 1]; NaN for an unreadable text.

        Raises:
            ValueError: The numbers of texts differ.
        """
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
        if not predictions:
            return []
        expected = self.encode(references, keep=True)
        cosines = (self.encode(predictions) * expected).sum(dim=1)
        return list(cosines.clamp(-1.0, 1.0).tolist())

    def encode(self, texts: Sequence[str], *, keep: bool = False) -> "torch.Tensor":
        """Return unit embeddings [N, D] of N texts, fp32 on the CPU; long texts are cut.

        With ``keep`` they get a place of their own in memory and on disk, as references should.
        """
        import torch  # heavy: imported on use

        if not texts:
            return torch.zeros(0, self._model.config.hidden_size)
        embeddings = self._texts.of(texts, keep=keep)
        unread = torch.full((self._model.config.hidden_size,), float("nan"))
        return torch.stack([embeddings.get(text, unread) for text in texts])

    def reads(self, texts: Sequence[str]) -> list[bool]:
        """Return whether the model knows the script of each text, see ``TextEncodings.reads``."""
        return self._texts.reads(texts, self._tokenizer)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        stripped = [text.strip() for text in texts]
        rows = self._tokenizer(stripped, truncation=True, max_length=self._max_tokens, verbose=False)
        ids: list[list[int]] = rows["input_ids"]
        return ids

    def _forward(self, ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        """Return unit embeddings [N, D]."""
        import torch

        hidden = self._model(input_ids=ids, attention_mask=mask)[0].float()  # [N, L, D]
        counted = mask.unsqueeze(-1).float()  # [N, L, 1]
        mean = (hidden * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1).cpu()


def _load(folder: str) -> tuple[Any, Any, int]:
    from transformers import AutoModel, AutoTokenizer  # heavy: imported on use

    pooling = _side_file(folder, "1_Pooling/config.json")
    if pooling and not pooling.get("pooling_mode_mean_tokens", pooling.get("pooling_mode") == "mean"):
        raise ScoringError(f"sentence encoder: {folder} does not pool by the mean of its tokens; use a model that does")
    model = pretrained(AutoModel, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, **NO_QUESTION)
    own_limit = _side_file(folder, "sentence_bert_config.json").get("max_seq_length")
    return model, tokenizer, token_limit(tokenizer, model, own_limit)


def _side_file(folder: str, name: str) -> dict[str, Any]:
    """Read a JSON file of sentence-transformers beside the model; empty if there is none."""
    from transformers.utils import cached_file  # heavy: imported on use

    path = cached_file(
        folder, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if path is None:
        return {}
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
