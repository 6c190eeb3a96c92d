"""Properties of the text metrics over generated strings of any script."""

import pytest

from grpo_mmpc.metrics import text

pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

METRICS = [text.bleu, text.chrf, text.rouge_l, text.token_f1, text.jaccard]
ANY = st.text(max_size=60)
WORDS = st.lists(
    st.sampled_from(["red", "blue", "tote", "bag", "mug", "pack", "of", "2", ",", "."]), min_size=1, max_size=12
).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(prediction=ANY | WORDS, reference=ANY | WORDS)
def test_scores_lie_between_zero_and_one_and_repeat(prediction: str, reference: str) -> None:
    for metric in METRICS:
        score = metric(prediction=prediction, reference=reference)
        assert 0.0 <= score <= 1.0 + 1e-12
        assert metric(prediction=prediction, reference=reference) == score


@settings(max_examples=60, deadline=None)
@given(title=WORDS.filter(lambda title: any(word.isalpha() for word in title.split())))
def test_a_title_matches_itself_perfectly(title: str) -> None:
    for metric in METRICS:
        assert metric(prediction=title, reference=title) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(prediction=ANY | WORDS, reference=ANY | WORDS)
def test_overlap_of_sets_and_bags_is_symmetric(prediction: str, reference: str) -> None:
    for metric in (text.token_f1, text.jaccard, text.rouge_l):
        assert metric(prediction=prediction, reference=reference) == metric(prediction=reference, reference=prediction)


@settings(max_examples=60, deadline=None)
@given(reference=WORDS, kept=st.integers(min_value=0, max_value=12))
def test_bleu_of_a_truncated_title_falls_with_every_token_lost(reference: str, kept: int) -> None:
    tokens = reference.split()
    shorter, longer = " ".join(tokens[:kept]), " ".join(tokens[: kept + 1])
    assert (
        text.bleu(prediction=shorter, reference=reference) <= text.bleu(prediction=longer, reference=reference) + 1e-12
    )
