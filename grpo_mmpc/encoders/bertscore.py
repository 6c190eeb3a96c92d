"""BERTScore with every distinct text encoded once, equal to the ``bert-score`` package.

The package encodes both sides of every call again. In GRPO a reference comes back with each
completion of its group, at every epoch and in every evaluation, so its encoding is kept; models,
tokenisation, layer choice and baselines are the package's own.
"""

import csv
import importlib.util
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from grpo_mmpc.encoders.loading import frozen, load, pick_device, pick_dtype, pretrained, scoring, shared, token_limit
from grpo_mmpc.encoders.store import EncodingStore, encoding_store, stored_encodings
from grpo_mmpc.encoders.texts import TextEncodings, padded_length
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import NO_QUESTION, resolve_model

if TYPE_CHECKING:
    import torch

KNOWN_LAYERS = {"nano:minilm": 6, "roberta-large": 17}
"""Layers of the models that our recipes use: one that bert-score's table lacks, and one taken from
it, so that checking a recipe does not import bert-score (and torch and matplotlib with it)."""
_MATCHED_PAIRS = 64
_REFERENCE_CACHE_BYTES = 512 * 2**20
_PREDICTION_CACHE_BYTES = 64 * 2**20


class BertScore(NamedTuple):
    """Scores of N pairs, in order."""

    precision: list[float]
    recall: list[float]
    f1: list[float]


class _Encoding(NamedTuple):
    """One text. L counts its tokens, special ones included."""

    tokens: "torch.Tensor"  # [L, D], unit vectors, fp32 on the CPU
    weights: "torch.Tensor"  # [L], sum 1 over content tokens, 0 on special ones


def bertscore_encoder(
    *, model: str, num_layers: int | None = None, device: str | None = None, dtype: str = "float32"
) -> "BertScoreEncoder":
    """Return the process's one BERTScore encoder of this configuration; see ``grpo_mmpc.encoders``.

    ``num_layers`` is the hidden layer whose output is compared; None takes bert-score's table. Only
    ``float32`` equals bert-score to 1e-4.
    """
    return shared(
        BertScoreEncoder,
        model=model,
        num_layers=pick_layers(model=model, num_layers=num_layers),
        device=pick_device(device),
        dtype=pick_dtype(dtype),
        store=encoding_store(),
    )


def pick_layers(*, model: str, num_layers: int | None) -> int:
    """Return the given number of layers, or bert-score's best one for a model of this name.

    Raises:
        ScoringError: None was given and the model is not in the table.
    """
    if num_layers is not None:
        if num_layers < 1:
            raise ScoringError(f"BERTScore: num_layers must be at least 1, found {num_layers}")
        return num_layers
    if model in KNOWN_LAYERS:
        return KNOWN_LAYERS[model]
    ensure_importable()
    from bert_score.utils import model2layers  # heavy: imported on use

    if model in model2layers:
        return int(model2layers[model])
    raise ScoringError(
        f"BERTScore: bert-score knows no best layer for {model!r}; set num_layers (17 of 24 for roberta-large, "
        "9 of 12 for bert-base-uncased; about three quarters of the model's layers elsewhere)"
    )


