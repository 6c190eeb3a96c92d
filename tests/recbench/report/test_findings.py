"""Sentences on one group: nothing is claimed that its numbers do not support."""

import copy

import pytest

from grpo_mmpc.recbench.report.findings import completion_findings
from grpo_mmpc.recbench.report.findings import findings as typed_findings
from grpo_mmpc.reports.common.findings import texts
from grpo_mmpc.reports.common.labels import MINUS
from tests.recbench.report.fake_results import changed, method, with_second


def findings(group):
    """The sentences alone."""
    return texts(typed_findings(group))


def findings_after(change):
    [group] = changed(change)["groups"]
    return findings(group)


def said_of_completion(*, difference, verdict, recovery, reference="zeros"):
    """The first sentence."""

    def change(group, lead):
        lead["reference"] = reference
        lead["methods"]["completed:mine"] = method(
            0.2 + difference, difference=difference, verdict=verdict, recovery=recovery
        )

    return findings_after(change)[0]


def test_completions_come_first_with_verdict_interval_and_recovery():
    assert findings_after(lambda group, lead: None)[0] == (
        "Completed by mine: Recall@20 0.300, better than “zeros” (+0.100, 95% interval +0.090 to +0.110, corrected p "
        "0.004); "
        "it recovers 50% (95% interval 30% to 70%) of the distance from “zeros” to the true titles."
    )


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("zeros", "zeros"),
        ("drop_modality", "no titles at all"),
        ("id_only", "no features at all"),
        ("mean", "mean"),
        ("random_matched", "random, same mean and spread"),
        ("completed:other", "completed by other"),
    ],
)
@pytest.mark.parametrize(
    ("recovery", "words"),
    [(0.5, "it recovers 50% (95% interval 30% to 70%)"), (-0.5, "nothing shows that it recovers any")],
)
def test_recovery_is_a_share_of_the_distance_from_whatever_the_reference_is(reference, name, recovery, words):
    sentence = said_of_completion(difference=0.1, verdict="no evidence", recovery=recovery, reference=reference)
    assert sentence.endswith(f"; {words} of the distance from “{name}” to the true titles.")


def test_compared_with_the_true_titles_nothing_is_said_to_be_recovered():
    sentence = said_of_completion(difference=-0.1, verdict="worse", recovery=None, reference="no_missing")
    assert "worse than “true titles (ceiling)” (" in sentence and "recovers" not in sentence


@pytest.mark.parametrize("recovery", [-0.25, None])
def test_completions_worse_than_zeros_lose_to_leaving_the_gaps_and_recover_nothing(recovery):
    assert said_of_completion(difference=-0.05, verdict="worse", recovery=recovery) == (
        f"Completed by mine: Recall@20 0.150, worse than “zeros” ({MINUS}0.050, 95% interval {MINUS}0.060 to "
        f"{MINUS}0.040, corrected p 0.004); it loses to leaving the gaps as zeros."
    )


def test_only_zeros_are_called_gaps_that_are_left_as_zeros():
    sentence = said_of_completion(difference=-0.05, verdict="worse", recovery=-0.25, reference="id_only")
    assert "worse than “no features at all” (" in sentence and sentence.endswith("p 0.004).")


def test_where_true_titles_do_not_help_the_reader_is_told_that_nothing_can_follow():
    def change(group, lead):
        lead["methods"]["no_missing"] |= {"verdict": "no evidence"}
        lead["methods"]["completed:mine"] |= {"recovery": None}

    text = " ".join(findings_after(change))
    assert "no evidence of a difference to “zeros”" in text
    assert "where titles themselves do not help, no completion of them can be shown to" in text


def test_with_too_few_users_nothing_is_said_of_whether_titles_help():
    def change(group, lead):
        for name in ("no_missing", "completed:mine", "id_only"):
            lead["methods"][name] |= {"verdict": "too few users", "difference_ci95": None, "p_holm": None}
            lead["methods"][name] |= {"recovery": None, "recovery_ci95": None}

    assert findings_after(change)[:2] == [
        "Completed by mine: Recall@20 0.300, +0.100 to “zeros”, but too few users to say whether that is chance.",
        "The true titles: Recall@20 0.400, +0.200 to “zeros”, but too few users to say whether that is chance; whether "
        "titles "
        "themselves help cannot be told, and recovery is not given.",
    ]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (with_second(), "better (+0.020, 95% interval +0.010 to +0.030, corrected p 0.004)."),
        (
            with_second(difference=-0.02, verdict="worse"),
            f"worse ({MINUS}0.020, 95% interval {MINUS}0.030 to {MINUS}0.010, corrected p 0.004).",
        ),
        (
            with_second(verdict="no evidence", difference_ci95=[-0.01, 0.05], p_holm=0.3),
            f"no evidence of a difference (+0.020, 95% interval {MINUS}0.010 to +0.050, corrected p 0.300).",
        ),
        (
            with_second(verdict="too few users", difference_ci95=None, p_holm=None),
            "+0.020, but too few users to say whether that is chance.",
        ),
        (
            with_second(verdict="too few changed", p_holm=0.001),
            "+0.020, but for too few users anything changed to say whether that is chance.",
        ),
        (
            with_second(difference=0.0, verdict="same", difference_ci95=None, p_holm=None),
            "the same, recommenders get exactly the same features.",
        ),
    ],
)
def test_that_one_completion_is_worth_more_than_the_first_is_said_before_anything_else(found, said):
    first, second, *_ = findings(found["groups"][0])
    assert first == f"Completed by theirs against completed by mine, Recall@20: {said}"
    assert second.startswith(("Completed by theirs: Recall@20", "Completed by mine: Recall@20"))


