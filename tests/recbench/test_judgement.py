"""The comparison of fills: users and seeds that count, recovery, verdicts."""

import numpy as np
import pytest

from grpo_mmpc.recbench.common_cells import common_cells
from grpo_mmpc.recbench.judgement import judge, with_verdicts
from grpo_mmpc.recbench.score_table import MIN_USERS
from grpo_mmpc.statistics.crossed import pooled_variance

USERS = 60


def runs_of(levels: dict[str, float], *, seeds=(0, 1, 2), categories=("a", "b"), noise=0.05):
    """Scores around a level, with noise of users and seeds that fills share and of their own."""
    rng = np.random.default_rng(0)
    users = {name: rng.normal(scale=0.2, size=USERS) for name in categories}
    return {
        fill: {
            seed: {name: level + users[name] + rng.normal(scale=noise, size=USERS) for name in categories}
            for seed in seeds
        }
        for fill, level in levels.items()
    }


def strangers(runs):
    """Another user in every row of every category."""
    sizes = {name: len(values) for of in runs.values() for scores in of.values() for name, values in scores.items()}
    return {name: 10_000 * place + np.arange(size) for place, (name, size) in enumerate(sizes.items())}


def judged(runs, **options):
    """Compare fills that fill gaps, are trained apart and share no users, unless options say so."""
    settings = {"metric": "recall@20", "references": ["zeros"], "ceiling": "no_missing", "resamples": 500}
    settings |= {"cells": {fill: object() for fill in runs}, "ways_to_fill": runs, "users": strangers(runs)}
    return judge(runs, common=common_cells(runs, min_users=MIN_USERS), **(settings | options))


def test_a_level_is_the_mean_over_categories_of_the_mean_over_users_and_seeds():
    a, b = [0.0, 1.0] * 3, [1.0] * 12
    found = judged({"zeros": {0: {"a": np.array(a), "b": np.array(b)}}})
    assert found.of("zeros").level.value == pytest.approx((0.5 + 1.0) / 2)
    assert found.num_users == 18


def test_recovery_is_the_share_of_the_way_from_the_reference_to_the_ceiling():
    found = judged(runs_of({"zeros": 0.2, "completed:x": 0.35, "no_missing": 0.4}))
    one = found.of("completed:x")
    gain = one.level.value - found.of("zeros").level.value
    gap = found.of("no_missing").level.value - found.of("zeros").level.value
    assert one.recovery.value == pytest.approx(gain / gap)
    assert one.recovery.interval.low < 0.75 < one.recovery.interval.high
    assert one.recovery.interval.high - one.recovery.interval.low < 0.4


def test_recovery_of_the_reference_is_none_and_of_the_ceiling_would_say_nothing():
    found = judged(runs_of({"zeros": 0.2, "no_missing": 0.4}))
    assert found.of("zeros").recovery is None
    assert found.of("no_missing").recovery is None


def test_where_the_true_values_do_not_help_recovery_is_not_given():
    found = judged(runs_of({"zeros": 0.2, "completed:x": 0.3, "no_missing": 0.2}))
    assert found.of("completed:x").recovery is None


def test_fills_far_apart_get_verdicts_and_equal_ones_do_not():
    levels = {"zeros": 0.2, "better": 0.3, "worse": 0.1, "same": 0.2}
    [found] = with_verdicts([judged(runs_of(levels))])
    assert {one.fill: one.verdict for one in found.fills} == {
        "zeros": "",
        "better": "better",
        "worse": "worse",
        "same": "no evidence",
    }


def test_p_values_are_corrected_for_all_groups_together():
    alone = judged(runs_of({"zeros": 0.2, "other": 0.205}, noise=0.02))
    [once] = with_verdicts([alone])
    twice = with_verdicts([alone, judged(runs_of({"zeros": 0.2, "other": 0.2}))])[0]
    assert once.of("other").p_holm == pytest.approx(once.of("other").difference.p)
    assert twice.of("other").p_holm == pytest.approx(min(1.0, 2 * once.of("other").p_holm))