class BertScoreEncoder:
    """A BERTScore model with its encodings. Use ``bertscore_encoder`` to share one per process."""

    def __init__(
        self,
        *,
        model: str,
        num_layers: int,
        device: str = "cpu",
        dtype: str = "float32",
        store: EncodingStore | None = None,
    ) -> None:
        self.model_name = model
        self.num_layers = num_layers
        self.device = device
        folder = resolve_model(model)
        self._model, self._tokenizer = load("BERTScore", folder, lambda: _load(folder, num_layers))
        stored = stored_encodings(store, self._model, what="BERTScore", layers=num_layers, dtype=dtype)
        self._model = frozen(self._model, device=device, dtype=dtype)
        self._special = {self._tokenizer.sep_token_id, self._tokenizer.cls_token_id}
        self._baseline = read_baseline(model=model, num_layers=num_layers)
        self._texts = TextEncodings(
            device=device,
            tokenize=self._tokenize,
            forward=self._forward,
            padding=self._tokenizer.pad_token_id,
            limit=self._tokenizer.model_max_length,
            finish=self._finish,
            max_bytes=_PREDICTION_CACHE_BYTES,
            max_kept_bytes=_REFERENCE_CACHE_BYTES,
            stored=stored,
        )

    @property
    def encoded_texts(self) -> int:
        """Texts that went through the model so far; the rest came from memory or disk."""
        return self._texts.encoded_texts

    @property
    def has_baseline(self) -> bool:
        """True if bert-score has an English rescaling baseline for this model and layer."""
        return self._baseline is not None

    def score(
        self, *, predictions: Sequence[str], references: Sequence[str], rescale_with_baseline: bool = False
    ) -> BertScore:
        """Return the BERTScore of N pairs (no idf), within 1e-4 of the package, pair by pair.

        Called with many pairs, bert-score itself lets padding take part in the greedy matching
        where all similarities of a token are negative; here the score of a pair never depends on
        its neighbours. A text without content tokens scores 0 on all three, as in bert-score.
        RoBERTa models get the first word without a leading space, as bert-score under Transformers
        5 encodes it (its ``add_prefix_space`` has no effect there): scores differ slightly from
        those that older versions published.

        Returns:
            Raw scores in [-1, 1], in practice 0.8 to 1 for roberta-large; or rescaled ones, with
            bert-score's published score of random sentence pairs at 0, which can be below 0. NaN
            where a text cannot be tokenised.

        Raises:
            ScoringError: Rescaling is asked for and there is no baseline.
            ValueError: The numbers of texts differ.
        """
        import torch  # heavy: imported on use

        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
        if rescale_with_baseline and self._baseline is None:
            raise ScoringError(
                f"BERTScore: bert-score has no baseline for {self.model_name!r} at layer {self.num_layers}; "
                "do not ask for rescaling, or use a model that has one, such as roberta-large"
            )
        expected = self._texts.of(references, keep=True)
        predicted = self._texts.of(predictions)
        wanted = zip(predictions, references, strict=True)
        pairs = [pair for pair in dict.fromkeys(wanted) if pair[0] in predicted and pair[1] in expected]
        limit = self._tokenizer.model_max_length

        def padded(pair: tuple[str, str]) -> tuple[int, int]:
            return (
                padded_length(len(predicted[pair[0]].weights), limit=limit),
                padded_length(len(expected[pair[1]].weights), limit=limit),
            )

        scores: dict[tuple[str, str], list[float]] = {}
        for lengths, alike in groupby(sorted(pairs, key=padded), padded):
            group = list(alike)
            for start in range(0, len(group), _MATCHED_PAIRS):
                batch = group[start : start + _MATCHED_PAIRS]
                with scoring("cpu"):
                    values = _match([predicted[p] for p, _ in batch], [expected[r] for _, r in batch], lengths)
                if rescale_with_baseline:
                    baseline = torch.tensor(self._baseline)
                    values = (values - baseline) / (1 - baseline)
                scores.update(zip(batch, values.tolist(), strict=True))
        unread = [float("nan")] * 3
        columns = [scores.get(pair, unread) for pair in zip(predictions, references, strict=True)]
        return BertScore(
            precision=[column[0] for column in columns],
            recall=[column[1] for column in columns],
            f1=[column[2] for column in columns],
        )

    def encode_references(self, references: Sequence[str]) -> None:
        """Encode references before there is anything to compare them with."""
        self._texts.of(references, keep=True)

    def reads(self, texts: Sequence[str]) -> list[bool]:
        """Return whether the model knows the script of each text, see ``TextEncodings.reads``."""
        return self._texts.reads(texts, self._tokenizer)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of bert-score's ``sent_encode``; none for a text without content."""
        # bert-score also passes add_prefix_space, which has no effect under Transformers 5.
        limit = self._tokenizer.model_max_length
        rows = self._tokenizer([text.strip() for text in texts], truncation=True, max_length=limit, verbose=False)
        return [[] if set(ids) <= self._special else ids for ids in rows["input_ids"]]

    def _forward(self, ids: "torch.Tensor", mask: "torch.Tensor") -> "list[torch.Tensor]":
        """Return unit vectors [L, D] of each text; one of zeros for a text without content."""
        import torch

        if not ids.shape[1]:
            return [torch.zeros(1, self._model.config.hidden_size)] * len(ids)
        hidden = self._model(ids, attention_mask=mask)[0]  # [N, L, D]
        hidden = torch.nn.functional.normalize(hidden.float(), dim=-1).cpu()
        return [row[:length] for row, length in zip(hidden, mask.sum(dim=1).tolist(), strict=True)]

    def _finish(self, ids: list[int], tokens: "torch.Tensor") -> _Encoding:
        import torch

        weights = torch.tensor([float(token not in self._special) for token in ids] or [0.0])
        return _Encoding(tokens.view(len(weights), -1), weights / weights.sum().clamp(min=1.0))