def test_with_the_first_completion_as_the_reference_nothing_is_said_twice():
    [group] = with_second()["groups"]
    group["metrics"]["recall@20"]["reference"] = "completed:mine"
    assert not any(" against " in sentence for sentence in findings(group))


def test_results_of_an_earlier_version_are_read():
    [group] = with_second()["groups"]
    for name in ("first_completion", "against_first_completion"):
        del group["metrics"]["recall@20"][name]
    assert findings(group)[0].startswith("Completed by theirs: ")


def test_the_strongest_way_without_a_policy_is_named_unless_there_is_none():
    assert "The strongest way without a policy is “zeros”, Recall@20 0.200." in findings_after(lambda group, lead: None)

    def change(group, lead):
        for name in ("zeros", "id_only"):
            del lead["methods"][name]
        lead["reference"] = "no_missing"
        lead["methods"]["no_missing"] |= {"difference": None, "difference_ci95": None, "verdict": ""}

    [only] = findings_after(change)
    assert only.startswith("Completed by mine: ")


def test_the_reference_under_another_name_is_said_to_be_the_same():
    def change(group, lead):
        nothing = {"same_as": "zeros", "difference_ci95": None, "p_holm": None}
        same = method(0.2, difference=0.0, verdict="same") | nothing
        lead["methods"] |= {"mean": same, "completed:empty": copy.deepcopy(same)}

    sentences = findings_after(change)
    assert "Completed by empty: Recall@20 0.200, the same as “zeros”." in sentences
    assert (
        "“mean” and “completed by empty” are the same as “zeros” here: recommenders get exactly the same features."
        in sentences
    )


def test_methods_categories_and_seeds_that_are_left_out_are_named_last():
    def change(group, lead):
        group["left_out"] = {"mean": "no result for A with seed 0"}
        group["dropped"] = {"Tiny": "5 test users, an interval needs 6"}

    assert findings_after(change)[-2:] == [
        "Mean is left out: no result for A with seed 0.",
        "Tiny is left out: 5 test users, an interval needs 6.",
    ]


def test_a_trained_policy_is_told_against_the_model_before_training_and_against_zeros():
    [group] = with_second()["groups"]
    against, level = completion_findings(group, "completed:theirs")
    assert against.text.startswith("Completed by theirs against completed by mine, Recall@20: better (+0.020, ")
    assert level.text.startswith("Completed by theirs: Recall@20 0.320, better than “zeros” (")


@pytest.mark.parametrize(
    ("verdict", "mark"),
    [
        ("better", "▲"),
        ("worse", "▼"),
        ("no evidence", "·"),
        ("too few users", "?"),
        ("too few changed", "?"),
        ("same", "-"),
    ],
)
def test_a_sentence_has_the_mark_of_its_verdict(verdict, mark):
    assert typed_findings(with_second(verdict=verdict)["groups"][0])[0].mark == mark


def test_a_completion_that_others_are_compared_with_has_a_level_and_no_verdict():
    def change(group, lead):
        lead["reference"] = "completed:mine"
        lead["methods"]["completed:mine"] |= {"difference": None, "verdict": "", "recovery": None}

    [group] = changed(change)["groups"]
    assert texts(completion_findings(group, "completed:mine")) == ["Completed by mine: Recall@20 0.300, the reference."]


def test_a_completion_without_a_result_says_why_if_that_is_known():
    [group] = changed(lambda group, lead: group.update(failures={"completed:x": "A, seed 0: out of memory"}))["groups"]
    assert texts(completion_findings(group, "completed:x")) == ["No result: A, seed 0: out of memory."]
    assert completion_findings(group, "completed:y") == []
