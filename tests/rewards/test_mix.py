import math
from pathlib import Path

import pytest

from grpo_mmpc.config import RewardSpec
from grpo_mmpc.errors import RewardError
from grpo_mmpc.rewards import LoadedReward, RewardMix, check_mix, load_factory, registered_rewards
from grpo_mmpc.tasks import IMAGE_TO_TEXT, TASKS, TEXT_TO_IMAGE
from grpo_mmpc.utils.distributed import Ranks
from tests.shipped_rewards.conftest import REQUIRED

OWN = Path(__file__).parent / "own_rewards.py"


def batch(titles: list[str | None], *, tasks: list[str] | None = None, prompt_ids: list[str] | None = None) -> dict:
    """Completions of one prompt (unless told otherwise); None becomes a malformed completion."""
    n = len(titles)
    tasks = tasks or ["image_to_text"] * n
    return {
        "prompts": [[{"role": "user", "content": "p"}]] * n,
        "completions": ["oops" if t is None else TASKS[k].answer(t) for t, k in zip(titles, tasks, strict=True)],
        "completion_ids": [[1]] * n,
        "task": tasks,
        "prompt_id": prompt_ids or ["p"] * n,
        "item_id": ["i"] * n,
        "category": ["c"] * n,
        "reference": ["red kettle"] * n,
        "image_path": [None] * n,
        "shelf": [f"shelf {i}" for i in range(n)],
        "trainer_state": object(),
    }


def loaded(name: str, fn, *, weight: float = 1.0, tasks=tuple(TASKS), worst: float = 0.0, **spec) -> LoadedReward:
    return LoadedReward(
        name=name,
        weight=weight,
        fn=fn,
        tasks=tasks,
        worst_score=worst,
        spec=RewardSpec(name=name, weight=weight, **spec),
    )


def lengths(*, predictions, **_):
    return [float(len(p)) for p in predictions]


def unscored_if_x(*, predictions, **_):
    return [None if p == "x" else float(len(p)) for p in predictions]


def call(mix: RewardMix, data: dict) -> list[list[float | None]]:
    return [function(**data) for function in mix.functions]


def test_weights_are_bound_to_functions_by_name_whatever_the_order():
    rewards = [loaded("a", lengths, weight=0.3), loaded("b", lengths, weight=0.0), loaded("c", lengths, weight=0.7)]
    for order in (rewards, rewards[::-1]):
        mix = RewardMix(order)
        bound = {f.__name__: w for f, w in zip(mix.functions, mix.weights.values(), strict=True)}
        assert bound == {"a": 0.3, "b": 0.0, "c": 0.7}


def test_a_reward_sees_keyword_lists_of_well_formed_completions_only():
    seen = {}

    def spy(**kwargs):
        seen.update(kwargs)
        return [1.0] * len(kwargs["predictions"])

    mix = RewardMix([loaded("spy", spy)])
    assert call(mix, batch(["red", None, "blue"])) == [[1.0, 0.0, 1.0]]
    assert seen["predictions"] == ["red", "blue"]
    assert seen["completions"] == ['{"title": "red"}', '{"title": "blue"}']
    assert seen["shelf"] == ["shelf 0", "shelf 2"]  # further catalogue columns arrive under their own name
    assert seen["references"] == ["red kettle"] * 2
    assert "trainer_state" not in seen


def test_a_malformed_completion_gets_the_rewards_own_worst_score():
    mix = RewardMix([loaded("a", lengths, worst=-1.0)])
    assert call(mix, batch(["red", None])) == [[3.0, -1.0]]


def test_a_reward_scores_only_completions_of_its_tasks():
    mix = RewardMix([loaded("a", lengths, tasks=("text_to_image",)), loaded("b", lengths)])
    data = batch(["red", "blue"], tasks=["image_to_text", "text_to_image"], prompt_ids=["p", "q"])
    assert call(mix, data) == [[None, 4.0], [3.0, 4.0]]


def test_partial_none_in_a_group_becomes_the_mean_of_the_scored_so_that_it_is_no_penalty():
    mix = RewardMix([loaded("a", unscored_if_x), loaded("b", lengths)])
    # a scores 3 and 5, the unscored completion gets (3 + 5) / 2 = 4: no advantage either way.
    a, b = call(mix, batch(["red", "x", "green"]))
    assert a == [3.0, 4.0, 5.0]
    assert b == [3.0, 1.0, 5.0]
    assert mix.score(**batch(["red", "x", "green"])).raw["a"] == [3.0, None, 5.0]  # the record keeps the truth


def test_means_are_taken_within_the_prompts_group():
    mix = RewardMix([loaded("a", unscored_if_x), loaded("b", lengths)])
    a, _ = call(mix, batch(["red", "x", "x", "blues"], prompt_ids=["p", "p", "q", "q"]))
    assert a == [3.0, 3.0, 5.0, 5.0]