class TestAQuestionThatSeveralGroupsAsk:
    """Without zeros the reference may be one that no rate changes: rates then repeat a question."""

    def at_rates(self, *, noises, **options):
        shared = runs_of({"id_only": 0.2, "no_missing": 0.205}, noise=0.02)
        cells = {"id_only": 1, "no_missing": 2}
        found = []
        for rate, noise in enumerate(noises):
            runs = shared | runs_of({"mean": 0.2}, noise=noise)
            found.append(judged(runs, references=["id_only"], cells=cells | {"mean": (rate, 3)}, **options))
        return found

    def test_it_counts_once_in_the_correction(self):
        first, second = with_verdicts(self.at_rates(noises=(0.05, 0.05)))
        p = {name: first.of(name).difference.p for name in ("no_missing", "mean")}
        assert p["no_missing"] < p["mean"]
        # The ceiling once, the mean at two rates: three questions, not four.
        assert first.of("no_missing").p_holm == pytest.approx(3 * p["no_missing"])
        assert second.of("no_missing").p_holm == first.of("no_missing").p_holm

    def test_its_largest_p_value_counts(self):
        groups = self.at_rates(noises=(0.02, 0.4))  # a restless third fill makes seeds look restless
        p = [found.of("no_missing").difference.p for found in groups]
        assert p[0] != p[1]
        assert with_verdicts(groups)[0].of("no_missing").p_holm >= min(1.0, max(p))

    def test_another_metric_other_seeds_or_categories_are_another_question(self):
        runs = runs_of({"zeros": 0.2, "other": 0.205}, noise=0.02)
        cells = {"zeros": 1, "other": 2}
        fewer = runs_of({"zeros": 0.2, "other": 0.205}, noise=0.02, seeds=(0, 1))
        groups = [judged(runs, cells=cells), judged(runs, cells=cells, metric="ndcg@20"), judged(fewer, cells=cells)]
        groups += [
            judged({fill: {s: {"a": by["a"]} for s, by in of.items()} for fill, of in runs.items()}, cells=cells)
        ]
        assert len({found.of("other").question for found in groups}) == 4


class TestSkewedChanges:
    def verdicts(self, differences, *, categories=("a",)):
        """Compare on a metric for each column of ``[N, M]``; users are in all categories."""
        groups = []
        for column, change in enumerate(differences.T):
            runs = {
                fill: {seed: dict.fromkeys(categories, values) for seed in range(3)}
                for fill, values in (("zeros", np.zeros(len(change))), ("other", change))
            }
            users = dict.fromkeys(categories, np.arange(len(change)))
            groups.append(judged(runs, metric=str(column), resamples=300, users=users))
        return {found.of("other").verdict for found in with_verdicts(groups)}

    @pytest.mark.parametrize("categories", ["a", "ab"])
    def test_where_few_users_changed_by_much_there_is_no_verdict(self, categories):
        generator = np.random.default_rng(4)
        for _ in range(5):  # t alone has a false verdict in one of six
            changed = generator.random((360, 12)) < 0.1
            differences = (generator.exponential(size=changed.shape) - 1) * changed
            assert self.verdicts(differences, categories=categories) == {"too few changed"}

    def test_changes_of_all_users_are_called_different_no_oftener_than_promised(self):
        generator = np.random.default_rng(5)
        found = [self.verdicts(generator.exponential(size=(40, 12)) - 1) for _ in range(40)]
        # 5 % and two standard errors of 40 draws; t alone has 12 %.
        assert np.mean([bool(one & {"better", "worse"}) for one in found]) <= 0.119

    def test_a_real_difference_is_found(self):
        generator = np.random.default_rng(6)
        assert self.verdicts(generator.exponential(size=(100, 4)), categories="ab") == {"better"}

    def test_completions_are_held_to_it_against_the_first_one_too(self):
        generator = np.random.default_rng(7)
        level = generator.normal(size=360)
        few = np.where(np.arange(360) < 36, generator.exponential(size=360), 0.0)
        scores = {"zeros": level - 1, "first": level, "second": level + few}
        runs = {fill: {seed: {"a": values} for seed in range(3)} for fill, values in scores.items()}
        [found] = with_verdicts([judged(runs, completions=["first", "second"])])
        assert [one.verdict for one in found.against_first] == ["too few changed"]
        assert found.of("second").verdict == "better"


