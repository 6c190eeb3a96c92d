"""What a reader is warned of before the numbers."""

import copy

from grpo_mmpc.recbench.report.cautions import cautions
from tests.recbench.report.fake_results import changed, results

NOT_FILLED = "Completed by mine at 100%: 8 of 10 missing titles filled, the others not (2: malformed completion)."


def test_what_was_left_out_and_what_was_not_filled_are_cautions():
    found = results(excluded_categories={"Tiny": "too small"})
    assert cautions(found) == ["Tiny is left out: too small", NOT_FILLED]


def test_that_nothing_was_filled_is_said_as_that():
    def change(group, lead):
        group["coverage"]["completed:mine"]["text"] |= {"covered": 0, "reasons": {"no item is observed": 10}}

    said = "Completed by mine at 100%: none of 10 missing titles filled (10: no item is observed)."
    assert cautions(changed(change)) == [said]


def test_gaps_that_all_recommenders_are_told_of_are_said_once():
    found = results()
    found["groups"].append(copy.deepcopy(found["groups"][0]) | {"recommender": "bm3"})
    assert cautions(found) == [NOT_FILLED]


def test_paper_mode_is_announced_before_anything_else():
    found = results(mode="paper", excluded_categories={"Tiny": "too small"})
    assert cautions(found)[0].startswith("Paper mode reproduces the official protocol with its flaws")


def test_one_seed_is_a_caution_and_where_not_all_have_one_it_says_which():
    def change(group, lead):
        lead["seeds"] = [0]

    alone = changed(change)
    assert cautions(alone)[0].startswith("There is one seed: how a recommender happens to start moves its result")
    alone["groups"].append(results()["groups"][0] | {"rate": 0.5})
    assert cautions(alone)[0].startswith("There is one seed in VBPR, 100% of titles missing: ")
    assert not any("one seed" in caution for caution in cautions(results()))


def test_cells_of_several_kinds_of_devices_are_a_caution():
    assert not any("ran on" in caution for caution in cautions(results()))
    several = changed(lambda group, lead: group.update(devices=["cpu", "cuda"]))
    assert any(caution.startswith("Recommenders ran on cpu and cuda: ") for caution in cautions(several))


def test_cautions_of_a_run_on_its_own_policy_are_kept():
    assert "It was trained on 3 of these items." in cautions(results(cautions=["It was trained on 3 of these items."]))


def test_failures_are_named_with_their_group():
    failed = changed(lambda group, lead: group.update(failures={"mean": "A, seed 0: out of memory"}))
    assert "Mean, VBPR, 100% of titles missing: A, seed 0: out of memory" in cautions(failed)


def test_where_nothing_can_be_compared_what_methods_lack_is_a_caution():
    def change(group, lead):
        group |= {"metrics": {}, "left_out": {"zeros": "no result for A with seed 0"}}

    assert "VBPR, 100% of titles missing: Zeros is left out: no result for A with seed 0." in cautions(changed(change))
