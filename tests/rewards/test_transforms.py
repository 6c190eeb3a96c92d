import pytest
from pydantic import ValidationError

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.rewards.transforms import RunningMoments, Transformer, group_ranks, weight_at


def transformed(transform, values, groups=None):
    return Transformer(RewardSpec(name="a", weight=1.0, transform=transform))(values, groups or ["p"] * len(values))


def weights(schedule, steps, *, weight=2.0):
    spec = RewardSpec(name="a", weight=weight, schedule=schedule)
    return [weight_at(spec, step) for step in steps]


def test_without_a_transform_values_stay_as_they_are():
    assert transformed(None, [0.2, None, -1.0]) == [0.2, None, -1.0]


def test_clip_cuts_at_both_bounds():
    assert transformed({"kind": "clip", "low": 0.0, "high": 0.5}, [-1.0, 0.25, 2.0, None]) == [0.0, 0.25, 0.5, None]


def test_rescale_maps_the_stated_bounds_to_0_and_1_and_cuts_what_lies_outside():
    bounds = {"kind": "rescale", "low": 0.8, "high": 1.0}
    assert transformed(bounds, [0.8, 0.9, 1.0, 0.3, None]) == pytest.approx([0.0, 0.5, 1.0, 0.0, None])


def test_z_score_uses_all_values_so_far_the_current_batch_included():
    transformer = Transformer(RewardSpec(name="a", weight=1.0, transform="z_score"))
    # 1, 3: mean 2, standard deviation sqrt(2)
    assert transformer([1.0, 3.0, None], ["p"] * 3) == pytest.approx([-(0.5**0.5), 0.5**0.5, None])
    # 1, 3, 5, 7: mean 4, standard deviation sqrt(20 / 3)
    assert transformer([5.0, 7.0], ["p"] * 2) == pytest.approx([1 / (20 / 3) ** 0.5, 3 / (20 / 3) ** 0.5])


def test_z_score_of_equal_values_is_0():
    assert transformed("z_score", [0.3, 0.3]) == [0.0, 0.0]


def test_running_moments_continue_from_a_checkpoint():
    whole, first, second = RunningMoments(), RunningMoments(), RunningMoments()
    whole.update([1.0, 2.0, 4.0, 9.0])
    first.update([1.0, 2.0])
    second.restore(first.state())
    second.update([4.0, 9.0])
    assert second.state() == pytest.approx(whole.state())


def test_group_rank_compares_within_the_prompt_only_and_shares_ties():
    values = [0.1, 0.9, 0.9, 0.5, 7.0, 3.0, None, 2.0]
    groups = ["p", "p", "p", "p", "q", "q", "q", "r"]
    # p: 0.1 < 0.5 < 0.9 = 0.9 -> ranks 0, 1, 2.5, 2.5 of 3; q: two known values; r: nobody to
    # compare with
    assert group_ranks(values, groups) == pytest.approx([0, 2.5 / 3, 2.5 / 3, 1 / 3, 1, 0, None, 0.5])


def test_a_linear_schedule_moves_the_factor_between_two_steps_and_stays_at_its_ends():
    schedule = {"kind": "linear", "start_step": 10, "end_step": 20, "start": 0.5, "end": 1.5}
    assert weights(schedule, [0, 10, 15, 20, 99]) == pytest.approx([1.0, 1.0, 2.0, 3.0, 3.0])


def test_a_step_schedule_takes_the_latest_factor_reached():
    assert weights({"kind": "step", "factors": {5: 0.5, 10: 0.0}}, [0, 4, 5, 9, 10, 50]) == [2, 2, 1, 1, 0, 0]


def test_constant_and_no_schedule_keep_the_weight():
    assert weights("constant", [0, 7]) == weights(None, [0, 7]) == [2.0, 2.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"transform": {"kind": "clip", "low": 1.0, "high": 1.0}},
        {"transform": {"kind": "rescale", "low": 0.0}},
        {"transform": "zscore"},
        {"schedule": {"kind": "linear", "start_step": 5, "end_step": 5}},
        {"schedule": {"kind": "linear", "end_step": 5, "end": -1.0}},
        {"schedule": {"kind": "step", "factors": {}}},
        {"schedule": {"kind": "step", "factors": {-1: 1.0}}},
    ],
)
def test_transforms_and_schedules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        RewardSpec(name="a", weight=1.0, **wrong)