def _load(folder: str, num_layers: int) -> tuple[Any, Any]:
    from transformers import AutoTokenizer  # heavy: imported on use

    model = first_layers(folder, num_layers)
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=False, **NO_QUESTION)  # as bert_score.utils does
    if tokenizer.model_max_length > 1_000_000:  # some tokenizers state no limit; the models have one all the same
        tokenizer.model_max_length = token_limit(tokenizer, model, 512)
    return model, tokenizer


def first_layers(folder: str, num_layers: int) -> Any:
    """Load the first layers of an encoder, the ones that ``bert_score.utils.get_model`` keeps.

    Raises:
        ScoringError: It has fewer layers.
    """
    from transformers import AutoConfig, AutoModel  # heavy: imported on use

    total = AutoConfig.from_pretrained(folder, **NO_QUESTION).num_hidden_layers
    if num_layers > total:
        raise ScoringError(f"BERTScore: num_layers={num_layers} is too many for {folder}, which has {total}")
    model = pretrained(AutoModel, folder, num_hidden_layers=num_layers)
    return model.get_encoder() if model.config.is_encoder_decoder else model


def read_baseline(*, model: str, num_layers: int) -> list[float] | None:
    """Read precision, recall and F1 of random English sentence pairs from the tables of bert-score.

    Returns:
        Three numbers, or None where the package has no table for the model or no row for the layer.
    """
    package = importlib.util.find_spec("bert_score")  # found, not imported: that would take seconds
    if package is None or package.origin is None or Path(model).is_absolute() or ".." in model:
        return None
    table = Path(package.origin).parent / "rescale_baseline" / "en" / f"{model}.tsv"
    if not table.is_file():
        return None
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["LAYER"]) == num_layers:
                return [float(row["P"]), float(row["R"]), float(row["F"])]
    return None


def _match(predicted: list[_Encoding], expected: list[_Encoding], lengths: tuple[int, int]) -> "torch.Tensor":
    """Match tokens with their most similar counterparts: precision, recall and F1, [N, 3]."""
    import torch

    p, p_weights, p_padding = _padded(predicted, lengths[0])
    r, r_weights, r_padding = _padded(expected, lengths[1])
    similarity = torch.bmm(p, r.transpose(1, 2))  # [N, Lp, Lr]
    best_for_p = similarity.masked_fill(r_padding.unsqueeze(1), -torch.inf).amax(dim=2)  # [N, Lp]
    best_for_r = similarity.masked_fill(p_padding.unsqueeze(2), -torch.inf).amax(dim=1)  # [N, Lr]
    precision = (best_for_p * p_weights).sum(dim=1)
    recall = (best_for_r * r_weights).sum(dim=1)
    f1 = torch.nan_to_num(2 * precision * recall / (precision + recall), nan=0.0, posinf=0.0, neginf=0.0)
    scores = torch.stack([precision, recall, f1], dim=1)
    empty = (p_weights.sum(dim=1) == 0) | (r_weights.sum(dim=1) == 0)
    return scores.masked_fill(empty.unsqueeze(1), 0.0)


def _padded(encodings: list[_Encoding], length: int) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Return tokens [N, L, D], weights [N, L] and the mask of what is padding [N, L]."""
    import torch

    tokens = torch.zeros(len(encodings), length, encodings[0].tokens.shape[1])
    weights = torch.zeros(len(encodings), length)
    padding = torch.ones(len(encodings), length, dtype=torch.bool)
    for i, encoding in enumerate(encodings):
        size = len(encoding.weights)
        tokens[i, :size], weights[i, :size], padding[i, :size] = encoding.tokens, encoding.weights, False
    return tokens, weights, padding
