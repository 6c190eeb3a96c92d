"""BertScoreEncoder against the bert-score package, with all-MiniLM-L6-v2."""

import json
from pathlib import Path

import pytest

from grpo_mmpc.encoders.bertscore import (
    KNOWN_LAYERS,
    BertScoreEncoder,
    bertscore_encoder,
    first_layers,
    pick_layers,
    read_baseline,
)
from grpo_mmpc.errors import ScoringError
from grpo_mmpc.utils.cpu_compat import ensure_importable
from grpo_mmpc.utils.model_paths import resolve_model

PAIRS = [
    ("Acme Cotton Tote Bag, Red", "Acme Cotton Tote Bag, Striped Blue, Large, Pack of 2"),
    ("red bag", "red bag"),
    ("Acme Cotton Tote Bag, Red", "Steel Water Bottle 12oz"),
    ("bag", "Acme Cotton Tote Bag, Striped Blue, Large, Pack of 2"),
    ("Café Naïve Größe", "حقيبة قطنية حمراء"),
    ("🎒 红色 bag", "bag [SEP] red"),
    ("!!!", "... ,"),
    ("NaN", "null"),
    ("<b>Red &amp; Blue</b>", "Red & Blue"),
    ("Acme Cotton Tote Bag, Red", "Acme Cotton Tote Bag, Striped Blue, Large, Pack of 2"),
]


@pytest.fixture(scope="module")
def encoder() -> BertScoreEncoder:
    return bertscore_encoder(model="nano:minilm", num_layers=6, device="cpu")


@pytest.fixture(autouse=True, scope="module")
def _importable() -> None:
    ensure_importable()


@pytest.mark.parametrize("num_layers", [6, 3])
def test_equals_bert_score_on_every_pair(num_layers: int) -> None:
    import bert_score

    predictions, references = [p for p, _ in PAIRS], [r for _, r in PAIRS]
    expected = bert_score.score(
        predictions, references, model_type=resolve_model("nano:minilm"), num_layers=num_layers, device="cpu"
    )
    scores = bertscore_encoder(model="nano:minilm", num_layers=num_layers, device="cpu").score(
        predictions=predictions, references=references
    )
    for ours, theirs in zip(scores, expected, strict=True):
        assert ours == pytest.approx(theirs.tolist(), abs=1e-4)


def test_equals_bert_score_where_the_text_is_cut_at_the_model_limit() -> None:
    import bert_score

    expected = bert_score.score(
        ["bag " * 1250], ["a red bag"], model_type=resolve_model("nano:minilm"), num_layers=1, device="cpu"
    )
    scores = BertScoreEncoder(model="nano:minilm", num_layers=1).score(
        predictions=["bag " * 1250], references=["a red bag"]
    )
    assert [column[0] for column in scores] == pytest.approx([column.item() for column in expected], abs=1e-4)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a RoBERTa, the architecture of the default model, with random weights."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    folder = tmp_path_factory.mktemp("roberta")
    bpe = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(["Acme red cotton tote bag, large, pack of 2"] * 9, vocab_size=400, special_tokens=specials)
    bpe.save_model(str(folder))
    tokenizer = RobertaTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=512
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    RobertaModel(RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=514, **shape)).save_pretrained(folder)
    return str(folder)


def test_equals_bert_score_on_the_architecture_of_the_default_model(roberta: str) -> None:
    import bert_score

    predictions = ["red bag", "Acme tote bag, large " * 300, "Café 🎒"]
    references = ["Acme red cotton bag", "red cotton bag", "cafe bag"]
    expected = bert_score.score(predictions, references, model_type=roberta, num_layers=2, device="cpu")
    scores = BertScoreEncoder(model=roberta, num_layers=2).score(predictions=predictions, references=references)
    for ours, theirs in zip(scores, expected, strict=True):
        assert ours == pytest.approx(theirs.tolist(), abs=1e-4)