class TestSmallCategories:
    """Categories weigh alike, so the one with the fewest users limits the mean."""

    def test_a_category_of_six_users_beside_a_large_one_gives_no_more_false_findings_than_promised(self):
        # With degrees of freedom counted over all 306 users, and no correction within the category,
        # it is 13 of 100.
        generator, false, repeats = np.random.default_rng(3), 0, 400
        for _ in range(repeats):
            sizes = {"large": 300, "small": 6}
            runs = {
                fill: {0: {name: generator.normal(size=size) for name, size in sizes.items()}}
                for fill in ("zeros", "other")
            }
            false += judged(runs, resamples=150).of("other").difference.p <= 0.05
        # 400 draws: the standard error of 5 % is 1.1 %.
        assert false / repeats <= 0.08

    def test_degrees_of_freedom_are_those_of_a_sum_of_variances(self):
        # Variance of the mean, by category: sample variance over users, by C^2 = 4.
        users = {"a": np.array([0.0, 1.0] * 3), "b": np.array([0.0, 1.0] * 10)}
        luck = {name: values.var(ddof=1) / len(values) / 4 for name, values in users.items()}
        found = judged({"zeros": {0: users}}, resamples=4000).of("zeros").level
        expected = (luck["a"] + luck["b"]) ** 2 / (luck["a"] ** 2 / 5 + luck["b"] ** 2 / 19)
        assert found.se_items == pytest.approx((luck["a"] + luck["b"]) ** 0.5, rel=0.05)
        assert found.degrees == pytest.approx(expected, rel=0.1)
        assert 5 < expected < 12

    def test_where_all_categories_are_small_there_is_a_level_but_nothing_is_tested(self):
        runs = {
            fill: {0: {name: np.full(5, level) + np.arange(5) for name in "abc"}}
            for fill, level in (("zeros", 0.0), ("other", 9.0))
        }
        [found] = with_verdicts([judged(runs)])
        assert found.of("other").difference.value == pytest.approx(9.0)
        assert (found.of("other").difference.interval, found.of("other").verdict) == (None, "too few users")