def test_a_group_spread_over_ranks_uses_the_other_ranks_scores():
    other_rank = [("p", 9.0, 1.0)]
    ranks = Ranks(count=2, gather=lambda items: items + other_rank)
    mix = RewardMix([loaded("a", unscored_if_x), loaded("b", lengths)], ranks=ranks)
    a, _ = call(mix, batch(["red", "x"]))
    assert a == [3.0, 6.0]  # (3 + 9) / 2


def test_a_completion_that_no_trained_reward_scores_is_none_for_trl_even_if_a_monitor_scores_it():
    mix = RewardMix([loaded("a", unscored_if_x), loaded("monitor", lengths, weight=0.0)])
    a, monitor = call(mix, batch(["red", "x"]))
    assert a == [3.0, None]
    assert monitor == [3.0, None]
    assert mix.score(**batch(["red", "x"])).raw["monitor"] == [3.0, 1.0]


def test_all_rewards_of_a_batch_are_computed_once_and_a_new_batch_is_not_served_stale_values():
    calls = []

    def counting(*, predictions, **_):
        calls.append(list(predictions))
        return [float(len(p)) for p in predictions]

    mix = RewardMix([loaded("a", counting), loaded("b", lengths)])
    assert call(mix, batch(["red"])) == [[3.0], [3.0]]
    assert call(mix, batch(["green"])) == [[5.0], [5.0]]
    assert calls == [["red"], ["green"]]


def bad_length(*, predictions, **_):
    return [1.0]


def infinite(*, predictions, **_):
    return [math.inf] * len(predictions)


def words(*, predictions, **_):
    return ["high"] * len(predictions)


def text(**_):
    return "12"


def raising(**_):
    raise KeyError("brand")


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (bad_length, "returned 1 scores for 2 completions"),
        (infinite, "returned inf at position 0"),
        (words, "returned 'high' at position 0"),
        (text, "returned str"),
        (raising, "KeyError: 'brand'"),
    ],
)
def test_a_broken_reward_stops_the_run_and_is_named_or_its_completions_are_unscored_and_counted(fn, message):
    data = batch(["red", "blue"])
    with pytest.raises(RewardError, match="'broken' failed on 2 completions") as caught:
        call(RewardMix([loaded("broken", fn)]), data)
    assert message in str(caught.value)

    mix = RewardMix([loaded("broken", fn), loaded("ok", lengths)], on_error="unscored")
    assert call(mix, data) == [[None, None], [3.0, 4.0]]
    assert mix.errors == {"broken": 2}


def test_nan_is_a_failure_of_that_completion_alone():
    def sometimes_nan(*, predictions, **_):
        return [math.nan if p == "x" else None if p == "y" else 2.0 for p in predictions]

    with pytest.raises(RewardError, match="'a' failed on 1 completions: returned nan at position 0"):
        RewardMix([loaded("a", sometimes_nan)]).score(**batch(["x", "y", "red"]))
    mix = RewardMix([loaded("a", sometimes_nan)], on_error="unscored")
    assert mix.score(**batch(["x", "y", "red"])).raw["a"] == [None, None, 2.0]
    assert mix.errors == {"a": 1}


def test_shares_means_and_times_are_logged_raw_and_weighted_apart():
    metrics, extra = {}, {}
    mix = RewardMix([loaded("a", unscored_if_x, weight=0.5), loaded("b", lengths, weight=0.0)])
    data = batch(["red", "x", None, "blue"])
    data |= {"log_metric": metrics.__setitem__, "log_extra": extra.__setitem__}
    call(mix, data)
    times = {key: metrics.pop(key) for key in list(metrics) if key.startswith("reward_time/")}
    assert set(times) == {"reward_time/wait", "reward_time/a", "reward_time/b"}
    assert 0 <= times["reward_time/a"] <= times["reward_time/wait"] < 5
    assert metrics == pytest.approx(
        {
            "malformed_share": 0.25,
            "rewards/a/unscored_share": 1 / 3,  # of the three that are valid answers
            "rewards/a/failed_share": 0.0,
            "rewards/a/raw_mean": 7 / 3,  # 3, 0, 4
            "rewards/a/weighted_mean": 0.5 * 7 / 3,
            "rewards/b/unscored_share": 0.0,
            "rewards/b/failed_share": 0.0,
            "rewards/b/raw_mean": 2.0,  # 3, 1, 0, 4
            "rewards/b/weighted_mean": 0.0,
        }
    )
    assert extra["raw/a"] == [3.0, None, 0.0, 4.0]
    assert extra["format"] == ["json", "json", "malformed", "json"]
    assert extra["prediction"] == ["red", "x", None, "blue"]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([], "a positive weight, or nothing is learnt; found no reward at all"),
        ([loaded("a", lengths, weight=0.0)], "a positive weight, or nothing is learnt; found a"),
        ([loaded("a", lengths), loaded("b", lengths), loaded("a", lengths)], "'a' appears twice"),
    ],
)
def test_a_mix_that_cannot_train_is_refused_when_it_is_built(rewards, message):
    with pytest.raises(RewardError, match=message):
        RewardMix(rewards)