def test_texts_tokenised_together_get_the_ids_that_bert_score_gives_them_alone(roberta: str) -> None:
    from bert_score.utils import sent_encode

    texts = [*dict.fromkeys(text for pair in PAIRS for text in pair), "  padded \n", "bag " * 1250]
    for encoder in (BertScoreEncoder(model="nano:minilm", num_layers=1), BertScoreEncoder(model=roberta, num_layers=1)):
        assert encoder._tokenize(texts) == [sent_encode(encoder._tokenizer, text) for text in texts]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_close_and_hands_out_single_precision(encoder: BertScoreEncoder, dtype: str) -> None:
    import torch

    half = BertScoreEncoder(model="nano:minilm", num_layers=6, dtype=dtype)
    assert half._model.dtype == getattr(torch, dtype)
    predictions, references = [p for p, _ in PAIRS], [r for _, r in PAIRS]
    expected = encoder.score(predictions=predictions, references=references).f1
    assert half.score(predictions=predictions, references=references).f1 == pytest.approx(expected, abs=0.02)
    assert half._texts.of(["a bag"])["a bag"].tokens.dtype == torch.float32


def test_precision_is_part_of_the_configuration_and_checked() -> None:
    options = {"model": "nano:minilm", "num_layers": 1, "device": "cpu"}
    assert bertscore_encoder(**options, dtype="bfloat16") is not bertscore_encoder(**options)
    with pytest.raises(ScoringError, match="dtype must be one of float32, bfloat16, float16, found 'fp16'"):
        bertscore_encoder(**options, dtype="fp16")


def test_a_score_does_not_depend_on_the_pairs_beside_it(encoder: BertScoreEncoder) -> None:
    together = encoder.score(predictions=[p for p, _ in PAIRS], references=[r for _, r in PAIRS])
    fresh = BertScoreEncoder(model="nano:minilm", num_layers=6)
    alone = [fresh.score(predictions=[p], references=[r]).f1[0] for p, r in PAIRS]
    assert together.f1 == pytest.approx(alone, abs=1e-5)


def test_precision_and_recall_are_not_swapped(encoder: BertScoreEncoder) -> None:
    # every word of the prediction is in the reference, but not the other way round
    scores = encoder.score(predictions=["tote bag"], references=["red tote bag with two long leather handles"])
    assert scores.precision[0] > scores.recall[0]


def test_a_text_without_tokens_scores_zero(encoder: BertScoreEncoder) -> None:
    scores = encoder.score(predictions=["", " \n", "red bag", "\u200b"], references=["red", "red", "", "red"])
    assert scores.precision == scores.recall == scores.f1 == [0.0] * 4


def test_no_pairs_no_scores(encoder: BertScoreEncoder) -> None:
    assert encoder.score(predictions=[], references=[]).f1 == []


def test_a_text_is_encoded_once_however_often_it_comes_back() -> None:
    encoder = BertScoreEncoder(model="nano:minilm", num_layers=2)
    encoder.score(predictions=["a bag", "a bag", "a red bag"], references=["red bag"] * 3)
    assert encoder.encoded_texts == 3
    encoder.score(predictions=["a blue bag", "red bag"], references=["red bag", "a bag"])  # only one text is new
    assert encoder.encoded_texts == 4


def test_a_configuration_is_loaded_once_per_process(encoder: BertScoreEncoder) -> None:
    assert bertscore_encoder(model="nano:minilm", device="cpu") is encoder  # 6 layers are the default for it
    assert bertscore_encoder(model="nano:minilm", num_layers=3, device="cpu") is not encoder


def test_the_encoder_is_not_trainable_and_in_evaluation_mode(encoder: BertScoreEncoder) -> None:
    assert not encoder._model.training
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())


def test_scores_inside_an_autocast_region_keep_full_precision(encoder: BertScoreEncoder) -> None:
    import torch

    fresh = BertScoreEncoder(model="nano:minilm", num_layers=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fresh.score(predictions=["a red bag"], references=["red tote bag"]).f1
    assert inside == pytest.approx(encoder.score(predictions=["a red bag"], references=["red tote bag"]).f1, abs=1e-6)


def test_known_layers_agree_with_bert_score() -> None:
    from bert_score.utils import model2layers

    for model, layers in KNOWN_LAYERS.items():
        assert model.startswith("nano:") or model2layers[model] == layers
    assert pick_layers(model="bert-base-uncased", num_layers=None) == 9


def test_an_unknown_layer_count_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="set num_layers"):
        pick_layers(model=str(tmp_path), num_layers=None)
    with pytest.raises(ScoringError, match="at least 1"):
        pick_layers(model="roberta-large", num_layers=0)
    with pytest.raises(ScoringError, match="too many"):
        BertScoreEncoder(model="nano:minilm", num_layers=7)