class TestUsersOfSeveralCategories:
    """People are drawn at random, and a person who is in several categories is one draw."""

    def difference(self, *, liking, users, size=50, seed=0):
        generator = np.random.default_rng(seed)
        alike = generator.normal(size=(2, size))
        runs = {
            fill: {0: {name: alike[row] if liking == "the same" else generator.normal(size=size) for name in "abcd"}}
            for row, fill in enumerate(("zeros", "other"))
        }
        everywhere = dict.fromkeys("abcd", np.arange(size))
        settings = {"users": everywhere} if users == "the same" else {}
        alone = judged({fill: {0: {"a": by[0]["a"]}} for fill, by in runs.items()}, resamples=4000)
        return alone.of("other").difference, judged(runs, resamples=4000, **settings)

    def test_the_same_users_with_the_same_liking_tell_no_more_than_one_category(self):
        alone, found = self.difference(liking="the same", users="the same")
        one = found.of("other").difference
        assert one.se_items == pytest.approx(alone.se_items, rel=0.05)
        assert one.degrees == pytest.approx(49)  # 50 people, not 200
        assert one.interval.high - one.interval.low == pytest.approx(alone.interval.high - alone.interval.low, rel=0.1)
        assert found.num_users == 50

    def test_other_users_in_each_category_tell_the_root_of_their_number_more(self):
        alone, found = self.difference(liking="the same", users="others")
        assert found.of("other").difference.se_items == pytest.approx(alone.se_items / 4**0.5, rel=0.05)
        assert found.of("other").difference.degrees == pytest.approx(4 * 49, rel=0.05)
        assert found.num_users == 200

    def test_liking_that_differs_by_category_averages_out_within_a_user(self):
        _, found = self.difference(liking="others", users="the same", size=400)
        _, strangers_ = self.difference(liking="others", users="others", size=400)
        ratio = found.of("other").difference.se_items / strangers_.of("other").difference.se_items
        assert ratio == pytest.approx(1, rel=0.1)

    def test_half_of_the_users_in_common(self):
        # Two categories of n users, half in both, alike there: variance (2 n + 2 n / 2) / (2 n)^2 =
        # 3 / (4 n), where strangers have 1 / (2 n): 1.5 times as much.
        liking, count = np.random.default_rng(0).normal(size=600), 400
        users = {"a": np.arange(400), "b": np.arange(200, 600)}
        runs = {"zeros": {0: {name: liking[rows] for name, rows in users.items()}}}
        found = judged(runs, users=users, resamples=4000)
        own = [liking[rows].std(ddof=1) for rows in users.values()]
        assert found.of("zeros").level.se_items == pytest.approx((0.75 / count) ** 0.5 * np.mean(own), rel=0.06)
        assert found.num_users == 600

    @pytest.mark.slow
    def test_nine_categories_of_the_same_users_give_no_more_false_findings_than_promised(self):
        # Counted as other users in each it is 46 of 100.
        false, repeats = 0, 300
        for repeat in range(repeats):
            generator = np.random.default_rng([7, repeat])
            alike = generator.normal(size=(2, 40))
            runs = {
                fill: {0: {name: alike[row] + generator.normal(scale=0.1, size=40) for name in "abcdefghi"}}
                for row, fill in enumerate(("zeros", "other"))
            }
            users = dict.fromkeys("abcdefghi", np.arange(40))
            false += judged(runs, users=users, resamples=150).of("other").difference.p <= 0.05
        # 300 draws: the standard error of 5 % is 1.3 %.
        assert false / repeats <= 0.09


COMPLETIONS = ("completed:base", "completed:late", "completed:early")
LEVELS = {"zeros": 0.2, "completed:base": 0.3, "completed:late": 0.35, "completed:early": 0.3, "no_missing": 0.4}


