"""How recommenders, fills, rates and recovery are written."""

from typing import get_args

import pytest

from grpo_mmpc.recbench.recommenders.table import RECOMMENDERS as SPECS
from grpo_mmpc.recbench.report.labels import (
    METHODS,
    MISSING,
    RECOMMENDERS,
    group_title,
    method_label,
    recovery_label,
)
from grpo_mmpc.recbench.settings import FillName, MissingModality
from grpo_mmpc.reports.common.labels import MINUS
from tests.recbench.report.fake_results import method


def test_everything_that_settings_can_name_has_a_label():
    floors = {name for name, spec in SPECS.items() if not spec.uses_features}
    assert METHODS.keys() == {*get_args(FillName)} - {"completed"} | floors
    assert RECOMMENDERS.keys() == {*SPECS} - floors | {""}
    assert MISSING.keys() == {*get_args(MissingModality), ""}


def test_labels_say_what_is_missing_and_completions_keep_their_names():
    assert method_label("drop_modality", what="titles") == "no titles at all"
    assert method_label("completed:qwen", what="titles") == "completed by qwen"


def test_recommenders_without_features_are_a_group_without_a_rate():
    assert group_title({"recommender": "", "missing": "", "rate": 0.0}) == "Recommenders without features"


@pytest.mark.parametrize(("rate", "written"), [(0.07, "7%"), (0.12, "12%"), (0.125, "12.5%"), (1.0, "100%")])
def test_rates_that_differ_have_names_that_differ(rate, written):
    title = group_title({"recommender": "vbpr", "missing": "image", "rate": rate})
    assert title == f"VBPR, {written} of images missing"


@pytest.mark.parametrize(
    ("recovery", "column", "sentence"),
    [
        (0.5, "50% (30% to 70%)", "50% (95% interval 30% to 70%)"),
        (-0.05, f"{MINUS}5% ({MINUS}25% to 15%)", f"{MINUS}5% (95% interval {MINUS}25% to 15%)"),
        (None, "", ""),
    ],
)
def test_recovery_is_written_alike_in_columns_and_in_sentences(recovery, column, sentence):
    found = method(0.3, difference=0.1, verdict="better", recovery=recovery)
    assert recovery_label(found) == column
    assert recovery_label(found, interval="95% interval ") == sentence
    assert recovery_label(found | {"recovery_ci95": None}) == column.partition(" ")[0]