def test_baselines_are_those_of_bert_score() -> None:
    # roberta-large.tsv, row "17,0.83140427,0.8314..,0.8312.."
    baseline = read_baseline(model="roberta-large", num_layers=17)
    assert baseline is not None
    assert baseline == pytest.approx([0.8315, 0.8315, 0.8312], abs=5e-4)
    assert read_baseline(model="nano:minilm", num_layers=6) is None
    assert read_baseline(model="roberta-large", num_layers=99) is None


def test_rescaling_maps_the_baseline_to_zero(encoder: BertScoreEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encoder.score(predictions=["a red bag"], references=["red tote bag"])
    monkeypatch.setattr(encoder, "_baseline", [0.5, 0.25, raw.f1[0]])
    rescaled = encoder.score(predictions=["a red bag"], references=["red tote bag"], rescale_with_baseline=True)
    assert rescaled.precision[0] == pytest.approx((raw.precision[0] - 0.5) / 0.5)
    assert rescaled.recall[0] == pytest.approx((raw.recall[0] - 0.25) / 0.75)
    assert rescaled.f1[0] == pytest.approx(0.0, abs=1e-6)


def test_rescaling_without_a_baseline_is_refused(encoder: BertScoreEncoder) -> None:
    assert not encoder.has_baseline
    with pytest.raises(ScoringError, match="no baseline"):
        encoder.score(predictions=["a"], references=["b"], rescale_with_baseline=True)


def test_an_absent_model_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ScoringError, match="download it"):
        BertScoreEncoder(model=str(tmp_path), num_layers=2)


def test_a_folder_is_no_t5_because_of_its_name(tmp_path: Path, encoder: BertScoreEncoder) -> None:
    folder = tmp_path / "at5models"  # bert-score would load a T5 with random weights
    folder.symlink_to(resolve_model("nano:minilm"), target_is_directory=True)
    pair = {"predictions": ["red bag"], "references": ["blue bag"]}
    assert BertScoreEncoder(model=str(folder), num_layers=6).score(**pair) == encoder.score(**pair)


SMALL = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
ENCODERS = {
    "bert": SMALL,
    "roberta": SMALL | {"max_position_embeddings": 40},
    "deberta-v2": SMALL,
    "albert": SMALL | {"embedding_size": 8},
    "distilbert": {"vocab_size": 50, "dim": 8, "hidden_dim": 8, "n_layers": 3, "n_heads": 2},
    "xlnet": {"vocab_size": 50, "d_model": 8, "n_layer": 3, "n_head": 2, "d_inner": 8},
    "xlm": {"vocab_size": 50, "emb_dim": 8, "n_layers": 3, "n_heads": 2, "n_langs": 1},
    "bart": {
        **{"vocab_size": 50, "d_model": 8, "encoder_layers": 3, "decoder_layers": 1, "encoder_ffn_dim": 8},
        **{"decoder_ffn_dim": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    },
    "t5": {"vocab_size": 50, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 3, "num_heads": 2},
}


@pytest.mark.parametrize("family", ENCODERS)
def test_layers_are_cut_where_bert_score_cuts_them(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from bert_score.utils import get_model
    from transformers import AutoConfig, AutoModel

    monkeypatch.chdir(tmp_path)  # "t5" in an absolute path is what bert-score takes for a T5
    folder = family
    AutoModel.from_config(AutoConfig.for_model(family, **ENCODERS[family])).save_pretrained(folder)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    for num_layers in (1, 2, 3):
        with torch.no_grad():
            ours, theirs = (
                model.eval()(ids, attention_mask=torch.ones_like(ids))[0]
                for model in (
                    first_layers(folder, num_layers),
                    get_model(folder, num_layers),
                )
            )
        assert torch.equal(ours, theirs)
    with pytest.raises(ScoringError, match=r"num_layers=4 is too many for \S+, which has 3"):
        first_layers(folder, 4)


def test_uneven_lists_are_refused(encoder: BertScoreEncoder) -> None:
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        encoder.score(predictions=["a"], references=["a", "b"])