class TestCompletionsAgainstEachOther:
    def found(self, levels=LEVELS, **options):
        options = {"completions": COMPLETIONS} | options
        return with_verdicts([judged(runs_of(levels), **options)])[0]

    def test_each_later_one_is_compared_with_the_first_as_they_were_named(self):
        found = self.found()
        assert found.first_completion == "completed:base"
        assert [(one.fill, one.verdict) for one in found.against_first] == [
            ("completed:late", "better"),
            ("completed:early", "no evidence"),
        ]
        gain = found.of("completed:late").level.value - found.of("completed:base").level.value
        assert found.against_first[0].difference.value == pytest.approx(gain)

    def test_the_difference_is_what_it_would_be_with_the_first_as_the_reference(self):
        other = judged(runs_of(LEVELS), references=["completed:base"]).of("completed:late").difference
        one = self.found().against_first[0].difference
        assert (one.value, one.p, one.degrees) == pytest.approx((other.value, other.p, other.degrees))
        assert tuple(one.interval) == pytest.approx(tuple(other.interval))

    def test_they_are_corrected_with_everything_else(self):
        # Four differences to zeros and two between completions, of which this is the largest
        # p-value but for rounding.
        without, found = self.found(completions=()), self.found()
        p = [one.difference.p for one in (*found.fills, *found.against_first) if one.difference is not None]
        assert len(p) == 6
        assert found.against_first[1].p_holm == pytest.approx(max(p))
        smallest = min((one for one in found.fills if one.difference is not None), key=lambda one: one.difference.p)
        assert smallest.p_holm == pytest.approx(6 * smallest.difference.p)
        assert without.of(smallest.fill).p_holm == pytest.approx(4 * smallest.difference.p)

    def test_with_the_first_as_the_reference_the_question_is_tested_once(self):
        levels = {name: LEVELS[name] for name in COMPLETIONS}
        found = self.found(levels)
        assert found.reference == "completed:base"
        for one in found.against_first:
            assert (one.p_holm, one.verdict) == (found.of(one.fill).p_holm, found.of(one.fill).verdict)
        assert max(one.p_holm / one.difference.p for one in found.against_first) == pytest.approx(2)

    def test_completions_of_the_same_cells_are_the_same_and_not_tested(self):
        cells = {name: name for name in LEVELS} | {"completed:early": "completed:base"}
        runs = runs_of(LEVELS)
        runs["completed:early"] = runs["completed:base"]
        [found] = with_verdicts([judged(runs, cells=cells, completions=COMPLETIONS)])
        late, early = found.against_first
        assert (early.difference.value, early.p_holm, early.verdict) == (0.0, None, "same")
        assert late.verdict == "better"

    def test_the_first_that_has_results_takes_the_place_of_one_that_is_left_out(self):
        runs = runs_of(LEVELS)
        del runs["completed:base"][0]["a"]
        found = judged(runs, completions=COMPLETIONS)
        assert found.first_completion == "completed:late"
        assert [one.fill for one in found.against_first] == ["completed:early"]

    @pytest.mark.parametrize(("count", "first"), [(0, None), (1, "completed:base")])
    def test_one_alone_or_none_has_nothing_to_be_compared_with(self, count, first):
        found = self.found(completions=COMPLETIONS[:count])
        assert (found.first_completion, found.against_first) == (first, [])


class TestRecovery:
    def test_it_is_given_only_where_the_ceiling_is_called_better_after_correction(self):
        # The ceiling's own interval excludes 0; among 201 comparisons its corrected p-value says no
        # evidence.
        runs = runs_of({"zeros": 0.2, "completed:x": 0.21, "no_missing": 0.23}, noise=0.05)
        one = judged(runs)
        gap = one.of("no_missing").difference
        assert gap.interval.low > 0 and one.of("completed:x").recovery is not None
        nothing = [judged(runs_of({"zeros": 0.2, **{f"m{i}": 0.2 for i in range(20)}})) for _ in range(10)]
        [alone] = with_verdicts([one])
        together = with_verdicts([one, *nothing])[0]
        assert alone.of("no_missing").verdict == "better" and alone.of("completed:x").recovery is not None
        assert together.of("no_missing").verdict == "no evidence" and together.of("completed:x").recovery is None

    def test_it_is_of_ways_to_fill_gaps_alone(self):
        runs = runs_of({"zeros": 0.2, "mean": 0.3, "id_only": 0.3, "most_popular": 0.1, "no_missing": 0.4})
        found = judged(runs, ways_to_fill={"zeros", "mean"})
        assert [one.fill for one in found.fills if one.recovery is not None] == ["mean"]

    def test_luck_of_seeds_is_at_least_what_all_fills_together_tell(self):
        # Seeds move zeros, fill and ceiling by nothing, but two other fills by +-0.1 either way.
        users = np.random.default_rng(0).normal(size=50)
        shifts = {"m1": [0.1, 0.0, -0.1], "m2": [-0.1, 0.0, 0.1]}
        levels = {"zeros": 0.0, "x": 0.6, "no_missing": 1.0, "m1": 0.0, "m2": 0.0}
        runs = {
            fill: {seed: {"a": users + level + shifts.get(fill, [0, 0, 0])[seed]} for seed in range(3)}
            for fill, level in levels.items()
        }
        found = judged(runs)
        means = np.array([[runs[one.fill][seed]["a"].mean() for seed in range(3)] for one in found.fills])
        pooled = pooled_variance(means, num_seeds=3, of_difference=True).variance
        # r = 0.6, c - z = 1: as much as a difference, times 1 - 0.6 + 0.36.
        assert found.of("x").recovery.value == pytest.approx(0.6)
        assert found.of("x").recovery.se_seeds == pytest.approx((pooled * 0.76) ** 0.5)
        assert found.of("x").difference.se_seeds == pytest.approx(pooled**0.5)