def check(*specs: dict, tasks=("image_to_text",)) -> list[str]:
    return [f"{key}: {message}" for key, message in check_mix([RewardSpec(**spec) for spec in specs], tasks)]


def test_every_installed_reward_is_found_and_builds_with_what_has_no_default():
    names = registered_rewards()
    assert {"bleu", "bertscore", "clip_similarity", "json_format"} <= set(names)
    for name in names:
        spec = {"name": name, "weight": 1.0, "kwargs": REQUIRED.get(name, {})}
        (reward,) = RewardMix.from_specs([RewardSpec(**spec)]).rewards
        assert check(spec, tasks=reward.tasks) == []


def test_an_unknown_name_lists_the_nearest():
    (problem,) = check({"name": "blue", "weight": 1.0})
    assert "rewards.mix.0.name: unknown reward 'blue'; did you mean 'bleu'?" in problem


def test_a_reward_from_a_file_is_loaded_with_its_kwargs():
    assert check({"name": f"{OWN}:brand_match", "weight": 1.0, "kwargs": {"strict": True}}) == []
    mix = RewardMix.from_specs([RewardSpec(name=f"{OWN}:brand_match", weight=1.0, kwargs={"brand": "Acme"})])
    assert call(mix, batch(["Acme kettle", "kettle"])) == [[1.0, 0.0]]
    assert mix.rewards[0].name == "brand_match"


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (f"{OWN}:nope", {}, "has no function 'nope'; known: brand_match"),
        ("no_such_file.py:f", {}, "no such file no_such_file.py"),
        ("no_such_module_x:f", {}, "importing no_such_module_x failed"),
        (f"{OWN}:brand_match", {"strct": True}, "did you mean 'strict'?"),
        (f"{OWN}:brand_match", {"brand": ""}, "refuses its kwargs"),
    ],
)
def test_a_reward_that_cannot_be_built_is_explained(name, kwargs, message):
    (problem,) = check({"name": name, "weight": 1.0, "kwargs": kwargs})
    assert message in problem


def test_a_syntax_error_in_a_reward_file_names_file_and_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def f():\n    return (\n")
    with pytest.raises(RewardError, match=r"mine\.py, line 2"):
        load_factory(f"{path}:f")


def test_two_rewards_of_one_name_a_foreign_task_and_an_untrained_task_are_all_reported():
    found = check(
        {"name": f"{OWN}:brand_match", "weight": 1.0, "tasks": ["text_to_image"]},
        {"name": f"{OWN}:brand_match", "weight": 0.0},
    )
    assert len(found) == 3
    assert any("appears twice" in p for p in found)
    assert any("the run trains image_to_text" in p for p in found)
    assert any("no reward with a positive weight scores image_to_text" in p for p in found)


def test_trl_style_message_lists_are_read_as_text():
    data = batch(["red"])
    data["completions"] = [[{"role": "assistant", "content": IMAGE_TO_TEXT.answer("red")}]]
    assert call(RewardMix([loaded("a", lengths)]), data) == [[3.0]]
    data["completions"] = [[{"role": "assistant", "content": [{"type": "text", "text": TEXT_TO_IMAGE.answer("red")}]}]]
    data["task"] = ["text_to_image"]
    assert call(RewardMix([loaded("a", lengths)]), data) == [[3.0]]


@pytest.mark.parametrize("target", ["os:system", "subprocess:run", "shutil:rmtree", "builtins:dict"])
def test_what_is_no_reward_is_never_called(target, tmp_path):
    with pytest.raises(RewardError, match="is not known to be one, and is not called"):
        load_factory(target)
    own = tmp_path / "own.py"
    module, _, name = target.partition(":")
    own.write_text(f"from {module} import {name}\n")
    with pytest.raises(RewardError, match="is not known to be one, and is not called"):
        load_factory(f"{own}:{name}")


def test_a_module_may_hold_a_reward_that_says_so():
    assert callable(load_factory("grpo_mmpc_rewards.text:bleu"))


@pytest.mark.parametrize("value", [1e308, -1e308, 1e13])
def test_a_value_that_float32_cannot_square_is_a_failure_and_not_an_advantage_of_zero(value):
    mix = RewardMix([loaded("huge", lambda *, predictions, **_: [value] * len(predictions))])
    with pytest.raises(RewardError, match=r"at position 0, expected a number from -1e\+12 to 1e\+12 or None"):
        mix.score(**batch(["red"]))