class TestTheSameCellsUnderTwoNames:
    def runs(self):
        runs = runs_of({"zeros": 0.2, "no_missing": 0.4, "other": 0.25})
        return runs | {"mean": runs["zeros"], "again": runs["other"]}

    def test_the_reference_under_another_name_is_the_same_and_not_tested(self):
        cells = {"zeros": 1, "mean": 1, "no_missing": 2, "other": 3, "again": 3}
        [found] = with_verdicts([judged(self.runs(), cells=cells)])
        mean = found.of("mean")
        assert (mean.same_as, mean.difference.value, mean.difference.p, mean.verdict) == ("zeros", 0.0, None, "same")
        assert (mean.p_holm, mean.recovery) == (None, None)

    def test_names_of_one_fill_are_tested_once(self):
        cells = {"zeros": 1, "mean": 1, "no_missing": 2, "other": 3, "again": 3}
        [found] = with_verdicts([judged(self.runs(), cells=cells)])
        again, other = found.of("again"), found.of("other")
        assert again.same_as == "other" and again.p_holm == other.p_holm and again.verdict == other.verdict
        # Two were tested, so the larger p-value is as it was, and the smaller twice that.
        p = sorted(found.of(name).difference.p for name in ("other", "no_missing"))
        holm = sorted(found.of(name).p_holm for name in ("other", "no_missing"))
        assert holm == pytest.approx([min(2 * p[0], 1.0), max(2 * p[0], p[1])])

    def test_neither_further_names_nor_floors_make_seeds_look_calmer(self):
        once = {name: self.runs()[name] for name in ("zeros", "no_missing", "other")}
        floor = {seed: {name: np.zeros(USERS) for name in "ab"} for seed in (0, 1, 2)}
        cells = {"zeros": 1, "mean": 1, "no_missing": 2, "other": 3, "again": 3, "most_popular": 4}
        more = judged(self.runs() | {"most_popular": floor}, cells=cells, untrained=["most_popular"])
        for fill in ("other", "no_missing"):
            assert more.of(fill).difference.se_seeds == pytest.approx(judged(once).of(fill).difference.se_seeds)
            assert more.of(fill).level.se_seeds == pytest.approx(judged(once).of(fill).level.se_seeds)
        # A floor is the same under every seed: its own level has no luck of seeds.
        assert more.of("most_popular").level.se_seeds == pytest.approx(0.0)


class TestWhatIsComparedWhenCellsAreMissing:
    def common(self, runs):
        return common_cells(runs, min_users=MIN_USERS)

    def test_a_fill_without_all_cells_is_left_out_and_named(self):
        runs = runs_of({"zeros": 0.2, "mean": 0.2, "half": 0.3})
        del runs["half"][1]["b"]
        assert [one.fill for one in judged(runs).fills] == ["zeros", "mean"]
        assert self.common(runs).left_out == {"half": "no result for b with seed 1"}
        del runs["half"][2]
        assert self.common(runs).left_out == {"half": "no result for 3 of 6 cells, b with seed 1 among them"}

    def test_a_category_that_one_fill_alone_has_is_dropped_not_the_others(self):
        runs = runs_of({"zeros": 0.2, "mean": 0.2, "most_popular": 0.1})
        for fill in ("zeros", "mean"):
            for seed in (0, 1, 2):
                del runs[fill][seed]["b"]
        found = self.common(runs)
        assert found.methods == ["zeros", "mean", "most_popular"] and found.categories == ["a"]
        assert (found.left_out, found.dropped) == ({}, {"b": "too many methods have no result for it"})

    def test_without_the_first_reference_the_next_that_is_left_takes_its_place(self):
        runs = runs_of({"zeros": 0.2, "mean": 0.2, "id_only": 0.1})
        del runs["zeros"][0]["a"]
        assert judged(runs, references=["zeros", "id_only"]).reference == "id_only"
        assert judged(runs, references=["zeros"]).reference == "mean"
        assert self.common(runs).left_out == {"zeros": "no result for a with seed 0"}

    def test_a_hole_that_most_have_costs_the_category_or_seed_with_the_larger_share_of_holes(self):
        runs = runs_of({"zeros": 0.2, "mean": 0.2}, categories=("a", "b", "c", "d"))
        for fill in runs:
            del runs[fill][1]["b"]
        found = self.common(runs)  # one of three seeds of b, one of four categories of seed 1
        assert (found.seeds, found.categories) == ([0, 1, 2], ["a", "c", "d"])
        for fill in runs:
            del runs[fill][1]["c"], runs[fill][1]["d"]
        found = self.common(runs)
        assert (found.seeds, found.categories) == ([0, 2], ["a", "b", "c", "d"])
        assert list(found.dropped) == ["seed 1"]

    def test_when_every_fill_lacks_another_seed_what_any_lacks_is_dropped(self):
        runs = runs_of({"zeros": 0.2, "mean": 0.2, "id_only": 0.2}, seeds=(0, 1, 2, 3))
        for seed, fill in enumerate(runs):
            del runs[fill][seed]
        found = self.common(runs)
        assert found.methods == ["zeros", "mean", "id_only"] and found.seeds == [3]

    def test_a_fill_without_any_result_has_no_say(self):
        runs = runs_of({"zeros": 0.2}) | {"mean": {}, "id_only": {}}
        found = self.common(runs)
        assert found.methods == ["zeros"]
        assert found.left_out == dict.fromkeys(["mean", "id_only"], "no cell of it has a result")

    def test_where_nothing_is_shared_nothing_is_compared_and_every_fill_is_left_out(self):
        runs = runs_of({"zeros": 0.2, "mean": 0.2}, seeds=(0, 1))
        del runs["zeros"][0], runs["mean"][1]
        found = self.common(runs)
        assert (set(found.left_out), found.methods) == ({"zeros", "mean"}, [])

    def test_a_category_with_fewer_than_six_users_is_dropped_with_the_reason(self):
        scores = {"large": np.arange(30.0), "five": np.arange(5.0), "six": np.arange(6.0)}
        found = self.common({"zeros": {0: scores}})
        assert found.categories == ["large", "six"]
        assert found.dropped == {"five": "5 test users, an interval needs 6"}


def test_users_move_the_mean_of_their_category_alone():
    """All users of a category agree: no noise of users is left, however categories differ."""
    scores = {
        fill: {seed: {"a": np.full(USERS, level), "b": np.full(USERS, level + 5)} for seed in (0, 1)}
        for fill, level in (("zeros", 0.0), ("other", 1.0))
    }
    found = judged(scores)
    assert found.of("other").level.se_items == pytest.approx(0.0)
    assert found.of("other").difference.value == pytest.approx(1.0)


def test_pairing_by_user_sees_a_difference_that_levels_alone_would_hide():
    found = judged(runs_of({"zeros": 0.2, "other": 0.22}, noise=0.01))
    one = found.of("other")
    assert one.difference.interval.low > 0
    assert one.level.interval.low < found.of("zeros").level.interval.high
